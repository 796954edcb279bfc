"""What the README and the pages show, run as they show it."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import Any

from command import Run
from printed import assert_shown
from running_commands import STAY, staying
from seglens.cli import GROUPS
from seglens.data import DATASETS
from seglens.data.mixing import MIXTURES

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
# Needs a GPU, a hub or somebody's data
ELSEWHERE = re.compile(r"cuda|llava-hf/|OpenGVLab/|Qwen/|facebook/|/data/|photos?[/.]|runs/|org/name")
MANY_PROCESSES = re.compile(r"^torchrun .*?(?:-m|--no-python) seglens ")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    title: str | None = None  # the file that a reader writes it to

    @property
    def elsewhere(self) -> bool:
        return bool(ELSEWHERE.search(self.text))

    @property
    def lines(self) -> list[str]:
        """Of a shell, without comments; a line that ends in a backslash goes on."""
        joined = self.text.replace("\\\n", " ").splitlines()
        return [line for line in joined if line.strip() and not line.startswith("#")]


def blocks(page: str, language: str | None = None) -> list[Block]:
    """The blocks of a page in order; all of them, or those of one language."""
    all_blocks = [Block(m["language"], dedent(m["text"]), m["title"]) for m in FENCE.finditer(page)]
    return [block for block in all_blocks if language in (None, block.language)]


def seglens_lines(page: str) -> list[str]:
    return [line for block in blocks(page, "bash") for line in block.lines if line.startswith("seglens ")]


def words(line: str) -> list[str]:
    """What comes after `seglens`."""
    return shlex.split(line, comments=True)[1:]


class Reader:
    """A user who types what a page shows, line after line, and sees what it shows: a `text` block is
    what the command or the block of Python before it prints."""

    def __init__(self, seglens: Run, servers: contextlib.ExitStack):
        self.seglens, self.servers, self.names = seglens, servers, dict[str, Any]()
        self.printed, self.moved = "", dict[str, str]()  # addresses on the page, and where they are here

    def follow(self, page: str) -> None:
        for block in map(self.here, blocks(page)):
            if block.title:
                Path(block.title).parent.mkdir(parents=True, exist_ok=True)
                Path(block.title).write_text(block.text, encoding="utf-8")
            elif block.language == "python":
                self.python(block)
            elif block.language == "bash":
                self.printed = "".join(map(self.line, block.lines))
            elif block.language == "text":
                assert_shown(block.text, self.printed)
        for value in self.names.values():  # as at the end of a script: clients of a server hang up
            if not isinstance(value, type) and hasattr(value, "close"):
                value.close()

    def python(self, block: Block) -> None:
        if block.elsewhere:
            assert_callable(block.text)
            return
        caught = io.StringIO()
        with contextlib.redirect_stdout(caught):
            exec(compile(block.text, "a block of the page", "exec"), self.names)
        self.printed = caught.getvalue()

    def here(self, block: Block) -> Block:
        """The block with the addresses at which its servers really listen."""
        for address, real in self.moved.items():
            block = replace(block, text=block.text.replace(address, real))
        return block

    def line(self, line: str) -> str:
        """What the line prints."""
        command = MANY_PROCESSES.sub("seglens ", line)
        if ELSEWHERE.search(line):
            assert_known(command, self.seglens)
            return ""
        if line.startswith("curl "):
            return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout
        assert line.startswith("seglens "), f"the page shows a line that is not run: {line}"
        if stays := next((kind for kind in STAY if line.startswith(kind)), None):
            self.moved[STAY[stays]] = self.servers.enter_context(staying(words(line)))
            return ""
        code, out, err = self.seglens(*words(line))
        assert code == 0, f"{line}\n{out}{err}"
        return out


def assert_known(line: str, seglens: Run) -> None:
    """A command that cannot run here: the command exists, each of its options, and each dataset that it names."""
    arguments = words(line)
    code, help_text, _ = seglens(*arguments[: 2 if arguments[0] in GROUPS else 1], "--help")
    assert code == 0, line
    assert all(option in help_text for option in arguments if option.startswith("--")), line
    assert set(re.findall(r" ([a-z+_]+):\w+=", line)) <= {*DATASETS, *MIXTURES}, line


def assert_callable(code: str) -> None:
    """Python that cannot run here: what it imports exists, and takes the keywords that it is given."""
    known: dict[str, Any] = {}
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = import_module(str(node.module))
            known |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
    for call, target in _calls(tree, known):
        takes = inspect.signature(target).parameters
        if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in takes.values()):
            continue
        assert {word.arg for word in call.keywords} <= set(takes), ast.unparse(call)


def _calls(tree: ast.AST, known: dict[str, Any]) -> Iterator[tuple[ast.Call, Any]]:
    """Calls of names that were imported, or of their attributes."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        path = ast.unparse(node.func).split(".")
        if path[0] in known:
            target = known[path[0]]
            for name in path[1:]:
                target = getattr(target, name)
            yield node, target
