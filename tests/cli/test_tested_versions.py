"""One version, and one list of tested versions; both are printed, and what to install when a machine fails."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import latest
import seglens.cli.doctor_checks as doctor
import seglens.cli.tested_versions as installed
from command import Run
from latest import TESTS
from seglens import __version__
from seglens.cli.tested_versions import Package, installed_packages, remedy

ROOT = Path(__file__).parents[2]


def test_the_package_carries_the_tested_versions() -> None:
    carried, own = (path.read_bytes() for path in (installed.TESTED, ROOT / "constraints.txt"))
    assert carried == own, "run: cp constraints.txt src/seglens/constraints.txt"


def test_one_source_of_the_version(seglens: Run) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "seglens.__version__"}
    assert re.search(rf"^version: \"?{re.escape(__version__)}\"?$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert seglens("--version") == (0, f"seglens {__version__}\n", "")


def test_the_version_is_written_once_in_the_package_and_docker_takes_it_from_there() -> None:
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "docker").iterdir(), ROOT / "pyproject.toml", ROOT / "mkdocs.yml"]
    written = re.compile(rf"(?<![\d.]){re.escape(__version__)}(?![\d.])")
    holders = [path.relative_to(ROOT) for path in files if written.search(path.read_text(encoding="utf-8"))]
    assert holders == [Path("src/seglens/__init__.py")]
    assert json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))["info"]["version"] == __version__


def test_addresses_of_the_package_are_those_of_its_citation() -> None:
    addresses = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"].values()
    cited = (ROOT / "CITATION.cff").read_text()
    assert addresses
    assert [address for address in addresses if f'"{address}"' not in cited] == []


def test_packages_are_told_apart_by_version_not_by_build(tmp_path: Path) -> None:
    numpy = version("numpy")
    (tmp_path / "tested.txt").write_text(f"# words\nnumpy=={numpy}  # a remark\npillow==0.1\nnobody-made-this==1.0\n")
    numpy_, pillow = installed_packages(tmp_path / "tested.txt")
    assert (numpy_, numpy_.moved) == (Package("numpy", numpy, numpy), False)
    assert (str(pillow), pillow.moved) == (f"pillow {version('pillow')} (tested: 0.1)", True)
    assert not Package("torch", "2.13.0+cpu", "2.13.0").moved


def test_doctor_names_changed_packages_and_what_to_install(
    seglens: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tested = tmp_path / "tested.txt"
    tested.write_text(f"numpy=={version('numpy')}\ntransformers==5.1.0\n")
    monkeypatch.setattr("seglens.cli.tested_versions.TESTED", tested)
    one_check = {name: check for name, check in doctor.CHECKS.items() if name == "tested versions"}
    monkeypatch.setattr("seglens.cli.doctor_checks.CHECKS", {**one_check, "self-test": _sick})
    code, out, _ = seglens("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    moved = f"transformers {version('transformers')} (tested: 5.1.0)"
    text = f"1 of 2 packages have the version that the tests ran with; not {moved}"
    assert checks["tested versions"] == {"name": "tested versions", "ok": True, "says": text, "remedy": None}
    remedy = f'other versions of transformers; to install those: python -m pip install -c "{tested}" seglens'
    assert (code, checks["self-test"]["ok"]) == (1, False)
    assert checks["self-test"]["remedy"].endswith(remedy)
    code, out, _ = seglens("doctor")
    assert "FAIL self-test: TypeError: update() got an unexpected keyword" in out
    assert f"     what to do: the tests ran with {remedy}" in out


def test_with_the_tested_versions_the_remedy_is_to_install_seglens_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seglens.cli.tested_versions.moved_packages", lambda: [])
    assert "install SegLens again" in remedy()


def _sick() -> str:
    raise TypeError("update() got an unexpected keyword")


def test_the_newest_packages_are_tried_after_the_tested_ones() -> None:
    assert [path for path in TESTS if not (ROOT / path).is_file()] == []
    commands = re.findall(r"^make (\S+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert commands == ["test", "test-slow", "static", "test-latest"]
    recipe = (ROOT / "Makefile").read_text().partition("\ntest-latest:")[2].partition("\n\n")[0]
    assert "tests/latest.py" in recipe
    assert "-c constraints.txt" not in recipe, "only torch stays at the tested version"


def test_changed_packages_are_reported_first_and_when_something_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("latest.commands", lambda folder: {"demo": [sys.executable, "-c", "raise SystemExit(3)"]})
    monkeypatch.setattr("seglens.cli.tested_versions.moved_packages", lambda: [Package("transformers", "9.0", "5.0")])
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert latest.main(tmp_path) == 2
    assert "not from the wheel" in capsys.readouterr().out
    monkeypatch.setattr(sys, "prefix", str(Path(installed.TESTED).parent))
    assert latest.main(tmp_path) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "newer than constraints.txt: transformers 9.0 (tested: 5.0)"
    assert lines[2] == "demo failed with these packages newer than constraints.txt: transformers 9.0 (tested: 5.0)"
