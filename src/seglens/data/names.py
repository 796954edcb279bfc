"""Names that users type."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def check_name(name: str, known: Iterable[str], what: str) -> None:
    """Raises ValueError that lists the known names, and the nearest one."""
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no {what} {name!r}; choose from {', '.join(known)}{hint}")
