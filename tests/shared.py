"""Real material for tests that is not part of the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PLACES = (os.environ.get("SEGLENS_SHARED", ""), Path(__file__).parents[2] / "shared")


def shared(path: str) -> Path:
    """A file or folder of the shared data, or a skipped test where this machine has none."""
    for place in filter(None, PLACES):
        if (Path(place) / "data" / path).exists():
            return Path(place) / "data" / path
    pytest.skip(f"needs shared/data/{path} beside the project (or SEGLENS_SHARED)")
