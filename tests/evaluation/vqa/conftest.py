"""Benchmark files small enough to see through."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WriteTable = Callable[[Path, Sequence[Mapping[str, str]]], Path]


@pytest.fixture(scope="session")
def encoded() -> str:
    """A small picture as base64 of its PNG."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="session")
def write_table() -> WriteTable:
    """A table by tabs, quoted as pandas quotes."""

    def write(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write
