"""What the README and the pages show, run as they show it."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from textwrap import dedent
from time import monotonic, sleep
from typing import IO, Any

import seglens
from command import Run
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
# What runs until it is stopped, and the address of it that pages show
STAY = {"seglens serve": "http://127.0.0.1:8000", "seglens mcp --http": "http://127.0.0.1:8001"}
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


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
    found = [Block(m["language"], dedent(m["text"]), m["title"]) for m in FENCE.finditer(page)]
    return [block for block in found if language in (None, block.language)]


def seglens_lines(page: str) -> list[str]:
    return [line for block in blocks(page, "bash") for line in block.lines if line.startswith("seglens ")]


def words(line: str) -> list[str]:
    """What stands behind `seglens`."""
    return shlex.split(line, comments=True)[1:]


class Reader:
    """Somebody who types what a page shows, line after line, and sees what it says they will see: a `text` block is
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
        for shown, real in self.moved.items():
            block = replace(block, text=block.text.replace(shown, real))
        return block

    def line(self, line: str) -> str:
        """What the line prints."""
        command = MANY_PROCESSES.sub("seglens ", line)
        if ELSEWHERE.search(line):
            assert_known(command, self.seglens)
            return ""
        if line.startswith("curl "):
            return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout
        assert line.startswith("seglens "), f"the page shows a line that nobody runs: {line}"
        if stays := next((kind for kind in STAY if line.startswith(kind)), None):
            self.moved[STAY[stays]] = self.servers.enter_context(staying(words(line)))
            return ""
        code, out, err = self.seglens(*words(line))
        assert code == 0, f"{line}\n{out}{err}"
        return out


@contextlib.contextmanager
def staying(arguments: list[str]) -> Iterator[str]:
    """A command that runs until it is told to stop, as a process of its own on a free port; its address."""
    command = [sys.executable, "-u", "-m", "seglens", *arguments]
    here = str(Path(seglens.__file__).parents[1])  # this very package, wherever the process starts
    environment = {**os.environ, "SEGLENS_PORT": "0", "PYTHONPATH": here}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            yield _address(process, log)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) in (0, 130), arguments
        finally:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen, log: IO[str], patience: float = 120.0) -> str:
    """Where it says that it listens; it answers there."""
    until = monotonic() + patience
    while monotonic() < until and process.poll() is None:
        log.seek(0)
        if found := re.search(r"(http://127\.0\.0\.1:\d+)/?\S*\b", log.read()):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", int(found[1].rpartition(":")[2])), 5).close()
                return found[1]
        sleep(0.05)
    log.seek(0)
    raise AssertionError(f"it did not come up:\n{log.read()}")


def assert_known(line: str, seglens: Run) -> None:
    """A command that cannot run here: the command exists, each of its options, and each dataset that it names."""
    arguments = words(line)
    code, shown, _ = seglens(*arguments[: 2 if arguments[0] in GROUPS else 1], "--help")
    assert code == 0, line
    assert all(option in shown for option in arguments if option.startswith("--")), line
    assert set(re.findall(r" ([a-z+_]+):\w+=", line)) <= {*DATASETS, *MIXTURES}, line


def assert_callable(code: str) -> None:
    """Python that cannot run here: what it imports exists, and takes the keywords that it is given."""
    known: dict[str, Any] = {}
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found = import_module(str(node.module))
            known |= {alias.asname or alias.name: getattr(found, alias.name) for alias in node.names}
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


def assert_shown(shown: str, printed: str) -> None:
    """The page shows what was printed: word for word, where "..." stands for anything on a line (alone: for any
    lines), and numbers up to what another machine rounds otherwise."""
    rest = [line.rstrip() for line in printed.strip().splitlines()]
    skip = False
    for line in shown.strip().splitlines():
        if line.strip() == "...":
            skip = True
            continue
        while skip and rest and not _alike(line, rest[0]):
            rest.pop(0)
        assert rest, f"the page shows {line!r}; nothing more was printed:\n{printed}"
        assert _alike(line, rest[0]), f"the page shows\n  {line}\nbut what was printed is\n  {rest[0]}"
        rest.pop(0)
        skip = False
    assert skip or not rest, f"the page leaves out {rest}"


def _alike(shown: str, printed: str) -> bool:
    pattern = r"\s+".join(map(_pattern, shown.split()))
    found = re.fullmatch(rf"\s*{pattern}\s*", printed)
    if not found:
        return False
    pairs = zip_longest(NUMBER.findall(shown.replace("...", " ")), found.groups())
    return all(abs(float(a) - float(b)) <= 0.02 + 0.05 * abs(float(a)) for a, b in pairs)


def _pattern(word: str) -> str:
    """A word as a pattern: "..." for anything, a group for each number."""
    made = "".join(
        ".*" if part == "..." else f"({NUMBER.pattern})" if NUMBER.fullmatch(part) else re.escape(part)
        for part in re.split(rf"(\.\.\.|{NUMBER.pattern})", word)
    )
    return made
