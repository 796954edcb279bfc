"""Folders and text files of a user's own data: their content, or one line that explains why it cannot be used."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any, Literal

from seglens.data.faults import DataError, RecordFault
from seglens.data.image_decoding import suffixes

IMAGES = suffixes()
Split = Literal["train", "val", "test"]


def need_folder(path: Path, what: str) -> Path:
    if not path.is_dir():
        raise DataError(f"there is no folder {str(path)!r}; {what}: check the path")
    return path


def located(folder: Path, name: str) -> Path:
    """The file that an annotation names: as it is written, or else with Windows' backslashes turned, or its accents in
    the other form of Unicode (macOS writes é as two characters). As it is written where no such file exists."""
    turned = name.replace("\\", "/")
    forms = (name, turned, *(unicodedata.normalize(form, turned) for form in ("NFC", "NFD")))
    return next((folder / one for one in forms if (folder / one).is_file()), folder / name)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark. Raises DataError where there is no such file."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path and its rights") from None


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises DataError that names the line with the mistake."""
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno}: is not JSON ({error.msg}); export it again") from None
    except RecursionError:
        raise DataError(f"{path} is nested too deeply to be an annotation file; export it again") from None
    except ValueError as error:  # Python refuses numbers of thousands of digits
        raise DataError(f"{path} cannot be read ({error}); export it again") from None


def by_stem(folder: Path, suffixes: frozenset[str]) -> tuple[dict[str, Path], list[RecordFault]]:
    """Files under `folder` by their path in it without the suffix, in order; where two share one, a RecordFault
    instead, as their masks cannot be told apart. Hidden files (`._photo.jpg` of macOS) and others are ignored."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.suffix.lower() in suffixes and not any(part.startswith(".") for part in inside.parts):
            files.setdefault(unicodedata.normalize("NFC", inside.with_suffix("").as_posix()), []).append(path)
    return {stem: paths[0] for stem, paths in files.items() if len(paths) == 1}, [
        RecordFault(
            str(folder),
            stem,
            f"{' and '.join(path.name for path in paths)} have the same stem, so that it is unclear what belongs to "
            "which; rename or drop one",
            "duplicate id",
        )
        for stem, paths in files.items()
        if len(paths) > 1
    ]
