"""`seglens route`: how well an MLLM routes instructions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from seglens.cli.loading import load_mllm, load_segmenter
from seglens.cli.options import AsJson, ChatModelOptions
from seglens.cli.output import print_json, report_faults
from seglens.core.progress import progress


def route(
    model_options: ChatModelOptions,
    file: Annotated[
        Path | None, typer.Argument(help="Your own instructions as JSON lines. Default: those of the package.")
    ] = None,
    part: Annotated[str, typer.Option(help="Part of the instructions: test, dev or all.")] = "test",
    backbone: Annotated[
        str | None, typer.Option(help="MLLM without a head: a folder or hub id; in place of --model.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Prompt of the router: few-shot or embedded. Default: the one for this MLLM.")
    ] = None,
    wrong: Annotated[bool, typer.Option("--wrong", help="Also list the instructions with a wrong route.")] = False,
    followups: Annotated[
        int, typer.Option(min=0, help="Measure follow-up questions about a colour in N scenes instead.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure the router of the agent: does the frozen MLLM choose, as a person would, between an answer in words, a
    mask, and words about the last mask?"""
    from seglens.agent.exam import PARTS, read_instructions, report, route_all
    from seglens.agent.router import PROMPTS, Router
    from seglens.core.names import check_name

    if followups:
        _follow(model_options, followups, as_json)
        return
    check_name(part, (*PARTS, "all"), "part")
    if prompt is not None:
        check_name(prompt, PROMPTS, "prompt of a router")
    instructions = [one for one in read_instructions(file) if part in ("all", one.part)]
    if not instructions:
        raise ValueError(f"{file} has no instruction of part {part!r}; try --part all")
    mllm = load_mllm(backbone, **model_options.placement) if backbone else load_segmenter(model_options).backbone
    router = Router(mllm, None if prompt is None else PROMPTS[prompt])
    with progress("routing", len(instructions), hidden=as_json) as advance:
        routed, failed = [], list[str]()
        for one in route_all(router, instructions, failed):
            routed.append(one)
            advance()
    if not routed:
        raise ValueError(failed[0])
    summary = {"model": backbone or model_options.model, "part": part, **report(routed)}
    wrong_rows = [
        {
            "text": one.instruction.text,
            "tier": one.instruction.tier,
            "route": one.route.intent,
            "scores": one.route.scores,
        }
        for one in routed
        if not one.right
    ]
    if as_json:
        print_json(summary | ({"wrong": wrong_rows} if wrong else {}) | ({"faults": failed} if failed else {}))
    else:
        _print(summary)
        for row in wrong_rows if wrong else []:
            print(f"{row['tier']} -> {row['route']}: {row['text']}")
    report_faults(failed, f"of {len(instructions)} instructions could not be routed")


def _follow(model_options: ChatModelOptions, scenes: int, as_json: bool) -> None:
    from seglens.agent import Agent
    from seglens.agent.followups import colours

    summary = {"model": model_options.model, **colours(Agent(load_segmenter(model_options)), scenes)}
    if as_json:
        print_json(summary)
        return
    for name, value in summary.items():
        print(f"{name.replace('_', ' ')}: {value if isinstance(value, int | str) else f'{value:.1%}'}")


def _print(summary: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown: dict[str, Any] = summary["tiers"]
    table = Table("tier", "instructions", "right", *(f"to {intent}" for intent in next(iter(shown.values()))["went"]))
    for tier, row in shown.items():
        table.add_row(tier, str(row["instructions"]), f"{row['accuracy']:.1%}", *map(str, row["went"].values()))
    Console().print(table)
    print(f"{summary['instructions']} instructions of {summary['model']}: {summary['accuracy']:.1%} right; ", end="")
    print(f"false triggers {summary['false_triggers']:.1%}, missed triggers {summary['missed_triggers']:.1%}")
