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
from seglens.cli.data_overlap import overlap
from seglens.cli.demo import demo
from seglens.cli.doctor import doctor
from seglens.cli.embedded import embedded_ablate, embedded_build, embedded_table, embedded_unpack, world_sample
from seglens.cli.evaluate import evaluate
from seglens.cli.failures import is_memory, message_of, prepare_for_limit, too_little_memory
from seglens.cli.mcp import mcp
from seglens.cli.options import with_single_options
from seglens.cli.output import print_stderr
from seglens.cli.page import page
from seglens.cli.probe import probe
from seglens.cli.refine import refine
from seglens.cli.route import route
from seglens.cli.score import score
from seglens.cli.segment import ask, segment
from seglens.cli.serve import PASS_ARGUMENTS, serve
from seglens.cli.train import train
from seglens.core.cpu_threads import prepare_threads

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
    "data": ("Inspect a dataset before it is used.", {"check": data_check, "overlap": overlap, "show": data_show}),
    "cache": (
        "Features of the frozen models on disk, computed once.",
        {"build": cache_build, "check": cache_check, "estimate": cache_estimate},
    ),
    "convert": (
        "Convert published checkpoints to head folders, and MLLMs to transformers' own format.",
        {"mllmseg": convert_mllmseg, "self1e": convert_self1e, "lisa": convert_lisa, "internvl": convert_internvl},
    ),
    "world": ("The drawn world: scenes for which the embedded models are made.", {"sample": world_sample}),
    "embedded": (
        "Train the embedded models from random weights, or write them to folders.",
        {"build": embedded_build, "ablate": embedded_ablate, "table": embedded_table, "unpack": embedded_unpack},
    ),
}


def _group(text: str, commands: dict[str, Callable[..., Any]], completion: bool = False) -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, add_completion=completion, pretty_exceptions_enable=False, help=text)
    for name, command in commands.items():
        group.command(name)(with_single_options(command))
    return group


ABOUT = "Pixel-level sight for any multimodal LLM, without changing any of its weights."
app = _group(ABOUT, COMMANDS, completion=True)


def _print_version(wanted: bool) -> bool:
    if wanted:
        print(f"seglens {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _every_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


app.command("serve", context_settings=PASS_ARGUMENTS)(serve)
for _name, (_help, _commands) in GROUPS.items():
    app.add_typer(_group(_help, _commands), name=_name)


def main() -> None:
    """Entry point. An error that a user can correct is one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name may contain bytes that cannot be printed
    if message := too_little_memory():
        print_stderr(f"seglens: {message}")
        raise SystemExit(2)
    prepare_for_limit()
    prepare_threads()
    try:
        app()
    except BrokenPipeError:
        _silence()  # the reader of the output has ended, as `head` does
        raise SystemExit(1) from None
    except BaseException as error:  # panics of packages in Rust are no Exceptions
        message = None if isinstance(error, SystemExit | GeneratorExit) else message_of(error)
        if message is None:
            raise
        print_stderr(f"seglens: {message}")
        if is_memory(error):  # other packages would print further errors at the end
            _silence()
        raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 2) from None


def _silence() -> None:
    """Discard what other packages print at the end of the process."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
        with contextlib.suppress(OSError, ValueError):
            os.dup2(null, stream.fileno())
