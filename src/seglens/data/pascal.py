"""Pascal Context and Pascal VOC for open-vocabulary segmentation: the tables' PC-59, PC-459 and PAS-20.

Each is read in the layouts that people have on disk: as published (Pascal Context's own .mat files beside VOC2010,
VOC2012's palette maps), as mmsegmentation converts them, and in the two folders of detectron2's kind. The first one
that exists is read. Pixels of no class (VOC's background, Context's other things) are ignored, as borders are.
Words that VOC writes together are separate here: potted plant, tv monitor, dining table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from seglens.data.faults import DataError, RecordFault
from seglens.data.image_record import ImageRecord
from seglens.data.reading import read_text
from seglens.data.records import Bad, Records
from seglens.data.semantic import IGNORED, LISTS, Classes, Split, holds, label_queries, numbered

WIDE = 65535  # what maps of 16 bits ignore
VOC20 = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "dining table",
    "dog",
    "horse",
    "motorbike",
    "person",
    "potted plant",
    "sheep",
    "sofa",
    "train",
    "tv monitor",
)
PART = {"train": "training", "val": "validation"}
CONTEXT = "VOCdevkit/VOC2010"
PHOTOS = f"{CONTEXT}/JPEGImages"
VOC = "VOCdevkit/VOC2012"


@dataclass(frozen=True)
class PascalLayout:
    """Where photographs and label maps are below a root, what the values of a map mean, and which file lists those of a
    split (the first one that exists; without one, all maps of the folder are the split's)."""

    images: str
    labels: str
    names: Mapping[int, str]
    ignored: frozenset[int]
    ending: str = ".png"
    listed: Sequence[str] = ()
    other: frozenset[int] = field(default=frozenset())  # values of pixels of no class

    def exists(self, root: Path) -> bool:
        return (root / self.labels).is_dir()


def pc59(root: Path, split: Split = "val", bad: Bad = "refuse") -> Records:
    """Pascal Context's 59 most frequent classes."""
    known = numbered(LISTS / "pascal_context_59.txt")
    rest = frozenset(range(1 + len(numbered(LISTS / "pascal_context.txt")))) - frozenset(known)
    from_1 = dict(enumerate(known.values(), 1))
    layouts = [
        *_detectron(split, "59", known, IGNORED, ".png"),
        PascalLayout(
            PHOTOS,
            f"{CONTEXT}/SegmentationClassContext",
            from_1,
            frozenset((0, IGNORED)),
            listed=_lists(split),
            other=frozenset((0,)),
        ),
        PascalLayout(PHOTOS, f"{CONTEXT}/trainval", known, rest, ".mat", _lists(split), rest - {0}),
    ]
    return _records("pc59", root, split, bad, layouts)


def pc459(root: Path, split: Split = "val", bad: Bad = "refuse") -> Records:
    """All 459 classes of Pascal Context."""
    known = numbered(LISTS / "pascal_context.txt")
    published = PascalLayout(PHOTOS, f"{CONTEXT}/trainval", known, frozenset((0,)), ".mat", _lists(split))
    return _records("pc459", root, split, bad, [*_detectron(split, "459", known, WIDE, ".tif"), published])


def _detectron(split: str, count: str, known: Mapping[int, str], ignored: int, ending: str) -> list[PascalLayout]:
    """The two layouts whose maps count the classes from 0 and ignore the highest value."""
    names, part = dict(enumerate(known.values())), PART[split]
    return [
        PascalLayout(
            PHOTOS, f"{CONTEXT}/annotations_detectron2/pc{count}_{split}", names, frozenset((ignored,)), ending
        ),
        PascalLayout(
            f"pascal_ctx_d2/images/{part}",
            f"pascal_ctx_d2/annotations_ctx{count}/{part}",
            names,
            frozenset((ignored,)),
            ending,
        ),
    ]


def _lists(split: str) -> list[str]:
    """mmsegmentation's list, else that of VOC2010, whose train and val are those of Pascal Context."""
    return [f"{CONTEXT}/ImageSets/{folder}/{split}.txt" for folder in ("SegmentationContext", "Main")]


def pas20(root: Path, split: Split = "val", bad: Bad = "refuse") -> Records:
    """Pascal VOC 2012's 20 classes, without the background."""
    published = PascalLayout(
        f"{VOC}/JPEGImages",
        f"{VOC}/SegmentationClass",
        dict(enumerate(VOC20, 1)),
        frozenset((0, IGNORED)),
        listed=[f"{VOC}/ImageSets/Segmentation/{split}.txt"],
        other=frozenset((0,)),
    )
    images, labels = (f"pascal_voc_d2/{folder}/{PART[split]}" for folder in ("images", "annotations_pascal20"))
    converted = PascalLayout(images, labels, dict(enumerate(VOC20)), frozenset((IGNORED,)))
    return _records("pas20", root, split, bad, [published, converted])


def _records(name: str, root: Path, split: str, bad: Bad, layouts: Sequence[PascalLayout]) -> Records:
    at = next((layout for layout in layouts if layout.exists(root)), None)
    if at is None:
        tried = ", ".join(layout.labels for layout in layouts)
        raise DataError(
            f"{name} finds none of {tried} in {str(root)!r}; give root=..., the folder that holds VOCdevkit/ "
            "(or detectron2's own folder)"
        )
    classes = Classes(at.names, at.ignored, {}, at.other)
    records = _entries(root, at, classes)
    return Records(f"{name} {split}", records, trainable=split == "train", bad=bad, classes=tuple(at.names.values()))


def _entries(root: Path, at: PascalLayout, classes: Classes) -> Iterator[ImageRecord | RecordFault]:
    load = load_mat if at.ending == ".mat" else None
    for stem in _stems(root, at):
        image, file = root / at.images / f"{stem}.jpg", root / at.labels / f"{stem}{at.ending}"
        if not image.is_file():
            yield RecordFault(str(file), stem, f"its image {image} is missing", "image")
        elif not file.is_file():
            yield RecordFault(str(image), stem, f"its label map {file} is missing")
        else:
            yield ImageRecord(stem, image, str(file), partial(label_queries, file, classes, load), holds=holds)


def _stems(root: Path, at: PascalLayout) -> list[str]:
    """The names of the split's images, in order."""
    if not at.listed:
        return sorted(path.stem for path in (root / at.labels).iterdir() if path.suffix == at.ending)
    file = next((root / name for name in at.listed if (root / name).is_file()), None)
    if file is None:
        raise DataError(
            f"{root / at.labels} is there, but not {' or '.join(at.listed)}, which names the split's images"
        )
    return sorted({line.split()[0] for line in read_text(file).splitlines() if line.strip()})


def load_mat(path: Path) -> Integer[np.ndarray, "h w"]:
    """The label map of one of Pascal Context's own files: 1 to 459, a value per pixel. Raises ValueError."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError("reading Pascal Context's .mat files needs scipy; run: pip install scipy") from error
    try:
        pixels = loadmat(path)["LabelMap"]
    except Exception as error:  # a damaged file raises whatever its bytes happen to lead to
        raise ValueError(f"{path.name} is no label map of Pascal Context ({error}); download it again") from error
    if pixels.ndim != 2 or pixels.dtype.kind not in "ui":
        raise ValueError(f"{path.name} holds a LabelMap of {pixels.dtype} {pixels.shape}; need whole numbers, a matrix")
    return pixels
