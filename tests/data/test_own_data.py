"""The same data in every format: the same masks, and the same figures of a segmenter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from own_data import write_coco, write_folder, write_jsonl, write_yolo
from seglens.core.types import Sample, Target
from seglens.data import load_data
from seglens.data.world import WorldData
from seglens.evaluation.evaluate import run
from seglens.evaluation.summary import summarise
from seglens.inference.segmenter import Segmenter

FORMATS: dict[str, Callable[[Path, list[Sample]], str]] = {
    "folder": write_folder,
    "jsonl of masks": write_jsonl,
    "jsonl of run lengths": lambda folder, samples: write_jsonl(folder, samples, "rle"),
    "jsonl of polygons": lambda folder, samples: write_jsonl(folder, samples, "polygons"),
    "coco of run lengths": write_coco,
    "coco of plain runs": lambda folder, samples: write_coco(folder, samples, "runs"),
    "coco of polygons": lambda folder, samples: write_coco(folder, samples, "polygons"),
    "yolo": write_yolo,
}


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """Scenes with what they show, each query once, in the order of a folder's listing."""
    scenes = []
    for sample in WorldData(n=3, seed=5, queries=6):
        targets = {one.query: Target(one.query, one.mask) for one in sample.targets if one.present}
        scenes.append(Sample(sample.id, sample.image, tuple(sorted(targets.values(), key=_words))))
    assert all(sample.targets for sample in scenes)
    return scenes


def _words(target: Target) -> str:
    return target.query.replace(" ", "_")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_back(name: str, samples: list[Sample], tmp_path: Path) -> None:
    data = load_data(FORMATS[name](tmp_path, samples))
    assert data.trainable
    assert len(data) == len(samples)
    for sample, back in zip(samples, data, strict=True):
        np.testing.assert_array_equal(back.image, sample.image)
        masks = {target.query: target.mask for target in back.targets}
        assert list(masks) == [target.query for target in sample.targets]
        for target in sample.targets:
            # Rectangles on whole pixels: COCO's rasteriser gives polygons back exactly too, also from shares that
            # were rounded to six digits (measured IoU 1.0 in all three polygon forms).
            np.testing.assert_array_equal(masks[target.query], target.mask)


def test_a_segmenter_scores_the_same_on_all(segmenter: Segmenter, samples: list[Sample], tmp_path: Path) -> None:
    wanted = summarise(run(segmenter, samples))
    assert wanted["with_target"]["n"] == sum(len(sample.targets) for sample in samples)
    for number, name in enumerate(("folder", "jsonl of masks", "coco of run lengths")):
        folder = tmp_path / str(number)
        folder.mkdir()
        summary = summarise(run(segmenter, load_data(f"{FORMATS[name](folder, samples)},split=test")))
        assert summary["with_target"] == wanted["with_target"]
        assert summary["images"] == len(samples)
