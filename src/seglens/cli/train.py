"""`seglens train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seglens.cli.shared import AUTO, Device, say, say_left_out


def train(
    data: Annotated[str, typer.Option(help="A dataset (world:n=4000,split=train) or a mixture (lisa:root=/data).")],
    out: Annotated[Path, typer.Option(help="Folder for curves, checkpoints and heads; the same command resumes.")],
    method: Annotated[str, typer.Option(help="lens, mllmseg, self1e, lisa or ufo.")] = "lens",
    preset: Annotated[str, typer.Option(help="default, authors, or paper where text and code differ.")] = "default",
    backbone: Annotated[str | None, typer.Option(help="The MLLM: a folder or hub id; default the preset's.")] = None,
    decoder: Annotated[str | None, typer.Option(help="SAM or SAM 2: a folder or hub id; default the preset's.")] = None,
    layer: Annotated[int | None, typer.Option(help="hidden_states[layer] is read; default the family's own.")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Canvas of an MLLM that sees more than one (Qwen-VL; tiles).")
    ] = None,
    probe: Annotated[Path | None, typer.Option(help="A probe.json: its MLLM, canvas and layer.")] = None,
    exam: Annotated[str | None, typer.Option(help="Data to validate on: the best head is kept too.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of cached features; default inside OUT.")] = None,
    live: Annotated[bool, typer.Option(help="Run the MLLM at every step instead of caching.")] = False,
    init: Annotated[
        str | None, typer.Option(help="Start from this head's weights: the same method, MLLM and shape.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="name=value of the head or the training, such as lr=1e-4.")
    ] = None,
    device: Device = AUTO,
) -> None:
    """Train a method for an MLLM that stays as it is: one device or, under torchrun or accelerate launch, many."""
    from dataclasses import replace

    from seglens.backbones import hide_loading_bars
    from seglens.core.distributed import Ranks
    from seglens.training.launch import first_to_speak
    from seglens.training.presets import adjusted
    from seglens.training.presets import recipe as named
    from seglens.training.setup import prepare
    from seglens.training.trainer import Terminated

    hide_loading_bars()
    rank = Ranks.here().rank
    with first_to_speak(rank):
        recipe = adjusted(named(preset, method), setting or ())
        if probe is not None:
            backbone, layer, image_size = _probed(probe, backbone, layer, image_size)
        if backbone is not None:
            recipe = replace(recipe, backbone=backbone, layer=None)  # a preset's layer is that of its own MLLM
        recipe = replace(recipe, decoder=decoder or recipe.decoder, layer=recipe.layer if layer is None else layer)
        try:
            course = prepare(recipe, data, out, exam, cache, live, device, image_size, init)
            lacks = course.left_out()
            if not rank:
                say_left_out(lacks)
                for notice in course.notices():
                    say(f"seglens: {notice}")
                _doubt(recipe.training.doubts())
            terms = course.run(out)
            if not rank and len(found := course.left_out()) > len(lacks):  # what only reading it live tells
                say_left_out(found)
        except Terminated as ended:
            if not rank:
                say(f"seglens: told to stop after step {ended.step}; the same command goes on from there")
            raise
    if not rank:
        _tell(out, recipe.training.steps, terms, len(course.left_out()), exam)
        print(out / "head")


def _doubt(doubts: list[str]) -> None:
    for doubt in doubts:
        say(f"warning: {doubt}")


def _tell(out: Path, steps: int, terms: dict[str, float], lacks: int, exam: str | None) -> None:
    """How it ended: the terms of the loss and, where there is an exam, how its heads did."""
    from seglens.training.run_folder import BEST, LAST, validation

    losses = ", ".join(f"{name} {value:.4f}" for name, value in terms.items())
    say(f"{steps} steps done, {lacks} bad records left out; losses, smoothed: {losses}")
    for name in (LAST, BEST):
        found = validation(out, name) if exam else None
        if found is not None:
            say(
                f"{out / name}: gIoU {found['gIoU']:.4f}, cIoU {found['cIoU']:.4f} on {exam} after step {found['step']}"
            )
    measured = "before absence is judged; for tables" if exam else "nothing was measured; to do so"
    say(f"{measured}: seglens eval --data {exam or 'TEST'} --model {out / LAST}")


def _probed(path: Path, backbone: str | None, layer: int | None, image_size: int | None) -> tuple[str, int, int]:
    """What a probe found; options that were given besides go before it. A probe of another MLLM is refused."""
    from seglens.checkpoints.origin import Origin
    from seglens.evaluation.layer_probe import Probed

    found = Probed.read(path)
    if backbone is not None and Origin.of(backbone).name != found.backbone:
        raise ValueError(f"{path} is a probe of {found.backbone}, and --backbone is {backbone}; leave out one of them")
    return found.backbone, found.layer if layer is None else layer, image_size or found.image_size
