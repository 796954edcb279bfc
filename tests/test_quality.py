"""What the embedded model must be able to do, on scenes that its training never saw.

Floors with slack under what `seglens eval` prints; they catch weights that were lost, mixed up or half-trained."""

from __future__ import annotations

from typing import Any

import pytest

from seglens.data.world import WorldData
from seglens.doctor import examine
from seglens.evaluation import run, summarise
from seglens.miniature.exam import prompts, vqa
from seglens.segmenter import Segmenter

UNSEEN = WorldData(n=40, seed=31)


@pytest.fixture(scope="module")
def report(segmenter: Segmenter) -> dict[str, Any]:
    return summarise(run(segmenter, UNSEEN))


def test_masks(report: dict[str, Any]) -> None:
    assert report["with_target"]["gIoU"] >= 0.60
    assert report["by_kind"]["name"]["gIoU"] >= 0.62
    assert report["reasoning_all"]["gIoU"] >= 0.58


def test_keypoints(report: dict[str, Any]) -> None:
    assert report["keypoints"]["strongest_inside"] >= 0.72


def test_refusal(report: dict[str, Any]) -> None:
    assert report["presence"]["absent_refused"] >= 0.75
    assert report["presence"]["present_kept"] >= 0.88


def test_answers(segmenter: Segmenter) -> None:
    said = vqa(segmenter.backbone, WorldData(n=30, seed=31))
    assert said["accuracy"] >= 0.72
    assert min(said["by_kind"].values()) >= 0.3  # some ten questions of each kind


def test_sam_alone(segmenter: Segmenter) -> None:
    said = prompts(segmenter.decoder, UNSEEN)
    assert said["one point"] >= 0.70
    assert said["box"] >= 0.80


def test_doctor_is_content() -> None:
    checked = examine()
    assert checked["ok"], [check for check in checked["checks"] if not check["ok"]]
