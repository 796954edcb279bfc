"""`seglens route`: how well an MLLM routes instructions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from seglens.cli.shared import AsJson, Talking, emit, load_mllm, load_segmenter, tell_faults
from seglens.core.progress import progress


def route(
    loading: Talking,
    file: Annotated[Path | None, typer.Argument(help="JSON lines of your own; by default the package's set.")] = None,
    part: Annotated[str, typer.Option(help="test, dev or all.")] = "test",
    backbone: Annotated[str | None, typer.Option(help="A bare MLLM (folder or hub id), without a head.")] = None,
    prompt: Annotated[str | None, typer.Option(help="few-shot or embedded; by default the MLLM's own.")] = None,
    wrong: Annotated[bool, typer.Option("--wrong", help="Also list what went the wrong way.")] = False,
    followups: Annotated[
        int, typer.Option(min=0, help="Instead: are follow-ups about a colour answered right, in so many scenes?")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure the router of the agent: does the frozen MLLM send written instructions to words, to a mask, or to words
    about the last mask, as a person would?"""
    from seglens.agent.exam import PARTS, read_instructions, report, route_all
    from seglens.agent.router import PROMPTS, Router
    from seglens.core.names import check_name

    if followups:
        _follow(loading, followups, as_json)
        return
    check_name(part, (*PARTS, "all"), "part")
    if prompt is not None:
        check_name(prompt, PROMPTS, "prompt of a router")
    asked = [one for one in read_instructions(file) if part in ("all", one.part)]
    if not asked:
        raise ValueError(f"{file} has no instruction of part {part!r}; try --part all")
    mllm = load_mllm(backbone, **loading.placing) if backbone else load_segmenter(loading).backbone
    router = Router(mllm, None if prompt is None else PROMPTS[prompt])
    with progress("routing", len(asked), hidden=as_json) as advance:
        routed, failed = [], list[str]()
        for one in route_all(router, asked, failed):
            routed.append(one)
            advance()
    if not routed:
        raise ValueError(failed[0])
    found = {"model": backbone or loading.model, "part": part, **report(routed)}
    missed = [
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
        emit(found | ({"wrong": missed} if wrong else {}) | ({"faults": failed} if failed else {}))
    else:
        _print(found)
        for row in missed if wrong else []:
            print(f"{row['tier']} -> {row['route']}: {row['text']}")
    tell_faults(failed, f"of {len(asked)} instructions could not be routed")


def _follow(loading: Talking, scenes: int, as_json: bool) -> None:
    from seglens.agent import Agent
    from seglens.agent.followups import colours

    found = {"model": loading.model, **colours(Agent(load_segmenter(loading)), scenes)}
    if as_json:
        emit(found)
        return
    for name, value in found.items():
        print(f"{name.replace('_', ' ')}: {value if isinstance(value, int | str) else f'{value:.1%}'}")


def _print(found: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown: dict[str, Any] = found["tiers"]
    table = Table("tier", "instructions", "right", *(f"to {intent}" for intent in next(iter(shown.values()))["went"]))
    for tier, said in shown.items():
        table.add_row(tier, str(said["instructions"]), f"{said['accuracy']:.1%}", *map(str, said["went"].values()))
    Console().print(table)
    print(f"{found['instructions']} instructions of {found['model']}: {found['accuracy']:.1%} right; ", end="")
    print(f"false triggers {found['false_triggers']:.1%}, missed triggers {found['missed_triggers']:.1%}")
