"""`seglens bench`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from seglens.cli.shared import AsJson, Overwrite, Talking, emit, load_mllm, load_segmenter, tell_faults

NAMES = "gqa, mme, mmbench, mmbench-circular, mmmu, mmstar, okvqa, pope, textvqa, vizwiz, vqav2 or world-vqa."
# what of a picture the model saw: published numbers of LLaVA-1.5 are of padded ones
PADDED, AS_THEY_CAME = "padded to squares", "as they came"


def bench(
    name: Annotated[str, typer.Argument(help=NAMES)],
    loading: Talking,
    root: Annotated[str, typer.Option(help="The benchmark's folder or file; for world-vqa such as n=50,seed=1.")] = "",
    backbone: Annotated[str | None, typer.Option(help="Ask this bare MLLM (folder or hub id), without a head.")] = None,
    adapter: Annotated[bool, typer.Option("--adapter", help="Answer through a tuned method's adapter.")] = False,
    limit: Annotated[int | None, typer.Option(help="Only so many questions, and those judged with them.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write answers here as they come; go on where it stopped.")] = None,
    answers: Annotated[Path | None, typer.Option(help="Score these answers; no model is asked.")] = None,
    submission: Annotated[Path | None, typer.Option(help="Write the file for the benchmark's server instead.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer; the benchmark's own by default.")] = None,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """General ability: the untouched MLLM answers a benchmark's own files, judged by its official rule. With --adapter
    it answers as a method that tunes it would leave it, if chat ran through the adapter too. The report tells whether
    pictures were padded to squares, as before a processor that crops, or shown as they came (--as-is)."""
    from seglens.core.files import check_free
    from seglens.core.names import check_name
    from seglens.evaluation.vqa import BENCHMARKS, BenchmarkError, read_answers, take, whole

    check_name(name, BENCHMARKS, "benchmark")
    benchmark = BENCHMARKS[name]
    if submission is not None and benchmark.submission is None:
        raise BenchmarkError(f"{name} has no server for answers; leave out --submission")
    if submission is not None and benchmark.submission is not None:  # before a question is asked
        benchmark.submission.check(submission)
        check_free([] if overwrite else [submission])
    if not root and name != "world-vqa":
        raise BenchmarkError(f"{name} needs --root, the folder or file of its questions")
    every = benchmark.read(root)
    questions = take(every, limit)
    if submission is None and any(question.answer is None for question in questions):
        benchmark.score(
            questions, dict.fromkeys([question.id for question in questions], "")
        )  # raises, with the reason
    asked = {"backbone": backbone} if backbone else {"model": loading.model}
    if answers is not None:
        asked = {"answers": str(answers)}
    if adapter and "model" not in asked:
        raise BenchmarkError(
            "--adapter needs a head that has one; name it with --model, without --backbone or --answers"
        )
    asked |= {"adapter": "on"} if adapter else {}
    failed = dict[str, str]()
    seen = dict[str, str]()
    if answers is not None:
        said: Mapping[str, str] = read_answers(answers, every)
    else:
        tokens = benchmark.max_new_tokens if max_new_tokens is None else max_new_tokens
        fit = _fit(questions, tokens, failed)
        ask, pads = _speaker(loading, backbone, adapter)
        seen = {"pictures": PADDED if pads else AS_THEY_CAME}
        said = _ask(ask, fit, tokens, out, {"benchmark": name, **asked, **(seen if pads else {})}, as_json, failed)
        questions = whole(questions, failed)
    report: dict[str, Any] = {"benchmark": name, "root": root, **asked, **seen, "asked": len(questions)}
    report["first_image_only"] = sum(len(question.images) > 1 for question in questions)
    if submission is not None and benchmark.submission is not None:
        benchmark.submission.write(submission, questions, said)
        report["submission"] = str(submission)
    else:
        report["scores"] = benchmark.score(questions, said)
    if failed:
        report["faults"] = list(failed.values())
    emit(report) if as_json else _print(report)
    tell_faults(list(failed.values()), "questions could not be asked, and are not scored")


def _fit(questions: Any, tokens: int, failed: dict[str, str]) -> Any:
    """What can be asked, looked at before a large model is loaded."""
    from seglens.evaluation.vqa import BenchmarkError, checked

    if tokens < 1:
        raise BenchmarkError(f"got --max-new-tokens {tokens}; need at least 1")
    return checked(questions, failed)


def _ask(
    ask: Callable[..., str],
    fit: Any,
    tokens: int,
    out: Path | None,
    settings: dict[str, Any],
    quiet: bool,
    failed: dict[str, str],
) -> dict[str, str]:
    from seglens.core.progress import tracked
    from seglens.evaluation.vqa import run

    bar = partial(tracked, doing="asking", hidden=quiet)
    return run(ask, fit, tokens, out, settings, bar, failed)


def _speaker(loading: Talking, backbone: str | None, adapter: bool) -> tuple[Callable[..., str], bool]:
    """Who answers, a bare MLLM or that of a head with its adapter off or on; and whether it pads pictures."""
    if backbone:
        mllm = load_mllm(backbone, **loading.placing)
        return mllm.generate, mllm.pads
    segmenter = load_segmenter(loading)
    if not adapter:
        return segmenter.backbone.generate, segmenter.backbone.pads
    if segmenter.reader is segmenter.backbone:
        raise ValueError(
            f"{loading.model} is a {segmenter.config.method} head, which leaves its MLLM frozen; leave out --adapter"
        )
    return segmenter.reader.generate, segmenter.backbone.pads


def _print(report: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    whom = next(report[key] for key in ("answers", "backbone", "model") if key in report)
    whom += " through its adapter" if "adapter" in report else ""
    if "submission" in report:
        print(f"{report['asked']} answers of {whom} for the server: {report['submission']}")
        return
    shown = f", pictures {report['pictures']}" if "pictures" in report else ""
    print(f"{report['benchmark']}: {report['asked']} answers of {whom}{shown}")
    table = Table("score", "value")
    for label, value in _flat(report["scores"]):
        table.add_row(label, value)
    Console().print(table)
    if report["first_image_only"]:
        print(f"{report['first_image_only']} questions have several images; the model saw the first")


def _flat(scores: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of nested scores, a line each."""
    for name, value in scores.items():
        label = f"{above}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{label}: " if not name.startswith("by_") else above)
        elif value is None:
            yield label, "-"
        else:
            yield label, f"{value:.4g}" if isinstance(value, float) else str(value)
