"""The package is light to import, its public names are fixed, and imports go down only."""

from __future__ import annotations

import json
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
    assert seglens.__all__ == ["OpenedImage", "Prediction", "Segmenter", "__version__"]
    for name in seglens.__all__:
        assert getattr(seglens, name) is not None
    with pytest.raises(AttributeError, match="public names: OpenedImage, Prediction, Segmenter"):
        seglens.Segmentor  # noqa: B018


def test_imports_go_down_only() -> None:
    script = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([script, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
