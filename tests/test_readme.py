"""Everything that the README shows is run as it is written."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from seglens.cli import GROUPS, main
from seglens.costs import table, work_out
from seglens.data import DATASETS
from seglens.data.mixing import MIXTURES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


LINES = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("seglens ")]
ELSEWHERE = re.compile(r"--device cuda|llava-hf/|/data/|photos/")  # lines that need a GPU, a hub or somebody's data
COMMANDS = [shlex.split(line, comments=True)[1:] for line in LINES if not ELSEWHERE.search(line)]


def seglens(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["seglens", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_from_the_first_line_to_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One test, because what comes first writes the files that come next."""
    monkeypatch.chdir(tmp_path)
    assert "$(BIN)/seglens tour" in MAKEFILE
    assert seglens(["tour"], monkeypatch) == 0
    assert blocks("python")
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
    assert len(COMMANDS) >= 6
    for arguments in COMMANDS:
        assert seglens(arguments, monkeypatch) == 0, arguments


def test_make_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", "\n".join(re.findall(r"```.*?```|`[^`]+`", README, re.DOTALL))))
    assert {"demo", "test"} <= named <= targets


def test_commands_that_cannot_run_here_are_real_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Each of their options must exist, and each dataset that they name."""
    monkeypatch.setenv("COLUMNS", "200")
    for line in filter(ELSEWHERE.search, LINES):
        arguments = shlex.split(line, comments=True)[1:]
        command = arguments[: 2 if arguments[0] in GROUPS else 1]
        assert seglens([*command, "--help"], monkeypatch) == 0
        shown = capsys.readouterr().out
        assert all(option in shown for option in arguments if option.startswith("--")), line
        named = re.findall(r" ([a-z+_]+):\w+=", line)
        assert set(named) <= {*DATASETS, *MIXTURES}, line


def test_the_table_of_models_is_what_the_command_prints() -> None:
    rows = [line for line in README.splitlines() if re.match(r"\| [\w.-]+ \| `\w+` \|", line)]
    configs = Path(__file__).parent / "backbones" / "configs"
    named = [row.split("|")[1].strip() for row in rows]
    assert sorted(named) == sorted(path.stem for path in configs.glob("*.json"))
    assert rows == table([work_out(str(configs / f"{name}.json")) for name in named]).splitlines()[2:]
