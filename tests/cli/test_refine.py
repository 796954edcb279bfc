"""Clicks and boxes correct a mask, in the library and on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from command import Run
from decoders.tiny import TINY
from seglens.backbones import Backbone
from seglens.checkpoints.config import HeadConfig
from seglens.checkpoints.origin import Origin
from seglens.core.connected_components import box_of, depth, label_regions
from seglens.core.geometry import Canvas, Frame
from seglens.core.mask_logits import Drawing, Moves
from seglens.core.schema import Box, Click, Line
from seglens.core.types import Embedding, Prompt, Sample
from seglens.data.masks import decode_rle
from seglens.data.world import WorldData
from seglens.decoders import MaskDecoder, load_decoder
from seglens.inference.opened_image import OpenedImage
from seglens.inference.prediction import Prediction
from seglens.inference.refinement import MOST_PROMPTS, MOST_REGIONS, CorrectionError, obey
from seglens.inference.segmenter import Segmenter
from seglens.methods import LensConfig, build_lens

SEEN = 3  # pixels from the middle of an error to its edge: what a user would see and click


def iou(mask: np.ndarray, target: np.ndarray) -> float:
    return float((mask & target).sum() / max((mask | target).sum(), 1))


def next_click(mask: np.ndarray, target: np.ndarray) -> Click | None:
    """A simulated user: a click in the middle of the largest error, unless that is too thin to see."""
    wrong = mask ^ target
    labels = label_regions(wrong)
    largest = labels == np.bincount(labels.ravel(), minlength=2)[1:].argmax() + 1
    inner = depth(largest)
    if inner.max() < SEEN:
        return None
    y, x = np.unravel_index(inner.argmax(), inner.shape)
    return Click(x=float(x) + 0.5, y=float(y) + 0.5, label=1 if target[y, x] else 0)


def obeys(prediction: Prediction) -> bool:
    """Whether every click lies on its side of the outline."""
    return all(prediction.mask[int(c.y), int(c.x)] == bool(c.label) for c in prediction.corrections.clicks)


def around(mask: np.ndarray) -> Box:
    corners = box_of(mask)
    assert corners is not None
    x0, y0, x1, y1 = corners
    return Box(x0=x0, y0=y0, x1=x1, y1=y1)


def on(mask: np.ndarray) -> Click:
    y, x = np.unravel_index(depth(mask).argmax(), mask.shape)
    return Click(x=float(x) + 0.5, y=float(y) + 0.5, label=1)


@pytest.fixture(scope="module")
def segmented(opened: OpenedImage, scene: Sample) -> Prediction:
    """Of something that is there."""
    return next(p for p in opened.segment([t.query for t in scene.targets]) if p.found)


def corners(image: np.ndarray) -> list[Click]:
    height, width = image.shape[:2]
    at = [(0, 0), (width - 0.01, 0), (0, height - 0.01), (width - 0.01, height - 0.01)]
    return [Click(x=x, y=y, label=label) for (x, y), label in zip(at, (1, 0, 1, 0), strict=True)]


# ---------------------------------------------------------------- what a click does


def test_three_clicks_correct_a_wrong_mask(segmenter: Segmenter) -> None:
    """Measured on 55 such queries of 30 scenes: mean IoU .638, and after one, two and three clicks .652, .730, .730;
    on 74 of 30 others: .698, .716, .748, .790."""
    before, after = [], []
    for sample in WorldData(n=12, seed=21, queries=5):
        opened = segmenter.open(sample.image)
        for target in sample.targets:
            refined = opened.segment(target.query) if target.present else None
            if refined is None or next_click(refined.mask, target.mask) is None:
                continue
            before.append(iou(refined.mask, target.mask))
            for _ in range(3):
                click = next_click(refined.mask, target.mask)
                refined = refined if click is None else opened.refine(refined, [click])
                assert obeys(refined)
            after.append(iou(refined.mask, target.mask))
    assert len(before) >= 10
    assert np.mean(after) > np.mean(before) + 0.05


def test_a_click_on_another_thing_adds_and_removes_it(segmenter: Segmenter) -> None:
    sample = WorldData(n=1, seed=5, queries=3)[0]
    opened = segmenter.open(sample.image)
    target = next(t for t in sample.targets if t.present)
    nothing = opened.segment("the xylophone")
    start = replace(nothing, found=False, mask=np.zeros_like(nothing.mask))
    refined = opened.refine(start, [on(target.mask)])
    assert refined.found
    assert iou(refined.mask, target.mask) > 0.6
    gone = opened.refine(refined, [on(target.mask).model_copy(update={"label": 0})])
    assert (gone.mask & target.mask).sum() < 0.2 * target.mask.sum()


def test_a_box_shows_the_target(opened: OpenedImage, scene: Sample, segmented: Prediction) -> None:
    target = next(t for t in scene.targets if t.present)
    boxed = opened.refine(segmented, box=around(target.mask))
    assert iou(boxed.mask, target.mask) > 0.6
    assert boxed.corrections.box == around(target.mask)
    assert boxed.found


def test_clicks_add_up(opened: OpenedImage, segmented: Prediction) -> None:
    first, second = on(~segmented.mask), on(segmented.mask).model_copy(update={"label": 0})
    together = opened.refine(segmented, [first, second])
    apart = opened.refine(opened.refine(segmented, [first]), [second])
    np.testing.assert_array_equal(together.mask, apart.mask)
    assert apart.corrections.clicks == (first, second)
    assert obeys(apart)
    assert apart.query == segmented.query
    np.testing.assert_array_equal(apart.heat_map, segmented.heat_map)
    assert segmented.corrections.clicks == ()
    assert set(apart.timing) == {"open", "refine", "upsample"}


def test_a_click_without_new_information_changes_nothing(opened: OpenedImage, segmented: Prediction) -> None:
    again = opened.refine(segmented, [on(segmented.mask)])
    np.testing.assert_array_equal(again.mask, segmented.mask)
    assert again.score == pytest.approx(segmented.score, abs=1e-6)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.builds(Click, x=st.floats(0, 255.99), y=st.floats(0, 255.99), label=st.sampled_from([0, 1])),
        min_size=1,
        max_size=4,
        unique_by=lambda c: (int(c.x), int(c.y)),
    )
)
def test_every_click_has_an_effect(opened: OpenedImage, segmented: Prediction, clicks: list[Click]) -> None:
    refined = opened.refine(segmented, clicks)
    assert obeys(refined)
    assert np.isfinite(refined.mask_logits).all()
    assert refined.score is None or 0 <= refined.score <= 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 57), (57, 1), (480, 640), (40, 1200)])
def test_any_aspect_ratio(segmenter: Segmenter, height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    opened = segmenter.open(image)
    refined = opened.segment("the red apple")
    clicks = corners(image) if min(height, width) > 1 else corners(image)[:1]
    refined = opened.refine(refined, clicks, Box(x0=0, y0=0, x1=width, y1=height))
    assert refined.mask.shape == (height, width)
    assert obeys(refined)


# ---------------------------------------------------------------- obedience


def whole(drawing: Drawing) -> np.ndarray:
    """Logits at the image's size of its one query."""
    return np.concatenate([logits[0].numpy() for _, logits in drawing.bands()])


def flat(height: int, width: int, logit: float = -5.0) -> Drawing:
    return Drawing(Frame(height, width), torch.full((1, 16, 16), logit))


def test_the_effect_of_a_click_is_local_and_exact() -> None:
    drawing = flat(40, 60)
    clicks = (Click(x=10.5, y=20.5), Click(x=11.5, y=20.5, label=0), Click(x=50, y=5, label=0))
    obeyed = whole(obey(drawing, clicks, threshold=0.0, reach=2.0))
    assert obeyed[20, 10] > 0 > obeyed[20, 11]
    assert obeyed.dtype == np.float32
    assert ((obeyed > 0).sum(), (obeyed > 0)[:, 20:].sum()) == (1, 0)
    np.testing.assert_array_equal(obeyed[:, 40:], whole(drawing)[:, 40:])
    assert obey(drawing, clicks[2:], threshold=0.0, reach=2.0) is drawing  # nothing to move
    twice = (clicks[0], clicks[0].model_copy(update={"label": 0}))
    assert whole(obey(drawing, twice, 0.0, 2.0)).max() < 0  # the later one


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([(30, 40), (300, 20), (7, 500)]),
    st.floats(0.3, 120),
    st.integers(0, 2**32 - 1),
    st.sampled_from([2, 20, 100]),
)
def test_many_clicks_all_have_an_effect(size: tuple[int, int], reach: float, seed: int, many: int) -> None:
    """Neighbouring pixels on different sides too, at whatever distance a move fades."""
    rng = np.random.default_rng(seed)
    drawing = Drawing(Frame(*size), torch.from_numpy(rng.normal(0, 5, (1, 16, 16)).astype(np.float32)))
    pixels = rng.integers(0, np.minimum(size, 12), (many, 2)) if seed % 2 else rng.integers(0, size, (many, 2))
    labels = rng.integers(0, 2, many)
    clicks = [Click(x=x + 0.5, y=y + 0.5, label=int(k)) for (y, x), k in zip(pixels.tolist(), labels, strict=True)]
    mask = obey(drawing, clicks, 0.5, reach).above(0.5)[0][0]
    last = {(y, x): bool(k) for (y, x), k in zip(pixels.tolist(), labels, strict=True)}
    assert all(mask[at] == inside for at, inside in last.items())


def test_what_a_click_moves_does_not_grow_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs the pixels around it: of a click far away nothing is computed here."""
    computed = 0
    fading = Moves.fading

    def counted(distance: torch.Tensor, radius: float) -> torch.Tensor:
        nonlocal computed
        computed += distance.numel()
        return fading(distance, radius)

    monkeypatch.setattr(Moves, "fading", staticmethod(counted))
    clicks = [Click(x=float(x), y=float(y)) for x in range(50, 1000, 100) for y in range(50, 1000, 100)]
    obey(flat(1000, 1000), clicks, 0.0, reach=4.0).above(0.0)
    assert computed < len(clicks) ** 2 + len(clicks) * 26**2 < 1000 * 1000


def test_the_decoder_is_not_asked_for_every_click_of_a_crowd(
    opened: OpenedImage, segmented: Prediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    at = rng.permutation(256 * 256)[:100]
    clicks = [Click(x=k % 256 + 0.5, y=k // 256 + 0.5, label=int(rng.integers(2))) for k in at.tolist()]
    counts = []
    kind = type(opened.segmenter.decoder)
    answer = kind.answer

    def watched(self: MaskDecoder, embedding: Embedding, prompts: list[Prompt]) -> torch.Tensor:
        counts.extend(len(p.points) for p in prompts)
        return answer(self, embedding, prompts)

    monkeypatch.setattr(kind, "answer", watched)
    together = opened.refine(segmented, clicks)
    assert obeys(together)
    assert len(counts) <= 4 * MOST_PROMPTS
    assert max(counts) <= MOST_PROMPTS + MOST_REGIONS
    apart = opened.refine(opened.refine(segmented, clicks[:70]), clicks[70:])
    np.testing.assert_array_equal(together.mask, apart.mask)


# ---------------------------------------------------------------- every decoder


@pytest.fixture(params=TINY)
def drawn_by(request: pytest.FixtureRequest, backbone: Backbone, tmp_path: Path) -> Segmenter:
    """A head with random weights on each kind of mask decoder."""
    torch.manual_seed(0)
    TINY[request.param].save(tmp_path)
    decoder = load_decoder(tmp_path)
    head = build_lens(LensConfig(encoder_width=32), backbone, decoder)
    named = Origin.of("nowhere")
    return Segmenter(backbone, decoder, head, HeadConfig("lens", {}, named, backbone.layer, named))


@pytest.mark.parametrize("lay", ["letterbox", "squash"])
def test_every_decoder_refines(drawn_by: Segmenter, picture: np.ndarray, lay: Any) -> None:
    assert drawn_by.can_refine
    drawn_by.backbone = Backbone(replace(drawn_by.backbone.mllm, canvas=Canvas(lay=lay)))
    drawn_by.reader = drawn_by.backbone
    opened = drawn_by.open(picture)
    refined = opened.refine(opened.segment("a thing"), corners(picture))
    assert obeys(refined)
    boxed = opened.refine(refined, [Click(x=45, y=25)], Box(x0=10, y0=5, x1=80, y1=45))
    assert obeys(boxed)
    assert len(boxed.corrections.clicks) == 5


# ---------------------------------------------------------------- what cannot be used


@pytest.mark.parametrize(
    ("clicks", "box", "words"),
    [
        ([], None, "neither clicks nor a box"),
        ([Click(x=256, y=3)], None, r"click \(256, 3\) lies outside the image of 256 x 256"),
        ([Click(x=3, y=-0.1)], None, "lies outside"),
        ([Click(x=float("nan"), y=3)], None, "lies outside"),
        ([], Box(x0=5, y0=5, x1=5, y1=9), "is empty"),
        ([], Box(x0=5, y0=5, x1=300, y1=9), "reaches outside"),
        ([], Box(x0=float("nan"), y0=5, x1=30, y1=9), "is empty"),
        ([], Box(x0=5, y0=float("-inf"), x1=30, y1=9), "reaches outside"),
    ],
)
def test_clicks_outside_the_image_are_reported(
    opened: OpenedImage, segmented: Prediction, clicks: list[Click], box: Box | None, words: str
) -> None:
    with pytest.raises(CorrectionError, match=words) as caught:
        opened.refine(segmented, clicks, box)
    assert "\n" not in str(caught.value)


def test_a_prediction_of_another_image_is_refused(
    segmenter: Segmenter, opened: OpenedImage, segmented: Prediction, picture: np.ndarray
) -> None:
    with pytest.raises(ValueError, match="another image"):
        segmenter.open(picture).refine(segmented, [Click(x=1, y=1)])
    with pytest.raises(ValueError, match="not made by segment"):
        opened.refine(replace(segmented, canvas_logits=None), [Click(x=1, y=1)])
    copied = replace(segmented, image=segmented.image.copy())
    assert opened.refine(copied, [Click(x=1, y=1, label=0)]).image is not opened.image


def test_a_method_without_sam_refuses_with_a_remedy(
    segmenter: Segmenter, opened: OpenedImage, segmented: Prediction
) -> None:
    blind = Segmenter(segmenter.backbone, None, segmenter.method, replace(segmenter.config, method="mllmseg"))
    assert segmenter.can_refine
    assert not blind.can_refine
    without = OpenedImage(blind, opened.image)
    with pytest.raises(ValueError, match=r"mllmseg draws its masks without SAM.*load a method"):
        without.refine(segmented, [Click(x=1, y=1)])


# ---------------------------------------------------------------- the command line


def test_the_command(seglens: Run, scene: Sample, tmp_path: Path) -> None:
    path = tmp_path / "scene.png"
    Image.fromarray(scene.image).save(path)
    query = next(t.query for t in scene.targets if t.present)
    words = ["refine", path, query, "--click", "20,30", "--click", "200.5,30,0", "--out", tmp_path / "out"]
    code, out, _ = seglens(*words, "--json")
    refined = json.loads(out)
    mask = decode_rle(refined["segmentation"])
    assert (code, mask[30, 20], mask[30, 200]) == (0, True, False)
    assert Path(refined["files"]["mask"]).is_file()
    Line.model_validate_json(out)
    other = (*words[:3], "--box", "10,10,200,220", "--out", tmp_path / "out")
    code, out, error = seglens(*other)
    assert (code, out) == (2, "")
    assert "from another command (clicks: '20,30', '200.5,30,0' there, none here; box: not given there, 10,10" in error
    for words in ((*other[:-1], tmp_path / "box"), (*other, "--overwrite"), other):
        code, out, _ = seglens(*words)
        assert code == 0
        assert "pixels" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--click", "3"], "--click got '3'; it needs x,y or x,y,label"),
        (["--click", "3,b"], "--click got '3,b'"),
        (["--click", "3,4,2"], "label must be 1"),
        (["--box", "3,4,5"], "--box got '3,4,5'; it needs x0,y0,x1,y1"),
        (["--click", "3,900"], "lies outside the image"),
        ([], "neither clicks nor a box"),
    ],
)
def test_the_command_reports_wrong_options(
    seglens: Run, scene: Sample, tmp_path: Path, words: list[str], message: str
) -> None:
    path = tmp_path / "scene.png"
    Image.fromarray(scene.image).save(path)
    code, out, error = seglens("refine", path, "the cup", *words, "--out", tmp_path)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert message in error
