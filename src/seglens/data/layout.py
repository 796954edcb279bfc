"""Where datasets lie on disk: LISA's folder tree, and what is missing of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from seglens.data.records import DataError


@dataclass(frozen=True)
class Place:
    """A dataset of LISA's training data: its group, what it needs below LISA's root, and the folder there that is the
    dataset's own root."""

    group: str
    needs: tuple[str, ...]
    root: str = ""


def _refer(name: str, by: str, images: str) -> Place:
    files = f"refer_seg/{name}/refs({by}).p", f"refer_seg/{name}/instances.json"
    return Place("refer_seg", (*files, f"refer_seg/images/{images}"), "refer_seg")


_MSCOCO = "mscoco/images/train2014"
# By the names of `seglens.data.DATASETS`, in LISA's order.
LISA_TREE: dict[str, Place] = {
    "ade20k": Place("sem_seg", ("ade20k/images/training", "ade20k/annotations/training")),
    "cocostuff": Place("sem_seg", ("cocostuff/train2017", "coco/train2017")),
    "pascal_part": Place(
        "sem_seg", ("vlpart/pascal_part/train.json", "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages")
    ),
    "paco": Place("sem_seg", ("vlpart/paco/annotations/paco_lvis_v1_train.json", "coco/train2017")),
    "mapillary": Place(
        "sem_seg", ("mapillary/config_v2.0.json", "mapillary/training/images", "mapillary/training/v2.0/labels")
    ),
    "refclef": _refer("refclef", "unc", "saiapr_tc-12"),
    "refcoco": _refer("refcoco", "unc", _MSCOCO),
    "refcoco+": _refer("refcoco+", "unc", _MSCOCO),
    "refcocog": _refer("refcocog", "umd", _MSCOCO),
    "reasonseg": Place("reason_seg", ("reason_seg/ReasonSeg/train",), "reason_seg"),
}


def missing(root: Path, needed: Iterable[str]) -> list[str]:
    """Those of `needed` (files and folders below `root`) that are not there."""
    return [one for one in needed if not (root / one).exists()]


def need(name: str, root: Path, *needed: str) -> None:
    """Raises DataError that names all that is missing at once."""
    absent = missing(root, needed)
    if absent:
        raise DataError(
            f"{name} finds no {', '.join(absent)} in {str(root)!r}; give root=..., the folder that holds {_top(needed)}"
        )


def _top(needed: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(Path(one).parts[0] + "/" for one in needed))
