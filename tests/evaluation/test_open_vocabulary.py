"""Every pixel goes to the class with the highest logit."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from seglens.backbones import EncodedPrefix
from seglens.core.distributed import Ranks
from seglens.core.types import Readout, Sample, Target
from seglens.data.faults import DataError
from seglens.data.query_templates import Prompted
from seglens.evaluation.open_vocabulary import (
    ClassTable,
    class_report,
    run_open_vocabulary,
    strongest_class,
)
from seglens.inference.opened_image import OpenedImage
from seglens.inference.segmenter import Segmenter

CLASSES = ("cat", "dog", "umbrella", "bus", "tree")


@pytest.mark.parametrize("at_once", [1, 2, 5, 16])
def test_the_highest_logit_of_all_classes_does_not_depend_on_the_batch(
    opened: OpenedImage, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    logits = np.stack([prediction.mask_logits for prediction in opened.segment(list(CLASSES))])
    monkeypatch.setattr("seglens.evaluation.open_vocabulary.CLASSES_AT_ONCE", at_once)
    label = strongest_class(opened, CLASSES)
    chosen = np.take_along_axis(logits, label.numpy()[None], 0)[0]
    assert np.allclose(chosen, logits.max(0), atol=1e-4)  # another batch, another rounding: 2e-5 measured at most


@pytest.fixture(scope="module")
def silent(segmenter: Segmenter) -> Segmenter:
    """The embedded model without its presence head."""
    method = copy.deepcopy(segmenter.method)
    method.presence = None
    return Segmenter(segmenter.backbone, segmenter.decoder, method, segmenter.config)


def test_one_question_per_class_and_the_highest_logit_of_each_pixel(
    segmenter: Segmenter, silent: Segmenter, scene: Sample
) -> None:
    """Section 4.2.4 of SELF1E, one class and one pixel at a time; a method's presence changes nothing,
    and is not needed. A pixel that no class of the list holds counts nowhere."""
    left, right = halves(scene)
    left[:, :6] = right[:, -5:] = False  # background
    data = Listed([labelled(scene, Target("dog", left), Target("bus", right))])
    predictions = [silent.segment(scene.image, name) for name in CLASSES]
    assert all(one.presence is None for one in predictions)
    logits = [one.mask_logits for one in predictions]  # made anew whenever they are asked for
    assert all(one.shape == scene.image.shape[:2] for one in logits)
    counts = [[0, 0, 0] for _ in CLASSES]
    for y, x in np.ndindex(*left.shape):
        if left[y, x] or right[y, x]:
            values = [float(one[y, x]) for one in logits]
            predicted, actual = values.index(max(values)), 1 if left[y, x] else 3
            for number, count in enumerate(counts):
                count[0] += predicted == number == actual
                count[1] += number in (predicted, actual)
                count[2] += number == actual
    for model in (silent, segmenter):
        outcome = run_open_vocabulary(model, data, CLASSES, Ranks())
        assert outcome is not None
        difference = (outcome.table.counts[0] - torch.tensor(counts)).abs().max().item()
        assert difference <= 2  # pixels whose two highest tie up to rounding; measured: 0


@pytest.mark.parametrize("preset", ["lisa-eval", "none"])
def test_classes_are_asked_for_in_the_templates_of_the_data(
    segmenter: Segmenter, scene: Sample, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SELF1E's appendix 9.2: "What is ... in this image? Please output segmentation mask."; the truth stays by name."""
    texts: list[str] = []
    read = segmenter.backbone.read

    def recorded(image: EncodedPrefix, questions: Sequence[str]) -> Readout:
        texts.extend(questions)
        return read(image, questions)

    monkeypatch.setattr(segmenter.backbone, "read", recorded)
    left, right = halves(scene)
    data = Listed([labelled(scene, Target("Dog.", left), Target("bus", right))])
    outcome = run_open_vocabulary(segmenter, Prompted(data, preset), CLASSES, Ranks())
    assert outcome is not None
    table = outcome.table
    assert outcome.faults == outcome.damaged == []
    assert table.classes == CLASSES
    assert table.counts[0, :, 2].tolist() == [0, left.sum(), 0, right.sum(), 0]
    form = " What is {} in this image? Please output segmentation mask." if preset == "lisa-eval" else "{}"
    assert texts == [form.format(name) for name in CLASSES]


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
    outcome = run_open_vocabulary(segmenter, Listed(data), CLASSES, Ranks())
    assert outcome is not None
    table = outcome.table
    assert outcome.faults == outcome.damaged == []
    label = strongest_class(opened, CLASSES).numpy()
    label[ignore] = -1
    for number, truth in {0: left & ~ignore, 3: right & ~ignore, 1: np.zeros_like(left)}.items():
        predicted = label == number
        expected = [(predicted & truth).sum(), (predicted | truth).sum(), truth.sum()]
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
