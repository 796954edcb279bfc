"""Work in separate processes, on a module that does nearly nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from seglens.embedded.subprocess_jobs import StageError, keep_report, kept_report, side_by_side

MODULE = """
import pathlib, sys, time
_, folder, name, needed, seconds, threads = sys.argv
for other in filter(None, needed.split(",")):
    assert pathlib.Path(folder, other).exists(), f"{name} began before {other}"
assert int(threads) >= 1
time.sleep(float(seconds))
pathlib.Path(folder, name).touch()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "unit_of_work.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "unit_of_work"


def test_units_wait_for_what_they_need(module: str, tmp_path: Path) -> None:
    needs = {"c": ("a", "b"), "a": ("elsewhere",)}  # what is not among the work is done
    work = {name: (module, str(tmp_path), name, "a,b" if name == "c" else "", "0.2") for name in "cab"}
    finished = list[str]()
    side_by_side(work, 2, needs, lambda name, seconds: finished.append(name))
    assert sorted(finished[:2]) == ["a", "b"]
    assert finished[2] == "c"
    assert all((tmp_path / name).exists() for name in "abc")


def test_units_that_wait_for_one_another_are_refused(module: str, tmp_path: Path) -> None:
    work = {name: (module, str(tmp_path), name, "", "0") for name in "ab"}
    with pytest.raises(ValueError, match="cycle"):
        side_by_side(work, 2, {"a": ("b",), "b": ("a",)})
    assert not (tmp_path / "a").exists()


def test_a_unit_that_fails_ends_the_others(module: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    work = {"long": (module, str(tmp_path), "long", "", "30"), "bad": (module, str(tmp_path), "bad", "missing", "0")}
    with pytest.raises(StageError, match="'bad' failed with exit code 1; its output is above"):
        side_by_side(work, 2)
    assert "bad began before missing" in capfd.readouterr().err
    assert not (tmp_path / "long").exists()


def test_a_report_holds_while_what_it_depends_on_does(tmp_path: Path) -> None:
    depends_on = {"steps": 3, "targets": ("q_proj", "v_proj"), "alpha": None}
    assert kept_report(tmp_path, depends_on) is None
    keep_report(tmp_path, depends_on, {"gIoU": 0.5})
    assert kept_report(tmp_path, depends_on) == {"gIoU": 0.5}
    assert kept_report(tmp_path, {**depends_on, "steps": 4}) is None
