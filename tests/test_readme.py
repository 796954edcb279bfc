"""Everything that the README shows is run as it is written."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from command import Run
from seglens.evaluation.costs import table, work_out
from shown import ELSEWHERE, Reader, blocks, seglens_lines

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_from_the_first_line_to_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seglens: Run) -> None:
    """One test, because what comes first writes the files that come next. Of lines that cannot run here, each option
    must exist, and each dataset that they name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # no help text cuts an option
    assert "$(BIN)/seglens demo" in MAKEFILE
    assert seglens("demo")[0] == 0
    assert blocks(README, "python")
    assert len([line for line in seglens_lines(README) if not ELSEWHERE.search(line)]) >= 6
    with ExitStack() as servers:
        Reader(seglens, servers).follow(README)


def test_make_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", "\n".join(re.findall(r"```.*?```|`[^`]+`", README, re.DOTALL))))
    assert {"demo", "test"} <= named <= targets


def test_the_table_of_models_is_what_the_command_prints() -> None:
    rows = [line for line in README.splitlines() if re.match(r"\| [\w.-]+ \| `\w+` \|", line)]
    configs = Path(__file__).parent / "backbones" / "configs"
    named = [row.split("|")[1].strip() for row in rows]
    assert sorted(named) == sorted(path.stem for path in configs.glob("*.json"))
    assert rows == table([work_out(str(configs / f"{name}.json")) for name in named]).splitlines()[2:]
