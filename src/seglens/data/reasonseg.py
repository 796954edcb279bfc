"""ReasonSeg (LISA, arXiv 2308.00692): photographs, each with a question that needs reasoning, and one mask.

    ROOT/ReasonSeg/{train,val,test}/NAME.jpg with NAME.json, and explanatory/train.json

Shapes are painted the largest first, so that small ones are on top; "flag" is left out, "ignore" becomes pixels that do
not count, the rest is the target. Painting is OpenCV's (see `polygon_paint`), pixel for pixel what LISA's reader gives.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from seglens.data.faults import DataError, RecordFault
from seglens.data.image_record import DecodedMask, ImageRecord, QueryRecord
from seglens.data.polygon_paint import paint
from seglens.data.records import Bad, Records

Split = Literal["train", "val", "test"]
Sentences = Literal["auto", "first", "all"]
Corners = Int64[np.ndarray, "_ 2"]
_FURTHEST = 1e6  # pixels


@dataclass(frozen=True)
class Shapes:
    """Outlines: whether the inside is ignored, and its corners (x, y) in whole pixels."""

    shapes: tuple[tuple[bool, Corners], ...]

    def draw(self, size: tuple[int, int]) -> DecodedMask:
        painted = [(ignored, paint(corners, size)) for ignored, corners in self.shapes]
        # LISA sorts upwards and reverses: of two with the same area, the earlier lies on top.
        order = np.argsort([mask.sum() for _, mask in painted], kind="stable")[::-1]
        target, ignore = np.zeros(size, bool), np.zeros(size, bool)
        for i in order:
            ignored, mask = painted[i]
            target = target & ~mask if ignored else target | mask
            ignore = ignore | mask if ignored else ignore & ~mask
        return DecodedMask(target, ignore if ignore.any() else None)


def reasonseg(root: Path, split: Split = "val", sentences: Sentences = "auto", bad: Bad = "refuse") -> Records:
    """The official evaluation uses the first sentence of each image: so does `auto` for val and test; for train it
    gives all, where LISA draws at random from the rephrasings."""
    first = sentences == "first" or (sentences == "auto" and split != "train")
    return Records(f"reasonseg {split}", entries(root, split, first), trainable=split == "train", bad=bad)


def entries(root: Path, split: str, first: bool) -> Iterator[ImageRecord | RecordFault]:
    """An ImageRecord for each photograph of the split, or what is wrong with its files."""
    folder = root / "ReasonSeg" / split
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; need ROOT/ReasonSeg/{split}: unpack ReasonSeg there, or mend root=")
    names = {ending: {path.stem for path in folder.glob(f"*{ending}")} for ending in (".jpg", ".json")}
    answers = dict[str, str]()
    if split == "train":
        yield from _answers(root / "ReasonSeg" / "explanatory" / "train.json", names[".jpg"], answers)
    for name in sorted(names[".jpg"] | names[".json"]):
        image, file = folder / f"{name}.jpg", folder / f"{name}.json"
        missing = next((path for path in (image, file) if path.stem not in names[path.suffix]), None)
        try:
            if missing is not None:
                raise ValueError(f"{missing.name} is missing; need the photograph and its json")
            yield ImageRecord(name, image, str(file), _asks(_json(file), first, answers.get(image.name)))
        except ValueError as error:
            yield RecordFault(str(file), name, str(error))


def _answers(file: Path, known: set[str], answers: dict[str, str]) -> Iterator[RecordFault]:
    """Fill in the explanations by the name of their photograph. They are optional."""
    if not file.exists():
        return
    try:
        items = _json(file)
        if not isinstance(items, list):
            raise ValueError(f"holds a {type(items).__name__}; need a list of image, query and outputs")
    except ValueError as error:
        raise DataError(f"{file}: {error}") from None
    for number, item in enumerate(items):
        image, answer = (item.get(key) if isinstance(item, dict) else None for key in ("image", "outputs"))
        if not isinstance(image, str) or not isinstance(answer, str) or not answer.strip():
            yield RecordFault(str(file), f"item {number}", "needs the name of an image and its outputs, in words")
        elif Path(image).stem not in known:
            yield RecordFault(str(file), f"item {number}", f"{image[:80]!r} is not among the photographs of train")
        else:
            answers[image] = answer


def _asks(content: Any, first: bool, answer: str | None) -> tuple[QueryRecord, ...]:
    texts, long, shapes = (_get(content, key) for key in ("text", "is_sentence", "shapes"))
    if not isinstance(texts, list) or not texts:
        raise ValueError("text needs to be a list of one sentence or more")
    if not isinstance(long, bool):
        raise ValueError(f"is_sentence is a {type(long).__name__}; needs true or false")
    mask = Shapes(tuple(_shapes(shapes)))
    if all(ignored for ignored, _ in mask.shapes):
        raise ValueError("shapes holds no target")
    kind = "long" if long else "short"
    return tuple(
        QueryRecord(_words(text, number), mask, f"text[{number}]", kind, answer)
        for number, text in enumerate(texts[:1] if first else texts)
    )


def _words(text: Any, number: int) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"text[{number}] is empty, or no text")
    return text.strip()


def _shapes(shapes: Any) -> Iterator[tuple[bool, Corners]]:
    """The shapes that count: whether ignored, and their corners. Read early, so that a bad file is known at once."""
    if not isinstance(shapes, list):
        raise ValueError("shapes needs to be a list")
    for number, shape in enumerate(shapes):
        label, points = _get(shape, "label"), _get(shape, "points")
        if not isinstance(label, str):
            raise ValueError(f"shapes[{number}] has a label that is no text")
        if label.lower() == "flag":
            continue
        try:
            corners = _corners(points)
        except ValueError as error:
            raise ValueError(f"shapes[{number}]: {error}") from None
        yield "ignore" in label.lower(), corners


def _corners(points: Any) -> Corners:
    """Whole pixels, cut towards zero as LISA's int32 does."""
    try:
        corners = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("points are not pairs of numbers") from None
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise ValueError(f"points are of shape {corners.shape}; need x and y of at least three")
    if not (np.isfinite(corners).all() and np.abs(corners).max() < _FURTHEST):
        raise ValueError("a point is no pixel")
    return corners.astype(np.int64)


def _get(record: Any, key: str) -> Any:
    if not isinstance(record, Mapping) or key not in record:
        raise ValueError(f"{key} is missing")
    return record[key]


def _json(file: Path) -> Any:
    """UTF-8 or, as some of the published files are, Windows' cp1252."""
    raw = file.read_bytes()
    try:
        try:
            return json.loads(raw.decode("utf-8-sig"))
        except UnicodeDecodeError:
            return json.loads(raw.decode("cp1252"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no whole json ({' '.join(str(error).split())[:100]}); unpack it again") from None
