"""A contact sheet shows every query, at any size and in any language."""

from __future__ import annotations

import numpy as np
import pytest

from seglens.core.types import Sample, Target
from seglens.data.contact_sheet import COLUMNS, GAP, MASK, SIDE, sheet


def sample(height: int, width: int, *targets: Target) -> Sample:
    return Sample("an image", np.full((height, width, 3), 100, np.uint8), targets)


def test_masks_are_painted_and_ignored_pixels_are_gray() -> None:
    mask, ignore = np.zeros((100, 80), bool), np.zeros((100, 80), bool)
    mask[20:60, 10:50] = ignore[80:] = True
    picture = np.asarray(sheet(sample(100, 80, Target("the cat", mask, ignore=ignore))))
    plain = picture[GAP : GAP + 100, GAP : GAP + 80]
    assert (plain == 100).all()
    left = GAP + SIDE // 2 + GAP
    painted = picture[GAP : GAP + 100, left : left + 80]
    assert (painted[20, 10:50] == MASK).all()  # the outline
    assert (painted[40, 30] == np.array(MASK) // 2 + 50).all()
    assert (painted[90, 40] == 114).all()
    assert (painted[5] == 100).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3), (900, 1200)])
def test_any_size(size: tuple[int, int]) -> None:
    targets = [Target(f"query {number}", np.ones(size, bool)) for number in range(6)]
    picture = sheet(sample(*size, *targets))
    assert picture.width <= COLUMNS * (SIDE + GAP) + GAP
    assert picture.height <= 2 * (SIDE + GAP + 80)


def test_any_words() -> None:
    empty = np.zeros((30, 40), bool)
    for words in ("", "a very long question " * 30, "那只猫 🦌", "x" * 500, "\ud800", "a\nb\tc"):
        sheet(sample(30, 40, Target(words, empty)))
    texts = [np.asarray(sheet(sample(30, 40, Target(words, empty)))) for words in ("the cat", "the dog")]
    assert (texts[0] != texts[1]).any()
