"""Everything that the README shows is run as it is written."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from command import Run
from page_examples import ELSEWHERE, Reader, blocks, seglens_lines
from seglens.cli import COMMANDS, GROUPS
from seglens.evaluation.costs import table, work_out

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


def test_newcomers_need_two_commands_of_make() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", "\n".join(re.findall(r"```.*?```|`[^`]+`", README, re.DOTALL))))
    assert named == {"demo", "test"}
    assert named <= targets


def test_the_first_page_is_short_and_its_links_and_pictures_exist() -> None:
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    assert len(prose.split()) < 1_000
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) > 15
    for link in links:
        file, _, heading = link.partition("#")
        assert (ROOT / file).is_file(), link
        if heading:
            titles = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, link


def test_every_command_is_in_the_list_of_commands() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    cells = [re.findall(r"`([^`]+)`", line.split("|")[1]) for line in page.splitlines() if line.startswith("| `")]
    listed = {words[0].split()[1]: {words[0].split()[-1], *words[1:]} for words in cells}
    assert listed.keys() == {*COMMANDS, "serve", *GROUPS}
    for name, (_, commands) in GROUPS.items():
        assert listed[name] == set(commands)


def test_the_table_of_models_is_what_the_command_prints() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if re.match(r"\| [\w.-]+ \| `\w+` \|", line)]
    configs = Path(__file__).parent / "backbones" / "configs"
    named = [row.split("|")[1].strip() for row in rows]
    assert sorted(named) == sorted(path.stem for path in configs.glob("*.json"))
    assert rows == table([work_out(str(configs / f"{name}.json")) for name in named]).splitlines()[2:]
