"""Where datasets are on disk: LISA's folders, what SELF1E and MLLMSeg add to them, and what of it is missing.

ROOT/ade20k, cocostuff, coco/train2017, vlpart, mapillary, refer_seg, reason_seg      as LISA's README has them
ROOT/llava_dataset/llava_instruct_150k.json                                           its photographs: coco/train2017
ROOT/refer_seg/grefcoco/{grefs(unc).json,instances.json}                              its photographs: train2014
ROOT/data/{vqav2,okvqa,textvqa,vizwiz,gqa}                                            InternVL's folder of VQA, whose
                                                                                      lines name data/vqav2/...
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from seglens.data.faults import DataError
from seglens.data.spec import parse, write


@dataclass(frozen=True)
class DatasetPlace:
    """A dataset of published training data: its group, what it needs below the tree's root, the dataset's own root in
    the tree, and its options, where {name} is its name, {root} its own root and {tree} the tree's root."""

    group: str
    needs: tuple[str, ...]
    root: str = ""
    text: str = "{name}:root={root}"

    def spec(self, name: str, tree: Path, bad: str) -> str:
        """The dataset with its options, for training."""
        kind, templates = parse(self.text.replace("{name}", name))
        options = {key: value.format(root=tree / self.root, tree=tree) for key, value in templates.items()}
        return write(kind, {**options, "split": "train", "bad": bad})


def _refer(name: str, refs: str, images: str) -> DatasetPlace:
    files = f"refer_seg/{name}/{refs}", f"refer_seg/{name}/instances.json"
    return DatasetPlace("refer_seg", (*files, f"refer_seg/images/{images}"), "refer_seg")


def _talk(file: str, needs: str, images: str = "", **options: str | int) -> DatasetPlace:
    more = "".join(f",{key}={value}" for key, value in options.items())
    return DatasetPlace("vqa", (file, needs), text=f"conversations:file={{tree}}/{file},images={{tree}}/{images}{more}")


_MSCOCO = "mscoco/images/train2014"
# By the names of `seglens.data.DATASETS` (those of questions and answers are all `conversations`), in LISA's order.
LISA_TREE: dict[str, DatasetPlace] = {
    "ade20k": DatasetPlace("sem_seg", ("ade20k/images/training", "ade20k/annotations/training")),
    "cocostuff": DatasetPlace("sem_seg", ("cocostuff/train2017", "coco/train2017")),
    "pascal_part": DatasetPlace(
        "sem_seg", ("vlpart/pascal_part/train.json", "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages")
    ),
    "paco": DatasetPlace("sem_seg", ("vlpart/paco/annotations/paco_lvis_v1_train.json", "coco/train2017")),
    "mapillary": DatasetPlace(
        "sem_seg", ("mapillary/config_v2.0.json", "mapillary/training/images", "mapillary/training/v2.0/labels")
    ),
    "refclef": _refer("refclef", "refs(unc).p", "saiapr_tc-12"),
    "refcoco": _refer("refcoco", "refs(unc).p", _MSCOCO),
    "refcoco+": _refer("refcoco+", "refs(unc).p", _MSCOCO),
    "refcocog": _refer("refcocog", "refs(umd).p", _MSCOCO),
    "llava_150k": _talk("llava_dataset/llava_instruct_150k.json", "coco/train2017", "coco/train2017"),
    "reasonseg": DatasetPlace("reason_seg", ("reason_seg/ReasonSeg/train",), "reason_seg"),
}
# SELF1E's code reads at most 100,000 lines of each, and asks for short answers
_MOST = 100_000
TREE: dict[str, DatasetPlace] = {
    **LISA_TREE,
    "grefcoco": _refer("grefcoco", "grefs(unc).json", _MSCOCO),
    "vqav2": _talk("data/vqav2/vqav2_train.jsonl", "data/vqav2/train2014", asked="brief", most=_MOST),
    "okvqa": _talk("data/okvqa/okvqa_train.jsonl", "data/okvqa/train2014", asked="brief", most=_MOST),
    "textvqa": _talk("data/textvqa/textvqa_train.jsonl", "data/textvqa/train_images", asked="brief", most=_MOST),
    "vizwiz": _talk("data/vizwiz/vizwiz_train.jsonl", "data/vizwiz/train", asked="brief-or-none", most=_MOST),
    "gqa": _talk("data/gqa/train_balanced.jsonl", "data/gqa/images", asked="brief", most=_MOST),
}


def missing(root: Path, needed: Iterable[str]) -> list[str]:
    """Those of `needed` (files and folders below `root`) that are not there."""
    return [one for one in needed if not (root / one).exists()]


def need(name: str, root: Path, *needed: str) -> None:
    """Raises DataError that names everything that is missing at once."""
    absent = missing(root, needed)
    if absent:
        raise DataError(
            f"{name} finds no {', '.join(absent)} in {str(root)!r}; give root=..., the folder that holds {_top(needed)}"
        )


def _top(needed: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(Path(one).parts[0] + "/" for one in needed))
