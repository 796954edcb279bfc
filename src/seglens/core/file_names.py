"""Names of files from the words of people."""

from __future__ import annotations

import unicodedata

from seglens.core.files import digest


def slug(text: str, longest: int = 80) -> str:
    """A file name for a query: letters and digits of any script, never a path, at most `longest` bytes. A text that has
    none or is too long ends in a digest of the whole, so that two such texts have two names."""
    kept = letters(text)
    if kept and len(kept.encode()) <= longest:
        return kept
    mark = digest(text.encode("utf-8", "surrogatepass"))[:8]
    return f"{cut(kept, longest - len(mark) - 1) or 'query'}_{mark}"


def letters(text: str) -> str:
    """The letters (with their marks) and digits of any script, in lower case, the rest as "_" between them."""
    kept = "".join(c if c.isalnum() or unicodedata.category(c).startswith("M") else " " for c in text.lower())
    return "_".join(unicodedata.normalize("NFC", kept).split())


def cut(name: str, longest: int) -> str:
    """The beginning of a name, at most `longest` bytes."""
    return name.encode()[:longest].decode(errors="ignore").strip("_")
