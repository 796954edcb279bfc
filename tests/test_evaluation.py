"""What is counted, from predictions made by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from seglens.data.world import WorldData
from seglens.evaluation import _record, as_json, run, summarise
from seglens.prediction import Prediction, on_mask
from seglens.segmenter import Segmenter
from seglens.types import Sample, Target

SIDE = 20


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y0:y1, x0:x1] = True
    return mask


NOTHING = box(0, 0, 0, 0)


def said(drawn: np.ndarray, found: bool = True, points: tuple = ((5.0, 5.0),)) -> Prediction:
    """A prediction that drew `drawn`, and shows it if `found`."""
    mask, keypoints = drawn if found else NOTHING, np.array(points, np.float32).reshape(-1, 2)
    return Prediction(
        query="q", image=np.zeros((SIDE, SIDE, 3), np.uint8), mask=mask,
        mask_logits=np.where(drawn, 1, -1).astype(np.float32), score=0.9, presence=0.8 if found else 0.1, found=found,
        heat_map=None, keypoints=keypoints, keypoint_scores=np.ones(len(keypoints), np.float32),
        keypoint_labels=on_mask(mask, keypoints),
    )  # fmt: skip


def report(*pairs: tuple[Target, Prediction]) -> dict[str, Any]:
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    records = [_record(Sample(str(n), image, (t,)), t, p, 0.0) for n, (t, p) in enumerate(pairs)]
    made = summarise(records)
    json.dumps([made, as_json(records)], allow_nan=False)  # whatever the data, the report is JSON
    return made


def test_overlap_is_counted_in_pixels() -> None:
    target = Target("a", box(0, 0, 10, 10), "name")
    made = report((target, said(box(0, 0, 10, 5))), (target, said(box(0, 0, 10, 10))))
    assert made["with_target"]["gIoU"] == pytest.approx(0.75)
    assert made["with_target"]["cIoU"] == pytest.approx(150 / 200)
    assert made["with_target"]["P@0.5"] == 1.0
    low, high = made["with_target"]["gIoU_95"]
    assert 0.5 <= low <= 0.75 <= high <= 1.0
    assert (made["queries"], made["images"]) == (2, 2)


def test_a_present_target_that_is_refused_counts_as_a_miss() -> None:
    target = Target("a", box(0, 0, 10, 10))
    made = report((target, said(box(0, 0, 10, 10), found=False)))
    assert made["with_target"]["gIoU"] == 0
    assert made["with_target"]["cIoU"] == 0
    assert made["drawn_gIoU"] == 1.0
    assert made["presence"] == {
        "absent": 0, "absent_refused": None, "present_kept": 0.0, "refusal_precision": 0.0,
    }  # fmt: skip
    sample = Sample("0", np.zeros((SIDE, SIDE, 3), np.uint8), (target,))
    record = _record(sample, target, said(NOTHING, found=False), 0.0)
    assert (record.intersection, record.union, record.predicted, record.actual) == (0, 100, 0, 100)


def test_absent_targets_are_judged_apart() -> None:
    absent = Target("unicorn", NOTHING, "absent")
    present = Target("a", box(0, 0, 10, 10), "name")
    made = report(
        (absent, said(box(0, 0, 5, 5), found=False)),
        (absent, said(box(0, 0, 5, 5))),
        (present, said(box(0, 0, 10, 10))),
    )
    assert made["with_target"]["n"] == 1
    assert list(made["by_kind"]) == ["name"]
    assert made["presence"] == {
        "absent": 2, "absent_refused": 0.5, "present_kept": 1.0, "refusal_precision": 1.0,
    }  # fmt: skip
    alone = report((absent, said(NOTHING, found=False)))
    assert alone["with_target"] is None
    assert alone["keypoints"] == {"strongest_inside": None, "inside": None, "per_query": None}


def test_by_kind_and_by_size() -> None:
    small, medium, large = box(0, 0, 2, 2), box(0, 0, 4, 4), box(0, 0, SIDE, SIDE)
    made = report(
        (Target("a", small, "name"), said(small)),
        (Target("b", medium, "reasoning"), said(NOTHING)),
        (Target("c", large, "reasoning (held out)"), said(large)),
    )
    assert {size: row["n"] for size, row in made["by_size"].items()} == {"small": 1, "medium": 1, "large": 1}
    assert made["by_size"]["large"]["gIoU"] == 1.0  # a target as large as the image is a target
    assert {kind: row["gIoU"] for kind, row in made["by_kind"].items()} == {
        "name": 1.0, "reasoning": 0.0, "reasoning (held out)": 1.0,
    }  # fmt: skip
    assert made["reasoning_all"]["gIoU"] == 0.5


def test_keypoints_inside_the_target() -> None:
    target = Target("a", box(0, 0, 10, 10))
    points = ((5.0, 5.0), (15.0, 15.0), (5.0, 25.0))  # on it, off it, in the canvas's padding
    made = report((target, said(target.mask, points=points)), (target, said(target.mask, points=points[1:])))
    assert made["keypoints"] == {"strongest_inside": 0.5, "inside": 0.2, "per_query": 2.5}
    without = report((target, said(target.mask, points=())))
    assert without["keypoints"] == {"strongest_inside": None, "inside": None, "per_query": 0.0}


def test_what_was_drawn_is_drawn_at_the_segmenter_s_threshold(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmenter, "mask_threshold", 1e6)  # no logit is above it: nothing is drawn
    assert not any(r.drawn_intersection or r.found for r in run(segmenter, WorldData(n=1, seed=3, queries=3)))


def test_presence_that_nobody_judged_is_null() -> None:
    target = Target("a", box(0, 0, 10, 10))
    one = replace(said(target.mask), presence=None)
    record = _record(Sample("0", one.image, (target,)), target, one, 0.0)
    assert json.loads(json.dumps(as_json([record]), allow_nan=False))[0]["presence"] is None
    assert summarise([record])["presence"]["present_kept"] == 1.0


def test_no_data_is_no_crash() -> None:
    made = summarise([])
    assert made["with_target"] is None
    json.dumps(made, allow_nan=False)


def test_a_segmenter_is_asked_every_query(segmenter: Segmenter) -> None:
    data, ticks = WorldData(n=2, seed=3, queries=3), []
    records = run(segmenter, data, lambda: ticks.append(1))
    assert [r.query for r in records] == [target.query for sample in data for target in sample.targets]
    assert len(ticks) == 2
    json.dumps([summarise(records), as_json(records)], allow_nan=False)
