"""Small datasets in the formats and folders of LISA's training data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (6, 8)


def photograph(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def label_map(path: Path, pixels: np.ndarray, mode: str = "L") -> Path:
    """As a PNG of 8 bits, 16 bits ("I;16") or palette indices ("P"), whose colours are not the indices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels.astype(np.uint16 if mode == "I;16" else np.uint8))
    if mode == "P":
        image = image.convert("P")
        image.putdata(pixels.ravel().tolist())
        image.putpalette(bytes((7 * k + 11) % 256 for k in range(768)))
    image.save(path)
    return path


def stripes(*values: int) -> np.ndarray:
    """A column for each value, the last one to the right border."""
    columns = [*values, *[values[-1]] * (SIZE[1] - len(values))]
    return np.tile(np.array(columns), (SIZE[0], 1))


def write_ade20k(root: Path, split: str = "training", mode: str = "L", **maps: np.ndarray) -> Path:
    for stem, pixels in maps.items():
        photograph(root / f"ade20k/images/{split}/{stem}.jpg")
        label_map(root / f"ade20k/annotations/{split}/{stem}.png", pixels, mode)
    return root


def write_cocostuff(root: Path, split: str = "train2017", **maps: np.ndarray) -> Path:
    for stem, pixels in maps.items():
        photograph(root / f"coco/{split}/{stem}.jpg")
        label_map(root / f"cocostuff/{split}/{stem}.png", pixels)
    return root


def write_mapillary(root: Path, names: list[str], version: str = "v2.0", mode: str = "P", **maps: np.ndarray) -> Path:
    for stem, pixels in maps.items():
        photograph(root / f"mapillary/training/images/{stem}.jpg")
        label_map(root / f"mapillary/training/{version}/labels/{stem}.png", pixels, mode)
    config = {"labels": [{"readable": name, "name": f"object--{name.lower()}"} for name in names]}
    (root / f"mapillary/config_{version}.json").write_text(json.dumps(config))
    return root


def write_pascal(
    root: Path, year: int, labels: str, listed: str = "", ending: str = ".png", mode: str = "L", **maps: np.ndarray
) -> Path:
    """Photographs of VOC with label maps in a folder of VOCdevkit/VOC<year>, and the list of the split's names."""
    voc = root / f"VOCdevkit/VOC{year}"
    for stem, pixels in maps.items():
        photograph(voc / f"JPEGImages/{stem}.jpg")
        label_map(voc / labels / f"{stem}{ending}", pixels, mode)
    if listed:
        (voc / listed).parent.mkdir(parents=True, exist_ok=True)
        (voc / listed).write_text("".join(f"{stem}\n" for stem in maps))
    return root


SQUARE = [1.0, 1.0, 5.0, 1.0, 5.0, 4.0, 1.0, 4.0]


def coco_json(**changes: Any) -> dict[str, Any]:
    """Two images, one of a dog with two legs and a mouse, one of a mouse; two categories are parts."""
    runs = {"size": list(SIZE), "counts": [6, 6, 36]}
    content = {
        "images": [
            {"id": 11, "file_name": "train2017/11.jpg", "height": SIZE[0], "width": SIZE[1]},
            {"id": 12, "file_name": "train2017/12.jpg", "height": SIZE[0], "width": SIZE[1]},
            {"id": 13, "file_name": "train2017/13.jpg", "height": SIZE[0], "width": SIZE[1]},
        ],
        "categories": [
            {"id": 1, "name": "dog"},
            {"id": 2, "name": "mouse_(computer_equipment)"},
            {"id": 3, "name": "dog:leg"},
            {"id": 4, "name": "mouse_(computer_equipment):left_button"},
        ],
        "annotations": [
            {"id": 101, "image_id": 11, "category_id": 1, "segmentation": [SQUARE]},
            {"id": 102, "image_id": 11, "category_id": 3, "segmentation": [[0.0, 0.0, 3.0, 0.0, 3.0, 3.0]]},
            {"id": 103, "image_id": 11, "category_id": 3, "segmentation": runs},
            {"id": 104, "image_id": 12, "category_id": 2, "segmentation": [SQUARE]},
            {"id": 105, "image_id": 12, "category_id": 4, "segmentation": [SQUARE, [6.0, 0.0, 8.0, 0.0, 8.0, 2.0]]},
        ],
    }
    return {**content, **changes}


def write_paco(root: Path, content: dict[str, Any] | None = None) -> Path:
    for stem in ("11", "12"):
        photograph(root / f"coco/train2017/{stem}.jpg")
    file = root / "vlpart/paco/annotations/paco_lvis_v1_train.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content or coco_json()))
    return root


def write_pascal_part(root: Path) -> Path:
    folder = root / "vlpart/pascal_part"
    photograph(folder / "VOCdevkit/VOC2010/JPEGImages/2008_000008.jpg")
    content = {
        "images": [{"id": 2008000008, "file_name": "2008_000008.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 19, "name": "bus:license plate", "abbr": "bus:liplate"}],
        "annotations": [{"id": 0, "image_id": 2008000008, "category_id": 19, "segmentation": [SQUARE], "iscrowd": 0}],
    }
    (folder / "train.json").write_text(json.dumps(content))
    return root


def write_llava(root: Path, *names: str) -> Path:
    """LLaVA-150k: for each photograph, named by COCO's number, a conversation of two turns."""
    records = []
    for name in names:
        photograph(root / f"coco/train2017/{name}.jpg")
        texts = ["<image>\nWhat is it?", "Noise.", "Is it grey?", "No."]
        turns = [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(texts)]
        records.append({"id": name, "image": f"{name}.jpg", "conversations": turns})
    file = root / "llava_dataset/llava_instruct_150k.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(records))
    return root


# The questions of InternVL's folder: the file of each, and where its photographs lie
VQA = {
    "vqav2": ("vqav2_train.jsonl", "train2014"),
    "okvqa": ("okvqa_train.jsonl", "train2014"),
    "textvqa": ("textvqa_train.jsonl", "train_images"),
    "vizwiz": ("vizwiz_train.jsonl", "train"),
    "gqa": ("train_balanced.jsonl", "images"),
}


def write_vqa(root: Path, name: str, *questions: str, image: str = "COCO_train2014_000000000009.jpg") -> Path:
    """One of InternVL's data/<name>, all its questions about one photograph."""
    file, folder = VQA[name]
    photograph(root / f"data/{name}/{folder}/{image}")
    lines = [
        {"image": f"data/{name}/{folder}/{image}", "question": question, "question_id": number, "answer": "noise"}
        for number, question in enumerate(questions)
    ]
    (root / f"data/{name}/{file}").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root
