"""`seglens train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seglens.cli.options import AUTO, AsJson, Device, LoadIn
from seglens.cli.output import print_json, print_left_out, print_stderr

if TYPE_CHECKING:
    from seglens.training.presets import Recipe


def train(
    data: Annotated[str, typer.Option(help="A dataset (world:n=4000,split=train) or a mixture (lisa:root=/data).")],
    out: Annotated[Path, typer.Option(help="Folder for curves, checkpoints and heads; the same command resumes.")],
    method: Annotated[str, typer.Option(help="lens, mllmseg, self1e, lisa or ufo.")] = "lens",
    preset: Annotated[
        str, typer.Option(help="default, quick (of lens), authors, or paper where text and code differ.")
    ] = "default",
    backbone: Annotated[str | None, typer.Option(help="The MLLM: a folder or hub id; default the preset's.")] = None,
    decoder: Annotated[str | None, typer.Option(help="SAM or SAM 2: a folder or hub id; default the preset's.")] = None,
    layer: Annotated[
        int | None, typer.Option(help="The layer whose hidden states are read; default the family's own.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Canvas of an MLLM that takes several sizes (Qwen-VL; tiles).")
    ] = None,
    probe: Annotated[Path | None, typer.Option(help="A probe.json: its MLLM, canvas and layer.")] = None,
    exam: Annotated[str | None, typer.Option(help="Data to validate on: the best head is kept too.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of cached features; default inside OUT.")] = None,
    cache_datasets: Annotated[
        str | None,
        typer.Option(help="Of a mixture: cache these datasets (reasonseg,refcoco) and read the others live."),
    ] = None,
    live: Annotated[bool, typer.Option(help="Run the MLLM at every step instead of caching.")] = False,
    init: Annotated[
        str | None, typer.Option(help="Start from this head's weights: the same method, MLLM and shape.")
    ] = None,
    readers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that read a mixture ahead; default by the cores, 0: a thread."),
    ] = None,
    heads: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|known",
            help="Of lens: learn weights of attention heads that start from these: a file from `seglens probe "
            "--heads`, or 'known', those that the package has for this MLLM. Default: the mean over all heads.",
        ),
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="name=value of the head or the training, such as lr=1e-4.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print steps, hours, memory, disk and readers; load and write nothing.")
    ] = False,
    gpu: Annotated[
        str | None,
        typer.Option(help="With --plan: a GPU that is not here, such as rtx-4090, by its published numbers."),
    ] = None,
    measure: Annotated[bool, typer.Option(help="With --plan: measure this machine, which takes some seconds.")] = True,
    as_json: AsJson = False,
    device: Device = AUTO,
    load_in: LoadIn = None,
) -> None:
    """Train a method for an MLLM that is not changed, on one device or, with torchrun or accelerate launch, on many."""
    from dataclasses import replace

    from seglens.backbones import hide_loading_bars
    from seglens.core.distributed import Ranks
    from seglens.training.launch import first_reports
    from seglens.training.presets import adjusted, starting_from_heads
    from seglens.training.presets import recipe as named
    from seglens.training.setup import prepare
    from seglens.training.trainer import Terminated

    hide_loading_bars()
    ranks = Ranks.here()
    first = ranks.first
    with first_reports(ranks.rank):
        recipe = adjusted(named(preset, method), setting or ())
        if probe is not None:
            backbone, layer, image_size = _probed(probe, backbone, layer, image_size)
        if backbone is not None:
            recipe = replace(recipe, backbone=backbone, layer=None)  # a preset's layer is that of its own MLLM
        if decoder is not None:
            _check_decoder(method, decoder)
        recipe = replace(recipe, decoder=decoder or recipe.decoder, layer=recipe.layer if layer is None else layer)
        recipe = recipe if heads is None else starting_from_heads(recipe, heads)
        if plan and load_in is not None:
            raise ValueError("--plan counts whole weights alone; leave out --load-in: the MLLM then needs less")
        if plan:
            return _print_plan(
                recipe, data, out, cache, live, cache_datasets, image_size, device, gpu, measure, as_json
            )
        if gpu is not None or as_json or not measure:
            raise ValueError("--gpu, --json and --no-measure belong to --plan; add it, or leave them out")
        try:
            run = prepare(
                recipe, data, out, exam, cache, live, device, image_size, init, cache_datasets, readers, load_in
            )
            known = run.left_out()
            if first:
                print_left_out(known)
                for notice in run.notices():
                    print_stderr(f"seglens: {notice}")
                for doubt in recipe.training.doubts():
                    print_stderr(f"warning: {doubt}")
            terms = run.run(out)
            if first and len(all_bad := run.left_out()) > len(known):  # some are found only when they are read live
                print_left_out(all_bad)
        except Terminated as ended:
            if first:
                print_stderr(f"seglens: a signal ended it after step {ended.step}; the same command goes on from there")
            raise
    if first:
        _report(out, recipe.training.steps, terms, len(run.left_out()), exam)
        print(out / "head")


def _check_decoder(method: str, decoder: str) -> None:
    """Raises ValueError for a method that draws its masks without a mask decoder."""
    from seglens.methods import METHODS

    if not METHODS[method].needs_decoder:
        raise ValueError(f"{method} needs no mask decoder, and would not use {decoder!r}; leave out --decoder")


def _print_plan(
    recipe: Recipe,
    data: str,
    out: Path,
    cache: Path | None,
    live: bool,
    cached: str | None,
    image_size: int | None,
    device: str,
    gpu: str | None,
    measure: bool,
    as_json: bool,
) -> None:
    """What the training needs; exit code 1 where it does not fit."""
    from seglens.core.devices import usable_device
    from seglens.core.distributed import Ranks
    from seglens.training.machine import published, this_machine
    from seglens.training.plan import Plan
    from seglens.training.planned_data import plan_data
    from seglens.training.planned_models import PlannedModels

    machine = published(gpu) if gpu is not None else this_machine(usable_device(device), measure)
    models = PlannedModels.of(recipe, image_size, machine.cuda)
    planned = plan_data(data, recipe, cache, live or not models.lens, cached, measure)
    result = Plan(models, planned, machine, Ranks.here().world, out if cache is None else cache)
    if as_json:
        print_json(result.to_dict())
    else:
        for line in result.lines():
            print(line)
    if not result.fits:
        raise SystemExit(1)


def _report(out: Path, steps: int, terms: dict[str, float], left_out: int, exam: str | None) -> None:
    """The terms of the loss at the end and, where there is data to validate on, the scores of the heads."""
    from seglens.training.run_folder import BEST, LAST, validation_scores

    losses = ", ".join(f"{name} {value:.4f}" for name, value in terms.items())
    print_stderr(f"{steps} steps done, {left_out} bad records left out; losses, smoothed: {losses}")
    for name in (LAST, BEST):
        scores = validation_scores(out, name) if exam else None
        if scores is not None:
            gious = f"gIoU {scores['gIoU']:.4f}, cIoU {scores['cIoU']:.4f}"
            print_stderr(f"{out / name}: {gious} on {exam} after step {scores['step']}")
    measured = "before absence is judged; for tables" if exam else "nothing was measured; to do so"
    print_stderr(f"{measured}: seglens eval --data {exam or 'TEST'} --model {out / LAST}")


def _probed(path: Path, backbone: str | None, layer: int | None, image_size: int | None) -> tuple[str, int, int]:
    """MLLM, layer and canvas of a probe; options win over it. A probe of another MLLM is refused."""
    from seglens.checkpoints.origin import Origin
    from seglens.evaluation.layer_probe import Probed

    probe = Probed.read(path)
    if backbone is not None and Origin.of(backbone).name != probe.backbone:
        raise ValueError(f"{path} is a probe of {probe.backbone}, and --backbone is {backbone}; leave out one of them")
    return probe.backbone, probe.layer if layer is None else layer, image_size or probe.image_size
