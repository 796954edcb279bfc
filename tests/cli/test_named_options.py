"""Every command and option that a hint, an error, a help text or a page names exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer

from seglens.cli import app
from seglens.cli.serve import build_command

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != "log.md")]
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*(?![\w])")
# a command up to where it ends: a line break, a backtick, a pipe, a comment
COMMAND = re.compile(r"(?<![\w.'/-])seglens((?: [a-z][a-z0-9]*){1,2})([^\n`|#]*)")
NOT_COMMANDS = {"again", "import", "evaluation", "your"}  # "install seglens again", Python, a file's header, pip
OF_OTHER_PROGRAMS = {
    *("--extra-index-url", "--find-links", "--no-index", "--wheel-dir"),  # pip
    *("--cpus", "--env", "--file", "--gpus", "--publish", "--rm", "--tag", "--user", "--volume"),  # docker
    *("--nproc-per-node", "--no-python"),  # torchrun
    "--local-dir",  # hf
    *("--address", "--head"),  # ray
    *("--size", "--quick", "--rounds", "--wall"),  # benchmarks/
}


@cache
def commands() -> dict[tuple[str, ...], set[str]]:
    """Every command by its words, with its options; a group has those of all its commands."""
    serve = typer.Typer()
    serve.command()(build_command())

    def walk(command: typer.core.TyperCommand, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], set[str]]]:
        options = {one for p in command.params for one in (*p.opts, *p.secondary_opts) if one.startswith("--")}
        inner = [pair for name, one in getattr(command, "commands", {}).items() for pair in walk(one, (*words, name))]
        yield words, options.union({"--help"}, *(options for _, options in inner))
        yield from inner

    return {**dict(walk(typer.main.get_command(app), ())), ("serve",): next(walk(typer.main.get_command(serve), ()))[1]}


def texts_of(path: Path) -> list[str]:
    """A page as it is; of a module its strings, with three dots where something is filled in."""
    if path.suffix == ".md":
        return [path.read_text(encoding="utf-8").replace("\\\n", " ")]
    tree, texts = ast.parse(path.read_text(encoding="utf-8")), list[str]()
    parts = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            texts.append("".join(str(v.value) if isinstance(v, ast.Constant) else "..." for v in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            texts.append(node.value)
    return texts


def faults_of(text: str) -> Iterator[str]:
    """Commands that do not exist, options that their command does not have, options that no command has."""
    known = set.union(OF_OTHER_PROGRAMS, *commands().values())
    for words, rest in COMMAND.findall(text):
        path = tuple(words.split())
        path = path if path in commands() else path[:1]
        if path not in commands():
            if path[0] not in NOT_COMMANDS:
                yield f"seglens {path[0]}"
            continue
        yield from (f"seglens {' '.join(path)} {one}" for one in OPTION.findall(rest) if one not in commands()[path])
    yield from (one for one in OPTION.findall(text) if one not in known)


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_and_option_that_is_named_exists(path: Path) -> None:
    faults = {fault for text in texts_of(path) for fault in faults_of(text)}
    assert not faults, f"{path.name} names what does not exist"


def test_what_does_not_exist_is_noticed() -> None:
    assert list(faults_of("use smaller --images-side")) == ["--images-side"]
    assert list(faults_of("see `seglens tours`")) == ["seglens tours"]
    assert list(faults_of("run `seglens doctor --model ID`")) == ["seglens doctor --model"]
    assert list(faults_of("seglens data overlap --root DIR --json")) == []
    assert ("train",) in commands()
