"""Names that users type."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def check_name(name: str, known: Iterable[str], what: str) -> None:
    """Raises ValueError that lists the known names, and the nearest one."""
    known = list(known)
    if name not in known:
        raise ValueError(f"there is no {what} {name!r}; choose from {', '.join(known)}{did_you_mean(name, known)}")


def did_you_mean(name: str, known: Iterable[str], aside: str = "") -> str:
    """The end of a line of error: a question about the nearest name, or nothing where none is near."""
    near = difflib.get_close_matches(name.lower(), list(known), 1)
    return f"; did you mean {near[0]!r}{aside}?" if near else ""
