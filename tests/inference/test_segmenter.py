"""The public verb in every form, with the embedded model."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import LlavaForConditionalGeneration

from seglens.backbones import QuestionError
from seglens.core.devices import usable_device
from seglens.core.types import Sample
from seglens.data.image_decoding import ImageError
from seglens.data.world import WorldData
from seglens.inference.lap_clock import LapClock
from seglens.inference.opened_image import OpenedImage
from seglens.inference.prediction import Prediction
from seglens.inference.segmenter import Segmenter
from seglens.model_files.strict_loading import OPTIONS

QUERIES = ["the largest thing", "the thing that shows you the time", "the leftmost thing"]
# Logits of about 30: batching questions or images changes the order of float sums. Measured: 2e-5 with one thread.
CLOSE = {"rtol": 1e-4, "atol": 1e-3}


def test_one_query_gives_a_prediction_and_many_give_a_list(segmenter: Segmenter, scene: Sample) -> None:
    one = segmenter.segment(scene.image, QUERIES[0])
    many = segmenter.segment(scene.image, QUERIES)
    assert one.query == QUERIES[0]
    assert [p.query for p in many] == QUERIES
    assert one.mask.shape == scene.image.shape[:2]
    assert one.mask.dtype == bool
    assert segmenter.segment(scene.image, tuple(QUERIES[:1]))[0].query == QUERIES[0]
    assert segmenter.segment(scene.image, []) == []


def test_a_list_of_images(segmenter: Segmenter) -> None:
    images = [sample.image for sample in WorldData(n=2, seed=9, queries=1)]
    for_all = segmenter.segment(images, QUERIES[0])
    each = segmenter.segment(images, [QUERIES[0], QUERIES[1:]])
    np.testing.assert_allclose(for_all[0].mask_logits, each[0].mask_logits, **CLOSE)
    assert [p.query for p in each[1]] == QUERIES[1:]
    assert not np.array_equal(for_all[0].image, for_all[1].image)
    assert segmenter.segment([], "cat") == []
    with pytest.raises(ValueError, match="2 images and 1 queries"):
        segmenter.segment(images, ["cat"])


def test_images_of_a_list_share_passes_and_answer_as_single_ones(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = list(WorldData(n=3, seed=9, queries=1))
    images, queries = [s.image for s in samples], [s.targets[0].query for s in samples]
    images[1] = images[1][:, :90]  # of another shape
    alone = [segmenter.segment(image, query) for image, query in zip(images, queries, strict=True)]
    sizes, decode = list[int](), segmenter.method.decode
    monkeypatch.setattr(
        segmenter.method, "decode", lambda read, *rest: (sizes.append(len(read.prefix)), decode(read, *rest))[1]
    )
    together = segmenter.segment(images, queries)
    assert sizes == [3]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(other.mask_logits, one.mask_logits, **CLOSE)
        np.testing.assert_array_equal(other.mask, one.mask)
        np.testing.assert_array_equal(other.image, one.image)
        assert (other.query, other.found) == (one.query, one.found)
        assert other.presence == pytest.approx(one.presence, abs=1e-4)


def test_opening_first_changes_nothing(segmenter: Segmenter, opened: OpenedImage, scene: Sample) -> None:
    first, again = opened.segment(QUERIES[0]), opened.segment(QUERIES[0])
    direct = segmenter.segment(scene.image, QUERIES[0])
    np.testing.assert_array_equal(direct.mask_logits, first.mask_logits)
    np.testing.assert_array_equal(direct.mask_logits, again.mask_logits)
    assert direct.presence == again.presence


def test_many_queries_answer_as_single_ones(opened: OpenedImage) -> None:
    for together in opened.segment(QUERIES):
        alone = opened.segment(together.query)
        np.testing.assert_allclose(together.mask_logits, alone.mask_logits, **CLOSE)
        np.testing.assert_allclose(together.heat_map, alone.heat_map, rtol=1e-3, atol=1e-6)
        assert together.presence == pytest.approx(alone.presence, abs=1e-4)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 57), (57, 1), (480, 640), (200, 3000)])
def test_the_mask_has_the_image_s_own_size(segmenter: Segmenter, height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    prediction = segmenter.segment(image, "the red apple")
    assert prediction.mask.shape == prediction.mask_logits.shape == (height, width)
    assert prediction.overlay().size == (width, height)
    assert np.isfinite(prediction.mask_logits).all()
    assert prediction.presence is not None
    assert 0 <= prediction.presence <= 1
    assert prediction.score is None or 0 <= prediction.score <= 1


def test_every_kind_of_source_is_the_same_image(segmenter: Segmenter, scene: Sample, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(scene.image).save(buffer, "PNG")
    path = tmp_path / "scene.png"
    path.write_bytes(buffer.getvalue())
    right = segmenter.segment(scene.image, QUERIES[0]).mask_logits
    for source in (path, str(path), buffer.getvalue(), Image.fromarray(scene.image)):
        np.testing.assert_array_equal(segmenter.segment(source, QUERIES[0]).mask_logits, right)
    with pytest.raises(ImageError, match="does not exist"):
        segmenter.segment(tmp_path / "none.png", "cat")
    assert isinstance(segmenter.ask(path, "what do you see?", max_new_tokens=3), str)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_a_saved_head_gives_the_same_masks_bit_for_bit(
    segmenter: Segmenter, opened: OpenedImage, scene: Sample, tmp_path: Path, dtype: torch.dtype
) -> None:
    folder = tmp_path / "heads" / "mine"
    segmenter.save_pretrained(folder, dtype)  # exact in int8 too: the embedded weights were packed before
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "head.safetensors"]
    loaded = Segmenter.from_pretrained(folder)
    queries = [target.query for target in scene.targets]
    for first, second in zip(opened.segment(queries), loaded.segment(scene.image, queries), strict=True):
        np.testing.assert_array_equal(second.mask_logits, first.mask_logits)
        np.testing.assert_array_equal(second.mask, first.mask)
        assert (second.found, second.score, second.presence) == (first.found, first.score, first.presence)
    assert any(one.found for one in opened.segment(queries))
    assert loaded.config.trained == segmenter.config.trained


def test_a_head_is_saved_into_a_new_folder_or_not_at_all(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = tmp_path / "held"
    held.mkdir()
    (held / "config.json").write_text("mine")
    with pytest.raises(FileExistsError, match="exists already"):
        segmenter.save_pretrained(held)
    assert [path.read_text() for path in held.iterdir()] == ["mine"]
    monkeypatch.setattr("seglens.checkpoints.head.write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        segmenter.save_pretrained(tmp_path / "cut")
    assert not [path for path in tmp_path.rglob("*") if path.name == "cut" or path.suffix == ".safetensors"]


def test_precision_and_device_are_arguments(scene: Sample) -> None:
    half = Segmenter.from_pretrained(device="cpu", dtype="bf16", segmentation_only=True)
    assert (half.backbone.module.dtype, half.backbone.device.type) == (torch.bfloat16, "cpu")
    parts = Segmenter.from_parts("embedded/mllm", "embedded/sam", device="cpu", dtype=torch.float16)
    assert parts.backbone.module.dtype == torch.float16


@pytest.mark.parametrize("load", [Segmenter.from_pretrained, partial(Segmenter.from_parts, "none/mllm", "none/sam")])
def test_an_unknown_option_is_refused_before_anything_is_loaded(load: Callable[..., Segmenter]) -> None:
    with pytest.raises(ValueError, match="there is no option of loading a model 'devise'") as caught:
        load(devise="cpu")
    message = str(caught.value)
    assert message.endswith("; did you mean 'device'?")
    named = message.partition("choose from ")[2].partition(";")[0].split(", ")
    assert {"device", "dtype", "load_in", "segmentation_only", "mask_threshold", "device_map", "token"} <= {*named}
    assert {*OPTIONS} <= {*named}  # no option of the MLLM is left out


def test_without_the_layers_that_talk_it_segments_the_same(opened: OpenedImage, scene: Sample) -> None:
    cut = Segmenter.from_pretrained(segmentation_only=True)
    np.testing.assert_array_equal(
        cut.segment(scene.image, QUERIES[0]).mask_logits, opened.segment(QUERIES[0]).mask_logits
    )
    with pytest.raises(ValueError, match="segmentation_only"):
        cut.ask(scene.image, "what is it?")


def test_timing_has_the_milliseconds_of_each_lap(opened: OpenedImage) -> None:
    first, second = opened.segment(QUERIES[:2])
    assert set(first.timing) == {"open", "read", "head", "upsample"}
    assert all(milliseconds > 0 for milliseconds in first.timing.values())
    first.timing["open"] = -1.0
    assert second.timing["open"] > 0  # each has its own


def test_a_lap_ends_when_the_device_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now, done = iter([0.0, 1.0, 3.0, 0.0]), []
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: done.append(device.type))
    clock = LapClock(torch.device("cuda"), open=5.0)
    assert done == ["cuda"]
    clock.lap("read")
    clock.lap("head")
    assert done == ["cuda"] * 3
    assert clock.laps == {"open": 5.0, "read": 1000.0, "head": 2000.0}
    LapClock(torch.device("cpu"))
    assert len(done) == 3


def test_keypoints_are_ordered_and_labelled(opened: OpenedImage) -> None:
    prediction = opened.segment(QUERIES[0])
    assert (np.diff(prediction.keypoint_scores) <= 0).all()
    assert len(prediction.keypoints) == len(prediction.keypoint_scores) == len(prediction.keypoint_labels)
    for (x, y), inside in zip(prediction.keypoints, prediction.keypoint_labels, strict=True):
        on_image = 0 <= x < prediction.mask.shape[1] and 0 <= y < prediction.mask.shape[0]
        assert inside == (on_image and prediction.mask[int(y), int(x)])


def test_absence_empties_the_mask_and_keeps_what_was_drawn(segmenter: Segmenter, scene: Sample) -> None:
    threshold = segmenter.presence_threshold
    try:
        segmenter.presence_threshold = 1.1
        refused = segmenter.segment(scene.image, QUERIES[0])
        segmenter.presence_threshold = 0.0
        accepted = segmenter.segment(scene.image, QUERIES[0])
    finally:
        segmenter.presence_threshold = threshold
    assert not refused.found
    assert not refused.mask.any()
    assert not refused.keypoint_labels.any()
    np.testing.assert_array_equal(refused.mask_logits, accepted.mask_logits)
    np.testing.assert_array_equal(accepted.mask, accepted.mask_logits > 0)
    assert accepted.found == accepted.mask.any()


def test_a_head_without_a_presence_layer_finds_what_it_draws(
    segmenter: Segmenter, scene: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(segmenter.method._modules, "presence", None)
    monkeypatch.setattr(segmenter, "presence_threshold", 1.1)  # nothing to compare with it
    prediction = segmenter.segment(scene.image, QUERIES[0])
    assert prediction.presence is None
    assert prediction.found == prediction.mask.any() == (prediction.mask_logits > 0).any()


def test_a_head_trained_without_absent_targets_refuses_nothing_by_presence(
    segmenter: Segmenter, scene: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmenter, "config", replace(segmenter.config, presence="untrained"))
    monkeypatch.setattr(segmenter, "presence_threshold", 1.1)
    prediction = segmenter.segment(scene.image, QUERIES[0])
    assert prediction.presence is None
    assert prediction.found == prediction.mask.any() == (prediction.mask_logits > 0).any()


def test_the_mask_threshold_is_a_choice(opened: OpenedImage, scene: Sample) -> None:
    logits = opened.segment(QUERIES[0]).mask_logits
    higher = float(np.median(logits))
    careful = Segmenter.from_pretrained(segmentation_only=True, mask_threshold=higher)
    careful.presence_threshold = 0.0
    np.testing.assert_array_equal(careful.segment(scene.image, QUERIES[0]).mask, logits > higher)


def test_threads_may_share_an_opened_image(
    segmenter: Segmenter, scene: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    # so that each call has its own void points to hide from the mask decoder
    monkeypatch.setattr(segmenter.method, "config", replace(segmenter.method.config, threshold=0.97))
    query_lists = [QUERIES, QUERIES[:1], QUERIES[1:], [*QUERIES, "the small thing", "everything"]]
    alone = [segmenter.open(scene.image).segment(queries) for queries in query_lists]
    shared, answers = segmenter.open(scene.image), dict[int, list]()

    def ask(number: int) -> None:
        for _ in range(6):
            answers[number] = shared.segment(query_lists[number])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(query_lists))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, expected in enumerate(alone):
        for right, mine in zip(expected, answers[number], strict=True):
            np.testing.assert_allclose(mine.mask_logits, right.mask_logits, **CLOSE)


@pytest.mark.parametrize("query", ["", "   ", "\n\t", "cat " * 2500, "\ud800"])
def test_a_query_that_cannot_be_read_is_one_line(opened: OpenedImage, query: str) -> None:
    with pytest.raises(QuestionError) as caught:
        opened.segment(query)
    assert "\n" not in str(caught.value)
    with pytest.raises(QuestionError):
        opened.segment(["cat", query])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(max_size=80))
def test_any_unicode_is_answered_or_refused(opened: OpenedImage, query: str) -> None:
    try:
        answer: Prediction | str = opened.segment(query)
    except QuestionError as error:
        answer = str(error)
    if isinstance(answer, str):
        assert "\n" not in answer
    else:
        assert answer.mask.shape == opened.image.shape[:2]
        assert np.isfinite(answer.mask_logits).all()


def test_chat_is_the_bare_model_to_the_last_bit(segmenter: Segmenter, scene: Sample, plain: Path) -> None:
    bare = LlavaForConditionalGeneration.from_pretrained(plain / "mllm", dtype=torch.float32).eval()
    inputs = segmenter.backbone.chat_inputs(scene.image, "how many things are there?")
    segmenter.segment(scene.image, QUERIES)  # the head has been at work
    with torch.no_grad():
        attached = segmenter.backbone.module(**inputs).logits
        alone = bare(**inputs).logits
    assert torch.equal(attached, alone)
    mine, theirs = segmenter.backbone.module.state_dict(), bare.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_a_device_that_is_not_there_is_one_line() -> None:
    assert usable_device("cpu").type == "cpu"
    for name in ("gpu7", "cuda:99"):
        with pytest.raises(ValueError, match="cannot be used here") as caught:
            usable_device(name)
        assert "\n" not in str(caught.value)
