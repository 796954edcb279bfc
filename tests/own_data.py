"""A person's own data, written in each format from samples in memory, and what a loader reports of damaged data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from seglens.core.types import Sample
from seglens.data.faults import DataError, RecordFault
from seglens.data.masks import encode_rle, save_png
from seglens.data.records import Records


def rows(mask: np.ndarray) -> list[list[float]]:
    """A mask as polygons: one rectangle per run of pixels in a row."""
    polygons = []
    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(row.astype(np.int8), prepend=0, append=0)).tolist()
        polygons += [[x0, y, x1, y, x1, y + 1, x0, y + 1] for x0, x1 in zip(edges[::2], edges[1::2], strict=True)]
    return [[float(number) for number in one] for one in polygons]


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    edges = np.flatnonzero(np.diff(mask.T.ravel(), prepend=False, append=not mask[-1, -1]))
    return {"size": list(mask.shape), "counts": np.diff(edges, prepend=0).tolist()}


FORMS: dict[str, Callable[[np.ndarray], Any]] = {"rle": encode_rle, "runs": uncompressed, "polygons": rows}


def write_images(folder: Path, samples: list[Sample]) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:04d}.png" for number in range(len(samples))]
    for name, sample in zip(names, samples, strict=True):
        Image.fromarray(sample.image).save(folder / name)
    return names


def coco_json(folder: Path, samples: list[Sample], form: str = "rle") -> dict[str, Any]:
    """The content of an instances json; the categories are the queries. Images go to `folder`/images."""
    queries = sorted({target.query for sample in samples for target in sample.targets})
    images, annotations = [], []
    for number, (name, sample) in enumerate(zip(write_images(folder / "images", samples), samples, strict=True), 1):
        height, width = sample.image.shape[:2]
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for target in sample.targets:
            x = np.flatnonzero(target.mask.any(0))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": queries.index(target.query) + 1,
                    "iscrowd": 0,
                    "bbox": [int(x[0]), 0, int(x[-1] - x[0] + 1), height],
                    "segmentation": FORMS[form](target.mask),
                }
            )
    categories = [{"id": number, "name": query} for number, query in enumerate(queries, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(folder: Path, samples: list[Sample], form: str = "rle") -> str:
    (folder / "instances.json").write_text(json.dumps(coco_json(folder, samples, form)))
    return f"coco:images={folder / 'images'},annotations={folder / 'instances.json'}"


def write_yolo(folder: Path, samples: list[Sample]) -> str:
    queries = sorted({target.query for sample in samples for target in sample.targets})
    names = write_images(folder / "images" / "train", samples)
    (folder / "labels" / "train").mkdir(parents=True)
    for name, sample in zip(names, samples, strict=True):
        height, width = sample.image.shape[:2]
        lines = []
        for target in sample.targets:
            for part in rows(target.mask):
                shares = (np.reshape(part, (-1, 2)) / (width, height)).ravel()
                lines.append(f"{queries.index(target.query)} " + " ".join(f"{share:.6f}" for share in shares))
        (folder / "labels" / "train" / name).with_suffix(".txt").write_text("\n".join(lines) + "\n")
    table = "".join(f"  {number}: {json.dumps(query)}\n" for number, query in enumerate(queries))
    (folder / "data.yaml").write_text(f"path: .\ntrain: images/train\nnames:\n{table}")
    return f"yolo:data={folder / 'data.yaml'}"


def write_folder(folder: Path, samples: list[Sample]) -> str:
    for name, sample in zip(write_images(folder / "images", samples), samples, strict=True):
        for target in sample.targets:
            save_png(target.mask, folder / "masks" / target.query.replace(" ", "_") / name)
    return f"folder:images={folder / 'images'},masks={folder / 'masks'}"


def write_jsonl(folder: Path, samples: list[Sample], form: str = "mask") -> str:
    lines = []
    for name, sample in zip(write_images(folder / "images", samples), samples, strict=True):
        for number, target in enumerate(sample.targets):
            line: dict[str, Any] = {"image": f"images/{name}", "text": target.query, "kind": target.kind}
            if form == "mask":
                line["mask"] = f"masks/{number}_{name}"
                save_png(target.mask, folder / line["mask"])
            else:
                line["rle" if form == "runs" else form] = FORMS[form](target.mask)
            lines.append(json.dumps(line))
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n")
    return f"jsonl:file={folder / 'data.jsonl'}"


def judged(build: Callable[..., Records]) -> tuple[list[Sample], list[RecordFault]]:
    """What is left of damaged data, and its faults: the same whether it is refused, skipped or checked."""
    skipping = build(bad="skip")
    checked = list(skipping.check())
    samples = list(skipping)
    assert checked == skipping.faults
    assert list(map(len, (list(skipping), skipping.faults))) == [len(samples), len(checked)]  # counted once
    if checked:
        try:
            list(build(bad="refuse"))
        except DataError as error:
            message, first = str(error), error.faults[0]
        else:
            raise AssertionError("damaged data was not refused")
        assert "\n" not in message
        for piece in (first.file, first.record, first.message, "bad=skip"):
            assert piece in message
        assert first in checked
    return samples, checked
