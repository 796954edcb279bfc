"""The files that words on a command line name: files, folders of images, globs."""

from __future__ import annotations

import glob
import itertools
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from seglens.core.png_files import mark_of
from seglens.data.image_decoding import PLUGIN, ImageError, suffixes
from seglens.inference.video import VIDEOS

OURS = "made by SegLens"
NEEDS_A_PLUGIN = frozenset((".heic", ".heif", ".hif"))


@dataclass(frozen=True)
class Found:
    """Files in a stable order, and the number of those left out, by their ending or kind. `searched`: they were
    searched for, in a folder or by a glob; `base` is the folder from which their names count."""

    base: Path
    paths: tuple[Path, ...]
    left_out: Counter[str] = field(default_factory=Counter)
    searched: bool = False


def find(word: str) -> Found:
    """The files that a word names: a file with any ending; all images under a folder; what a glob matches (`**`
    for folders of any depth). In folders and globs, hidden files and pictures made by SegLens are left out.

    Raises ImageError on a folder or a glob that holds nothing of use. A name that does not exist counts as a file:
    reading it raises the error."""
    path = Path(os.path.expanduser(word))
    if path.is_dir():
        return _folder(path)
    if path.exists() or not glob.has_magic(word):  # a file's name may hold brackets
        return Found(path.parent, (path,))
    return _glob(os.path.expanduser(word))


def matches(pattern: str) -> bool:
    """Whether a word is a glob for something that is there."""
    return glob.has_magic(pattern) and next(glob.iglob(os.path.expanduser(pattern), recursive=True), None) is not None


def _folder(folder: Path) -> Found:
    found = _sorted_out(folder, sorted(folder.rglob("*")), suffixes())
    if not found.paths:
        videos = sum(count for ending, count in found.left_out.items() if ending in VIDEOS)
        hint = f"it holds {videos} videos: name them, or use a glob" if videos else "check the path"
        raise ImageError(f"the folder {str(folder)!r} holds no image{_instead(found)}; {hint}")
    return found


def _glob(pattern: str) -> Found:
    base = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts))
    files = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    found = _sorted_out(base, files, suffixes() | VIDEOS)
    if not found.paths:
        matched = f"matches {len(files)} files, no image or video among them" if files else "matches nothing"
        raise ImageError(
            f"{pattern!r} {matched}{_instead(found)}; check the path, and quote it so that the shell leaves it alone"
        )
    return found


def _sorted_out(base: Path, paths: list[Path], taken: frozenset[str]) -> Found:
    """Without pictures made by SegLens. Its copies of pictures are left out where there are other pictures; where there
    are no others, they are used."""
    others, copies, left_out = list[Path](), list[Path](), Counter[str]()
    for path in paths:
        ending = path.suffix.lower()
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(base).parts):
            continue
        mark = mark_of(path) if ending == ".png" and ending in taken else None
        if ending not in taken:
            left_out[ending or "without an ending"] += 1
        elif mark == "result":
            left_out[OURS] += 1
        else:
            (copies if mark else others).append(path)
    if not others:
        return Found(base, tuple(copies), left_out, searched=True)
    left_out[OURS] += len(copies)
    return Found(base, tuple(others), +left_out, searched=True)


def left_out_text(left_out: Counter[str]) -> str:
    """In words, as in "2 .txt, 1 .heic (...)"; empty where nothing was left out."""
    return ", ".join(f"{count} {what}{_why(what)}" for what, count in sorted(left_out.items()))


def _why(what: str) -> str:
    if what in NEEDS_A_PLUGIN:
        return f" (pip install {PLUGIN} to read them)"
    return " (videos: name them, or use a glob)" if what in VIDEOS else ""


def _instead(found: Found) -> str:
    return f", but {left_out_text(found.left_out)}" if found.left_out else f"; need {', '.join(sorted(suffixes()))}"
