"""Names of files, and the things of predictions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exports.predictions import prediction_of, two_cups
from seglens.exports.page import LONGEST, AnnotatedImage, file_name, things_of

EMPTY = np.zeros((4, 5), bool)


def names(image: str, *queries: str) -> list[str]:
    return AnnotatedImage(image, [prediction_of(query, EMPTY) for query in queries]).file_names()


def test_file_names_of_queries() -> None:
    assert names("A b", "cat", "dog") == ["a_b_cat", "a_b_dog"]
    long = "the thing that keeps you dry when it rains cats and dogs"
    several = names("x", long, long + " today", "cat", "CAT", "雨", "雪")
    assert len(set(several)) == 6
    assert "x_cat_2" in several
    assert len(set(names("x", "cat", "cat", "cat 1"))) == 3


@given(st.text())
def test_a_name_is_never_a_path_and_always_fits(text: str) -> None:
    name = file_name(text)
    assert 0 < len(name.encode()) <= LONGEST
    assert not set(name) & set("/\\:*?<>|\"' \0.")
    assert file_name(name) == name


def test_a_name_keeps_its_letters_and_its_end() -> None:
    assert file_name("Ordner/Grün 雨") == "ordner_grün_雨"
    assert file_name("../..") == "image"
    assert file_name("clip " * 60 + "000123").endswith("clip_000123")


def test_things() -> None:
    cups, cat = two_cups(), prediction_of("cat", ~EMPTY)
    assert [(one.query, one.instance.score) for one in things_of([cups, prediction_of("dog", EMPTY), cat])] == [
        ("each of the cups", 0.9),
        ("each of the cups", 0.8),
        ("cat", 0.75),
    ]
    assert np.array_equal(next(things_of(cat)).instance.mask, cat.mask)


def test_a_page_has_a_prediction() -> None:
    with pytest.raises(ValueError, match="'x' has no prediction"):
        AnnotatedImage("x", [])
