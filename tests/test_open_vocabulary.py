"""Every pixel goes to the class that answers loudest."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from seglens.data.records import DataError
from seglens.open_vocabulary import (
    ClassTable,
    class_report,
    loudest,
    run_open_vocabulary,
)
from seglens.ranks import Ranks
from seglens.segmenter import OpenedImage, Segmenter
from seglens.types import Sample, Target

CLASSES = ("cat", "dog", "umbrella", "bus", "tree")


@pytest.mark.parametrize("at_once", [1, 2, 5, 16])
def test_the_loudest_of_all_however_many_at_once(
    opened: OpenedImage, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    logits = np.stack([said.mask_logits for said in opened.segment(list(CLASSES))])
    monkeypatch.setattr("seglens.open_vocabulary.CLASSES_AT_ONCE", at_once)
    label = loudest(opened, CLASSES)
    chosen = np.take_along_axis(logits, label.numpy()[None], 0)[0]
    assert np.allclose(chosen, logits.max(0), atol=1e-4)  # other company, other rounding: 2e-5 measured at most


def labelled(sample: Sample, *targets: Target) -> Sample:
    return Sample(sample.id, sample.image, targets)


def halves(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    left = np.zeros(sample.image.shape[:2], bool)
    left[:, : left.shape[1] // 2] = True
    return left, ~left


def test_pixels_are_counted_by_class(segmenter: Segmenter, opened: OpenedImage, scene: Sample) -> None:
    left, right = halves(scene)
    ignore = np.zeros_like(left)
    ignore[:9] = True
    data = [labelled(scene, Target("Cat.", left, ignore=ignore), Target("bus", right))]
    found = run_open_vocabulary(segmenter, Listed(data), CLASSES, Ranks())
    assert found is not None
    table, faults = found
    assert faults == []
    label = loudest(opened, CLASSES).numpy()
    label[ignore] = -1
    for number, truth in {0: left & ~ignore, 3: right & ~ignore, 1: np.zeros_like(left)}.items():
        said = label == number
        expected = [(said & truth).sum(), (said | truth).sum(), truth.sum()]
        assert table.counts[0, number].tolist() == expected


class Listed:
    """Samples as a dataset."""

    trainable = False

    def __init__(self, samples: list[Sample]):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)


def test_the_report() -> None:
    one, two = [[4, 8, 6], [0, 3, 0], [0, 0, 0]], [[2, 2, 2], [1, 2, 2], [0, 0, 0]]
    report = class_report(ClassTable(("a", "b", "c"), torch.tensor([one, two])))
    assert report["by_class"] == {"a": 0.6, "b": 0.2}
    assert report["mIoU"] == pytest.approx(0.4)
    low, high = report["mIoU_95"]
    assert low == pytest.approx(0.4)  # both images; the first twice makes 0.5, since b does not occur in it
    assert high == pytest.approx(0.75)  # the second twice
    assert (report["images"], report["classes"], report["classes_that_occur"]) == (2, 3, 2)
    nothing = class_report(ClassTable(("a",), torch.zeros(0, 1, 3, dtype=torch.int64)))
    assert json.loads(json.dumps(nothing, allow_nan=False))["mIoU"] is None


def test_lists_and_maps_that_cannot_be_counted(segmenter: Segmenter, scene: Sample) -> None:
    left, right = halves(scene)
    for classes in ((), ("cat", "Cat."), ("cat", " ")):
        with pytest.raises(ValueError, match="one name per class"):
            run_open_vocabulary(segmenter, Listed([]), classes, Ranks())
    with pytest.raises(DataError, match="'zebra' is not in the class list"):
        run_open_vocabulary(segmenter, Listed([labelled(scene, Target("zebra", left))]), CLASSES, Ranks())
    both = labelled(scene, Target("cat", left), Target("dog", left | right))
    with pytest.raises(DataError, match="claims pixels of another class"):
        run_open_vocabulary(segmenter, Listed([both]), CLASSES, Ranks())
