"""`seglens bench`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from seglens.cli.loading import load_mllm, load_segmenter
from seglens.cli.options import AsJson, ChatModelOptions, Overwrite
from seglens.cli.output import print_json, report_faults

NAMES = "gqa, mme, mmbench, mmbench-circular, mmmu, mmstar, okvqa, pope, textvqa, vizwiz, vqav2 or world-vqa."
# how pictures were given to the model: published numbers of LLaVA-1.5 are of padded ones
PADDED, AS_THEY_CAME = "padded to squares", "as they came"


def bench(
    name: Annotated[str, typer.Argument(help=NAMES)],
    model_options: ChatModelOptions,
    root: Annotated[
        str, typer.Option(help="The benchmark's folder or file; for world-vqa its options, as in n=50,seed=1.")
    ] = "",
    backbone: Annotated[
        str | None, typer.Option(help="MLLM without a head: a folder or hub id; in place of --model.")
    ] = None,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Answer through the adapter of a method that tunes its MLLM.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(help="Only the first N questions, and those that are scored together with them.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write answers to, one by one; the same command continues after an interruption."),
    ] = None,
    answers: Annotated[Path | None, typer.Option(help="File of answers to score; no model is loaded.")] = None,
    submission: Annotated[
        Path | None, typer.Option(help="Write the file for the benchmark's server here, in place of scores.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of an answer. Default: the benchmark's own.")
    ] = None,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Measure the general ability of the unchanged MLLM: it answers a benchmark's questions, scored by its rule.

    With --adapter it answers through the adapter, as if the method had changed it. The report states whether pictures
    were padded to squares (for an MLLM that crops) or shown as they are (--as-is)."""
    from seglens.core.files import check_free
    from seglens.core.names import check_name
    from seglens.evaluation.vqa import BENCHMARKS, BenchmarkError, read_answers, take, whole

    check_name(name, BENCHMARKS, "benchmark")
    benchmark = BENCHMARKS[name]
    if submission is not None and benchmark.submission is None:
        raise BenchmarkError(f"{name} has no server for answers; leave out --submission")
    if submission is not None and benchmark.submission is not None:  # before any question is asked
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
    subject = {"backbone": backbone} if backbone else {"model": model_options.model}
    if answers is not None:
        subject = {"answers": str(answers)}
    if adapter and "model" not in subject:
        raise BenchmarkError(
            "--adapter needs a head that has one; name it with --model, without --backbone or --answers"
        )
    subject |= {"adapter": "on"} if adapter else {}
    failed = dict[str, str]()
    pictures = dict[str, str]()
    if answers is not None:
        answers_by_id: Mapping[str, str] = read_answers(answers, every)
    else:
        tokens = benchmark.max_new_tokens if max_new_tokens is None else max_new_tokens
        fit = _fit(questions, tokens, failed)
        ask, pads = _answerer(model_options, backbone, adapter)
        pictures = {"pictures": PADDED if pads else AS_THEY_CAME}
        answers_by_id = _ask(
            ask, fit, tokens, out, {"benchmark": name, **subject, **(pictures if pads else {})}, as_json, failed
        )
        questions = whole(questions, failed)
    report: dict[str, Any] = {"benchmark": name, "root": root, **subject, **pictures, "asked": len(questions)}
    report["first_image_only"] = sum(len(question.images) > 1 for question in questions)
    if submission is not None and benchmark.submission is not None:
        benchmark.submission.write(submission, questions, answers_by_id)
        report["submission"] = str(submission)
    else:
        report["scores"] = benchmark.score(questions, answers_by_id)
    if failed:
        report["faults"] = list(failed.values())
    print_json(report) if as_json else _print(report)
    report_faults(list(failed.values()), "questions could not be asked, and are not scored")


def _fit(questions: Any, tokens: int, failed: dict[str, str]) -> Any:
    """The questions that can be asked, checked before a large model is loaded."""
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


def _answerer(model_options: ChatModelOptions, backbone: str | None, adapter: bool) -> tuple[Callable[..., str], bool]:
    """The function that answers, of an MLLM without a head or of a head with its adapter off or on; and whether it pads
    pictures."""
    if backbone:
        mllm = load_mllm(backbone, **model_options.placement)
        return mllm.generate, mllm.pads
    segmenter = load_segmenter(model_options)
    if not adapter:
        return segmenter.backbone.generate, segmenter.backbone.pads
    if segmenter.reader is segmenter.backbone:
        raise ValueError(
            f"{model_options.model} is a {segmenter.config.method} head, which leaves its MLLM frozen; leave out "
            "--adapter"
        )
    return segmenter.reader.generate, segmenter.backbone.pads


def _print(report: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    subject = next(report[key] for key in ("answers", "backbone", "model") if key in report)
    subject += " through its adapter" if "adapter" in report else ""
    if "submission" in report:
        print(f"{report['asked']} answers of {subject} for the server: {report['submission']}")
        return
    shown = f", pictures {report['pictures']}" if "pictures" in report else ""
    print(f"{report['benchmark']}: {report['asked']} answers of {subject}{shown}")
    table = Table("score", "value")
    for label, value in _flat(report["scores"]):
        table.add_row(label, value)
    Console().print(table)
    if report["first_image_only"]:
        print(f"{report['first_image_only']} questions have several images; the model saw the first")


def _flat(scores: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of nested scores, one line each."""
    for name, value in scores.items():
        label = f"{above}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{label}: " if not name.startswith("by_") else above)
        elif value is None:
            yield label, "-"
        else:
            yield label, f"{value:.4g}" if isinstance(value, float) else str(value)
