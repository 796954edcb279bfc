"""Sentences for people."""

from __future__ import annotations

import pytest

from seglens.core.text import shortened


@pytest.mark.parametrize(
    ("count", "text"), [(0, ""), (1, "0"), (3, "0; 1; 2"), (4, "0; 1; 2; and 1 more"), (900, "0; 1; 2; and 897 more")]
)
def test_a_long_list_is_shortened_and_its_rest_counted(count: int, text: str) -> None:
    assert shortened(range(count), 3) == text


def test_separator_and_rest_can_be_chosen() -> None:
    assert shortened(["{}", "b", "c"], 2, ", ") == "{}, b, and 1 more"
    assert shortened("abc", 2, ", ", "...") == "a, b, ..."
    assert shortened("abc", 3, ", ", "...") == "a, b, c"
