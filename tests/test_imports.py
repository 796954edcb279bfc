"""The package is light to import, its public names are fixed, and imports go down only."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import seglens

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "accelerate", "PIL", "numpy", "typer")


def modules_after(statement: str) -> set[str]:
    code = f"{statement}; import json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_the_package_is_light() -> None:
    assert not modules_after("import seglens; seglens.__version__; dir(seglens)").intersection(HEAVY)


def test_the_command_line_starts_light() -> None:
    assert not modules_after("import seglens.cli").intersection({"torch", "transformers", "numpy"})


def test_public_names() -> None:
    for name in seglens.__all__:
        assert getattr(seglens, name) is not None
    assert set(seglens.__all__) <= set(dir(seglens))
    with pytest.raises(AttributeError, match="public names: Agent, AnnotatedImage"):
        seglens.Segmentor  # noqa: B018


def test_what_is_public_is_imported_from_the_package_itself_in_the_docs() -> None:
    """A name that has its own place in `seglens` is not taught with a second one."""
    pages = [ROOT / "README.md", *(page for page in (ROOT / "docs").glob("*.md") if page.name != "log.md")]
    lines = [line for page in pages for line in page.read_text().splitlines()]
    matches = [re.fullmatch(r"from (seglens\.[\w.]+) import ([\w, ]+)", line) for line in lines]
    taught = {(one[1], name.strip()) for one in matches if one for name in one[2].split(",")}
    assert taught
    assert not {(place, name) for place, name in taught if name in seglens.__all__}


def test_imports_go_down_only() -> None:
    script = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([script, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
