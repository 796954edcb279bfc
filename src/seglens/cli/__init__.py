"""The command line: thin functions over the library. Results on standard output, everything else on standard error."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from seglens import __version__
from seglens.cli.bench import bench
from seglens.cli.cache import cache_build, cache_check, cache_estimate
from seglens.cli.chat import chat
from seglens.cli.convert import convert_internvl, convert_lisa, convert_mllmseg, convert_self1e
from seglens.cli.data import data_check, data_show
from seglens.cli.demo import demo
from seglens.cli.doctor import doctor
from seglens.cli.embedded import embedded_ablate, embedded_build, embedded_table, embedded_unpack, world_sample
from seglens.cli.evaluate import evaluate
from seglens.cli.failures import is_memory, mind_limit, sentence, too_tight
from seglens.cli.mcp import mcp
from seglens.cli.overlap import overlap
from seglens.cli.page import page
from seglens.cli.probe import probe
from seglens.cli.refine import refine
from seglens.cli.route import route
from seglens.cli.score import score
from seglens.cli.segment import ask, segment
from seglens.cli.serve import PASSED_ON, serve
from seglens.cli.shared import say, unfolded
from seglens.cli.train import train

COMMANDS: dict[str, Callable[..., Any]] = {
    "segment": segment,
    "refine": refine,
    "ask": ask,
    "eval": evaluate,
    "score": score,
    "bench": bench,
    "train": train,
    "chat": chat,
    "route": route,
    "mcp": mcp,
    "probe": probe,
    "doctor": doctor,
    "demo": demo,
    "page": page,
}
GROUPS: dict[str, tuple[str, dict[str, Callable[..., Any]]]] = {
    "data": ("Look at a dataset before it is used.", {"check": data_check, "overlap": overlap, "show": data_show}),
    "cache": (
        "Frozen features on disk, computed once.",
        {"build": cache_build, "check": cache_check, "estimate": cache_estimate},
    ),
    "convert": (
        "Other people's trained models as head folders, and MLLMs in transformers' own form.",
        {"mllmseg": convert_mllmseg, "self1e": convert_self1e, "lisa": convert_lisa, "internvl": convert_internvl},
    ),
    "world": ("The drawn world that the embedded model lives in.", {"sample": world_sample}),
    "embedded": (
        "Train the embedded models from nothing, or write them out.",
        {"build": embedded_build, "ablate": embedded_ablate, "table": embedded_table, "unpack": embedded_unpack},
    ),
}


def _group(words: str, commands: dict[str, Callable[..., Any]], completion: bool = False) -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, add_completion=completion, pretty_exceptions_enable=False, help=words)
    for name, command in commands.items():
        group.command(name)(unfolded(command))
    return group


ABOUT = "Pixel-level sight for any multimodal LLM, without changing one of its weights."
app = _group(ABOUT, COMMANDS, completion=True)


def _tell_version(asked: bool) -> bool:
    if asked:
        print(f"seglens {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def _every_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None: ...


app.command("serve", context_settings=PASSED_ON)(serve)
for _name, _made in GROUPS.items():
    app.add_typer(_group(*_made), name=_name)


def main() -> None:
    """Entry point. An error that a user can mend is one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name may hold what no encoding can print
    if tight := too_tight():
        say(f"seglens: {tight}")
        raise SystemExit(2)
    mind_limit()
    try:
        app()
    except BrokenPipeError:
        _say_no_more()  # who read the output has gone, as `head` does
        raise SystemExit(1) from None
    except BaseException as error:  # packages in Rust have panics of their own, which are no Exceptions
        said = None if isinstance(error, SystemExit | GeneratorExit) else sentence(error)
        if said is None:
            raise
        say(f"seglens: {said}")
        if is_memory(error):  # there is none for the others' last words either
            _say_no_more()
        raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 2) from None


def _say_no_more() -> None:
    """What other packages still have to say at the end of the process goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
