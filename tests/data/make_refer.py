"""Datasets of referring expressions in their own formats: two or three drawn images, a handful of phrases."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from seglens.data.masks import encode_rle

SIZE = (40, 60)  # height, width
COCO = "images/mscoco/images/train2014"
IMAGES = (101, 102, 103)
SQUARE = [10, 5, 20, 5, 20, 15, 10, 15]


def coco_name(number: int) -> str:
    return f"COCO_train2014_{number:012d}.jpg"


def save_image(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def block(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def instances(name: str = "{}") -> dict[str, Any]:
    """Three images; annotations 1 (polygon), 2 (two overlapping polygons), 3 (run lengths), 4 (a list of them), 5
    (uncompressed, a crowd)."""
    height, width = SIZE
    crowd = {"size": [height, width], "counts": [0, height, height * (width - 1)]}
    shapes = [
        (101, [SQUARE]),
        (101, [SQUARE, [15, 5, 30, 5, 30, 15, 15, 15]]),
        (102, encode_rle(block(2, 3, 12, 9))),
        (102, [encode_rle(block(2, 3, 12, 9)), encode_rle(block(20, 30, 22, 40))]),
        (103, crowd),
    ]
    return {
        "images": [
            {"id": i, "file_name": name.format(i) if name != "{}" else coco_name(i), "height": height, "width": width}
            for i in IMAGES
        ],
        "annotations": [
            {"id": n, "image_id": image, "segmentation": shape, "iscrowd": int(isinstance(shape, dict) and n == 5)}
            for n, (image, shape) in enumerate(shapes, 1)
        ],
        "categories": [],
    }


def sentence(number: int, words: str, **more: Any) -> dict[str, Any]:
    return {"sent_id": number, "sent": words, "raw": words.upper(), "tokens": words.split(), **more}


def ref(number: int, image: int, annotation: Any, split: str, *sentences: dict[str, Any]) -> dict[str, Any]:
    return {
        "ref_id": number,
        "image_id": image,
        "ann_id": annotation,
        "split": split,
        "category_id": 1,
        "sent_ids": [one["sent_id"] for one in sentences],
        "sentences": list(sentences),
        "file_name": "unused.jpg",
    }


def refs() -> list[dict[str, Any]]:
    return [
        ref(7, 101, 1, "train", sentence(70, "left box"), sentence(71, "  The BOX é ")),
        ref(8, 102, 3, "val", sentence(80, "a block")),
        ref(9, 101, 2, "train", sentence(90, "two boxes")),
        ref(10, 102, 4, "testA", sentence(100, "both blocks")),
        ref(11, 103, 5, "testBC", sentence(110, "a column")),
    ]


def false_refs() -> list[dict[str, Any]]:
    true = sentence(70, "left box", is_false_premise=False, gt_sent="")
    false = sentence(70, "left dog", is_false_premise=True, gt_sent="left box")
    return [ref(7, 101, 1, "val", true, false)]


def general_refs() -> list[dict[str, Any]]:
    return [
        ref(1, 101, [1, 2], "val", sentence(1, "all boxes")),
        ref(2, 101, [-1], "val", sentence(2, "the dog")),
        ref(3, 102, [3], "val", sentence(3, "the block")),
        ref(4, 102, 4, "train", sentence(4, "blocks")),
    ]


def save(
    root: Path,
    name: str = "refcoco",
    file: str = "refs(unc).p",
    records: Any = None,
    content: Any = None,
    protocol: int = 0,
    images: tuple[int, ...] = IMAGES,
) -> Path:
    """Write a dataset and return `root`. Protocol 0 is that of the published files."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    records = refs() if records is None else records
    raw = json.dumps(records).encode() if file.endswith("json") else pickle.dumps(records, protocol=protocol)
    (folder / file).write_bytes(raw)
    (folder / "instances.json").write_text(json.dumps(instances() if content is None else content))
    for number in images:
        save_image(root / COCO / coco_name(number))
    return root


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of nested lists and dicts with one thing changed."""
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return value


# -------------------------------------------------------------------------------------------- ReasonSeg


def shape(label: str, *points: tuple[float, float]) -> dict[str, Any]:
    return {"label": label, "labels": [label], "shape_type": "polygon", "points": [list(point) for point in points]}


def reason(**more: Any) -> dict[str, Any]:
    return {
        "text": ["the thing that opens the tin", "what opens a tin"],
        "is_sentence": True,
        "shapes": [
            shape("target", (2.9, 3.9), (40.2, 3.1), (40.7, 30.4), (2.2, 30.8)),
            shape("Ignored area", (5, 5), (15, 5), (15, 15), (5, 15)),
            shape("target", (8, 8), (11, 8), (11, 11), (8, 11)),
            shape("flag", (0, 0), (1, 1)),
        ],
        **more,
    }


def save_reason(root: Path, split: str = "val", name: str = "one", content: Any = None) -> Path:
    folder = root / "ReasonSeg" / split
    save_image(folder / f"{name}.jpg")
    raw = content if isinstance(content, bytes) else json.dumps(reason() if content is None else content).encode()
    (folder / f"{name}.json").write_bytes(raw)
    return root
