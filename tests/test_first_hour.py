"""The notebook of the first hour runs from top to bottom, and is kept without what a run prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seglens import Segmenter

NOTEBOOK = Path(__file__).parents[1] / "examples" / "first_hour.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], len({cell["id"] for cell in notebook["cells"]})) == (4, len(notebook["cells"]))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_its_cells_run_in_order(
    cells: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"code cell {number}", "exec"), names)
    assert isinstance(names["segmenter"], Segmenter)
    assert names["segmenter"].config.method == "localization"  # nothing in it is trained
    assert names["deer"].found
    assert names["clicked"].mask.any()
    assert [answer.found for answer in names["answers"]] == [True, True, False]
    assert len(names["things"]) > 1
    assert (tmp_path / "out" / "first_hour" / "coco.json").is_file()
    assert "not found" not in capsys.readouterr().out


def test_it_is_kept_without_outputs(cells: list[dict[str, Any]]) -> None:
    assert cells
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
