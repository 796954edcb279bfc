"""The command line: thin functions over the library. Results on standard output, everything else on standard error."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Pixel-level sight for any multimodal LLM, without changing one of its weights.",
)  # fmt: skip
world_app = typer.Typer(no_args_is_help=True, help="The drawn world that the embedded model lives in.")
miniature_app = typer.Typer(no_args_is_help=True, help="Train the embedded models from nothing.")
app.add_typer(world_app, name="world")
app.add_typer(miniature_app, name="miniature")

Model = Annotated[str, typer.Option("--model", help="A head folder, a hub id, or 'embedded'.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps, ...")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _emit(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def _names(image: Path, queries: Sequence[str]) -> list[str]:
    """File names, one per query; all numbered when two queries would share one."""
    from seglens.prediction import slug

    names = [f"{slug(image.stem)}_{slug(query)}" for query in queries]
    return names if len(set(names)) == len(names) else [f"{name}_{number}" for number, name in enumerate(names)]


def _segmenter(model: str, device: str, **options: Any) -> Any:
    from seglens.backbones import hide_loading_bars
    from seglens.segmenter import Segmenter

    hide_loading_bars()
    return Segmenter.from_pretrained(model, device=device, **options)


@app.command()
def segment(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    query: Annotated[list[str], typer.Argument(help="What to segment, in words; more queries cost little more.")],
    model: Model = "embedded",
    out: Annotated[Path, typer.Option(help="Folder for masks and overlays.")] = Path("out"),
    as_json: AsJson = False,
    device: Device = "cpu",
) -> None:
    """Segment what the words mean: writes a lossless mask and an overlay per query."""
    from seglens.data.images import load_image

    pixels = load_image(image)  # before the model is loaded: a wrong name is told at once
    predictions = _segmenter(model, device, segmentation_only=True).segment(pixels, query)
    answers = []
    for name, p in zip(_names(image, query), predictions, strict=True):
        files = p.save(out, name)
        answers.append({"image": str(image), **p.to_dict(), "files": {k: str(v) for k, v in files.items()}})
        if not as_json:
            verdict = f"found, score {p.score:.2f}" if p.found else "not found"
            presence = "" if p.presence is None else f" (presence {p.presence:.2f})"
            print(f"{p.query}: {verdict}{presence}; {files['mask']}, {files['overlay']}")
    if as_json:
        _emit(answers[0] if len(answers) == 1 else answers)


@app.command()
def ask(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    question: Annotated[str, typer.Argument(help="A question about it.")],
    model: Model = "embedded",
    as_json: AsJson = False,
    device: Device = "cpu",
) -> None:
    """Ask the untouched multimodal LLM."""
    from seglens.data.images import load_image

    pixels = load_image(image)
    answer = _segmenter(model, device).ask(pixels, question)
    if as_json:
        _emit({"image": str(image), "question": question, "answer": answer})
    else:
        print(answer)


@app.command("eval")
def evaluate(
    data: Annotated[str, typer.Option(help="A dataset with its options.")] = "world:n=500,seed=1",
    model: Model = "embedded",
    as_json: AsJson = False,
    records: Annotated[Path | None, typer.Option(help="Also write one JSON line per query here.")] = None,
    device: Device = "cpu",
) -> None:
    """gIoU, cIoU and P@0.5 by query kind and target size with 95 % intervals; keypoints; presence; on the world also
    the MLLM's answers and SAM alone."""
    from rich.console import Console
    from rich.progress import track

    from seglens.data import load_data
    from seglens.evaluation import as_json as lines
    from seglens.evaluation import run, summarise
    from seglens.files import write_atomic
    from seglens.report import print_report

    samples, segmenter = load_data(data), _segmenter(model, device)
    console = Console(stderr=True)
    said = run(segmenter, track(samples, "segmenting", total=len(samples), console=console, disable=as_json))
    report = {"data": data, "model": model, **summarise(said), **_world_report(segmenter, samples)}
    if records is not None:
        write_atomic(records, "".join(json.dumps(r) + "\n" for r in lines(said)).encode())
    if as_json:
        _emit(report)
    else:
        print_report(report)


def _world_report(segmenter: Any, samples: Any) -> dict[str, Any]:
    from seglens.data.world import WorldData
    from seglens.miniature.exam import prompts, vqa

    if not isinstance(samples, WorldData):
        return {}
    return {"vqa": vqa(segmenter.backbone, samples), "sam": prompts(segmenter.decoder, samples)}


@app.command()
def train(
    backbone: Annotated[str, typer.Option(help="The MLLM: a folder or hub id, such as llava-hf/llava-1.5-7b-hf.")],
    decoder: Annotated[str, typer.Option(help="The SAM to prompt: a folder or hub id, such as facebook/sam-vit-huge.")],
    data: Annotated[str, typer.Option(help="Training data, such as world:n=4000,seed=6,split=train,queries=8.")],
    out: Annotated[Path, typer.Option(help="Folder for curves, checkpoints and the head; the same command resumes.")],
    preset: Annotated[str, typer.Option(help="default, paper or authors.")] = "default",
    layer: Annotated[int | None, typer.Option(help="hidden_states[layer] is read; default 14 of 32, in share.")] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 5000,
    images: Annotated[int, typer.Option(help="Images per step.")] = 8,
    lr: Annotated[float, typer.Option(help="Peak learning rate (LENS: 5e-5; the miniature: 6e-4).")] = 5e-5,
    seed: Annotated[int, typer.Option(help="Of weights, order and dropout.")] = 0,
    descriptor_width: Annotated[
        int | None, typer.Option(help="Of the description MLP; default the MLLM's own.")
    ] = None,
    encoder_width: Annotated[int | None, typer.Option(help="Of the self-attention MLP.")] = None,
    device: Device = "cpu",
) -> None:
    """Train a head on a frozen MLLM. Frozen features are computed once, then only the head is run."""
    from dataclasses import asdict, replace

    from seglens.backbones import hide_loading_bars
    from seglens.checkpoint import HeadConfig, save_head
    from seglens.presets import lens_preset
    from seglens.training import TrainConfig, fit, prepare

    hide_loading_bars()
    config, training = lens_preset(preset), TrainConfig(steps=steps, images=images, lr=lr, seed=seed)
    if descriptor_width is not None:
        config = replace(config, descriptor_width=descriptor_width)
    if encoder_width is not None:
        config = replace(config, encoder_width=encoder_width)
    run = prepare(backbone, decoder, data, config, layer, out, device, seed)
    fit(run.head, run.store, training, out)
    note = {"data": data, "preset": preset, "training": asdict(training)}
    made = HeadConfig("lens", asdict(config), run.backbone, run.layer, run.decoder, trained=note)
    save_head(out / "head", made, run.head)
    print(out / "head")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check this machine: versions, devices, the embedded weights, and one real segmentation."""
    from seglens.backbones import hide_loading_bars
    from seglens.doctor import examine

    hide_loading_bars()
    report = examine()
    if as_json:
        _emit(report)
    else:
        for check in report["checks"]:
            print(f"{'ok  ' if check['ok'] else 'FAIL'} {check['name']}: {check['says']}")
    if not report["ok"]:
        raise SystemExit(1)


@app.command()
def demo(out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("out/demo")) -> None:
    """A scene, queries of several kinds, a question: pictures on disk in seconds."""
    from seglens.backbones import hide_loading_bars
    from seglens.demo import show

    hide_loading_bars()
    show(out)


@world_app.command("sample")
def world_sample(
    n: Annotated[int, typer.Option(help="Number of scenes.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the scenes.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for images, masks and scenes.jsonl.")] = Path("out/world"),
    split: Annotated[str, typer.Option(help="train or test.")] = "test",
) -> None:
    """Write scenes: PNG images and a JSONL of all that is true of them, masks as COCO RLE."""
    from seglens.miniature.sample import write_samples

    print(write_samples(n, seed, split, out))


@miniature_app.command("build")
def miniature_build(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints; the same command resumes.")] = Path(
        "runs/miniature"
    ),
    weights: Annotated[Path, typer.Option(help="Folder for the finished weights.")] = Path("runs/miniature/weights"),
    stage: Annotated[list[str] | None, typer.Option(help="Only these stages, in order; default all.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Stages side by side; each gets its share of the cores.")] = 2,
) -> None:
    """Train the MLLM, SAM and the head from nothing: vision, language, alignment, joint, sam, head."""
    from seglens.miniature.build import NEEDS, build

    build(out, weights, stage or tuple(NEEDS), jobs)
    print(weights)


@miniature_app.command("ablate")
def miniature_ablate(
    out: Annotated[Path, typer.Option(help="Folder for results; finished rows are kept.")] = Path("runs/ablate"),
    weights: Annotated[Path | None, typer.Option(help="Frozen parts; default the embedded ones.")] = None,
    steps: Annotated[int, typer.Option(help="Steps per row.")] = 300,
    jobs: Annotated[int, typer.Option(min=1, help="Rows side by side.")] = 2,
) -> None:
    """Table 2 of LENS in the miniature: one row per choice, the same budget for each. Prints a Markdown table."""
    from seglens.miniature.ablate import ablate

    print(ablate(out, weights, steps, jobs))


def main() -> None:
    """Entry point. An error that a user can mend is one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name may hold what no encoding can print
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        _say(f"seglens: {_line(error)}")
        raise SystemExit(2) from None
    except RuntimeError as error:
        _say(f"seglens: {_mendable(error)}")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        _say("seglens: stopped")
        raise SystemExit(130) from None


def _mendable(error: RuntimeError) -> str:
    """A line on a failed stage or a full device; any other error is a mistake of ours and is raised again."""
    import torch  # only now: imports would slow the start of every command

    from seglens.miniature.build import StageError

    if isinstance(error, StageError):
        return _line(error)
    if isinstance(error, torch.OutOfMemoryError):
        return f"the device is out of memory ({_line(error)}); use smaller --images, or another --device"
    raise error


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{str(error.filename)!r}: {error.strerror}; check the path and its rights"
    return " ".join(str(error).split()) or type(error).__name__
