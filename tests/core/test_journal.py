"""A journal loses its last line at most, whoever is killed and however many write."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from seglens.core.journal import Journal, JournalError, OtherJournalError

HEADER = {"of": "a test"}


def rows(path: Path | None, **header: str) -> list[object]:
    return [row for _, row in Journal({**HEADER, **header}, path).new_rows()]


def test_rows_come_back_in_their_order(tmp_path: Path) -> None:
    journal = Journal(HEADER, tmp_path / "deep" / "j")
    assert list(journal.new_rows()) == []
    assert not journal.path.exists()  # type: ignore[union-attr]
    large = {"text": "ü" * 200_000}
    for row in ({"n": 1}, large, {"n": 3}):
        journal.add(row)
    new_rows = list(journal.new_rows())
    assert [row for _, row in new_rows] == [{"n": 1}, large, {"n": 3}]
    assert [journal.at(place) for place, _ in new_rows] == [{"n": 1}, large, {"n": 3}]
    assert list(journal.new_rows()) == []
    journal.add({"n": 4})
    assert [row for _, row in journal.new_rows()] == [{"n": 4}]
    assert rows(journal.path) == [{"n": 1}, large, {"n": 3}, {"n": 4}]


def test_cut_after_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(HEADER, path)
    journal.add({"n": 1})
    journal.add({"n": 2})
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        stored = max(0, whole[:cut].count(b"\n") - 1)
        assert rows(path) == [{"n": n + 1} for n in range(stored)]
        Journal(HEADER, path).add({"n": 9})
        assert rows(path) == [*({"n": n + 1} for n in range(stored)), {"n": 9}]


def test_another_journal_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "j"
    Journal(HEADER, path).add({"n": 1})
    with pytest.raises(OtherJournalError, match=r"journal of something else: {'of': 'a test'}"):
        rows(path, of="another")
    path.write_bytes(path.read_bytes() + b"{broken\n")
    with pytest.raises(JournalError, match="j is damaged at byte"):
        rows(path)


def test_without_a_path_it_leaves_nothing(tmp_path: Path) -> None:
    journal = Journal(HEADER, None, tmp_path)
    journal.add({"n": 1})
    assert [row for _, row in journal.new_rows()] == [{"n": 1}]
    assert list(tmp_path.iterdir()) == []


def test_many_processes_write_whole_rows(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from seglens.core.journal import Journal\n"
        f"journal = Journal({HEADER!r}, Path(sys.argv[1]))\n"
        "for n in range(40): journal.add({'who': sys.argv[2], 'n': n, 'text': 'x' * 9999})"
    )
    path = tmp_path / "j"
    running = [subprocess.Popen([sys.executable, "-c", script, path, str(who)]) for who in range(3)]
    assert [one.wait() for one in running] == [0, 0, 0]
    stored = [json.loads(json.dumps(row)) for row in rows(path)]
    for who in range(3):
        assert [row["n"] for row in stored if row["who"] == str(who)] == list(range(40))
