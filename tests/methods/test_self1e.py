"""SELF1E on readings of made-up numbers: every equation beside a second computation, pixel by pixel."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from readouts import FakeReader
from torch import Tensor, nn

from seglens.backbones import load_backbone
from seglens.core.tuning_types import AnswerTemplates, TunedReadout, Tuning
from seglens.core.types import MethodOutput, Sample, Target, Totals, Truth
from seglens.methods.base import HeadAttention
from seglens.methods.losses import mask_terms
from seglens.methods.self1e import PRESETS, SHARING, Self1e, Self1eConfig, build_self1e
from seglens.methods.tuned import TunedReader
from seglens.training.tuned_examples import ExampleMaker, TunedExample
from stretched import slow_bilinear
from tiny import KINDS

TINY = Self1eConfig(mask_side=24)
ALL = [
    (features, amplifiers)
    for features, amplifiers in itertools.product(("image", "refilled", "fused"), SHARING)
    if amplifiers != "residual" or features == "fused"
]
EXACT = 1e-12  # in double precision, of the largest value; measured: 1.6e-15
SINGLE = 2e-6  # in single precision; measured: 2.2e-7


def make(config: Self1eConfig = TINY, width: int = 6, seed: int = 0) -> Self1e:
    torch.manual_seed(seed)
    return Self1e(config, FakeReader(width=width)).eval()


def readout(
    b: int = 2,
    q: int = 3,
    r: int = 3,
    grid: tuple[int, int] = (2, 3),
    shuffle: int = 2,
    d: int = 6,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> TunedReadout:
    generator = torch.Generator().manual_seed(seed)
    tokens = grid[0] * grid[1]
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    return TunedReadout(
        patches=draw(b, tokens * shuffle**2, 3),
        given=draw(b, tokens, d),
        refilled=draw(b, tokens * shuffle**2, d),
        image=draw(b, r, tokens, d),
        segment=draw(b, q, 1, d),
        grid=grid,
        shuffle=shuffle,
        choice=draw(b, q, 5),
        text_loss=draw(b, q).abs(),
    )


def error(actual: Tensor, expected: Any) -> float:
    expected = torch.as_tensor(np.asarray(expected))
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


# ---------------------------------------------------------------- the paper again, slowly


def slow_mlp(layers: nn.Sequential, x: np.ndarray) -> np.ndarray:
    first, _, second = layers
    weight = lambda layer: (layer.weight.detach().numpy(), layer.bias.detach().numpy())  # noqa: E731
    (w1, b1), (w2, b2) = weight(first), weight(second)
    hidden = w1 @ x + b1
    hidden = np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in hidden])
    return w2 @ hidden + b2


def slow_pus(layers: nn.Sequential, features: np.ndarray) -> np.ndarray:
    """f_PUS: quarter k of the MLP's output at (y, x) is pixel (2y + k // 2, 2x + k % 2)."""
    h, w, d = features.shape
    out = np.full((2 * h, 2 * w, d), np.nan)
    for y, x in np.ndindex(h, w):
        block = slow_mlp(layers, features[y, x])
        for k in range(4):
            out[2 * y + k // 2, 2 * x + k % 2] = block[k * d : (k + 1) * d]
    return out


def slow(model: Self1e, read: TunedReadout, i: int, q: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits at the features' own resolution, and the coarse ones, of question q about image i."""
    c = model.config
    mlps = {name: amplifier.mlp for name, amplifier in model.amplifiers.items()}

    def f(name: str, features: np.ndarray) -> np.ndarray:
        chosen = {
            "none": None,
            "residual": mlps.get("residual") if name == "residual" else None,
            "shared": mlps.get("image") if name != "residual" else None,
            "two": mlps.get("image" if name == "image" else "given") if name != "residual" else None,
            "three": mlps.get(name),
        }[c.amplifiers]
        return features if chosen is None else slow_pus(chosen, features)

    shape = lambda tokens, grid: tokens.numpy().reshape(*grid, -1)  # noqa: E731
    f_v1, f_img = (
        shape(read.given[i], read.grid),
        shape(read.image[i, q if read.image.shape[1] > 1 else 0], read.grid),
    )
    f_hq = shape(read.refilled[i], read.fine_grid)
    f_seg = f("image", read.segment[i, q].numpy()[None])
    f_seg = sum(f_seg[y, x] for y, x in np.ndindex(*f_seg.shape[:2])) / (f_seg.shape[0] * f_seg.shape[1])  # Eq. 6
    third = nn.Sequential(model.combine.first, nn.GELU(), model.combine.second) if c.combine else None
    token = slow_mlp(third, f_seg) if third is not None and c.coarse_token == "combined" else f_seg
    coarse = f("image", f_img) @ token / math.sqrt(token.size)
    if c.features == "image":
        fused = f("image", f_img)
    elif c.features == "refilled":
        fused = f("refilled", f_hq)
    else:
        residual = f("residual", f("image", f_img) - f("given", f_v1))  # Eq. 2, 4
        base = f("refilled", f_hq)
        size = (max(base.shape[0], residual.shape[0]), max(base.shape[1], residual.shape[1]))
        fused = slow_bilinear(base, size) + slow_bilinear(residual, size)  # Eq. 3, 5
    if third is not None:
        fused = np.array([[slow_mlp(third, cell) for cell in row] for row in fused])
        f_seg = slow_mlp(third, f_seg)
    logits = np.full(fused.shape[:2], np.nan)
    for y, x in np.ndindex(*logits.shape):
        logits[y, x] = sum(a * b for a, b in zip(fused[y, x], f_seg, strict=True)) / math.sqrt(f_seg.size)  # Eq. 1
    return logits, coarse


@torch.no_grad()
@pytest.mark.parametrize(("features", "amplifiers"), ALL)
@pytest.mark.parametrize(
    ("combine", "coarse", "shuffle", "r"),
    [
        (True, "before", 2, 3),
        (True, "before", 1, 1),
        (True, "combined", 2, 3),
        (False, "before", 2, 3),
        (False, "combined", 2, 1),
    ],
)
def test_every_row_of_the_ablations_follows_its_equations(
    features: Any, amplifiers: Any, combine: bool, coarse: Any, shuffle: int, r: int
) -> None:
    """Tables 5 and 6, with the authors' third MLP and without, on towers that are finer than the tokens and that are
    not, with image states that a question changes and that none changes."""
    config = replace(TINY, features=features, amplifiers=amplifiers, combine=combine, coarse_token=coarse)
    model, read = make(config).double(), readout(r=r, shuffle=shuffle, dtype=torch.float64)
    out = model.decode(read)
    assert out.mask_logits.dtype == torch.float64
    for i, q in itertools.product(range(2), range(3)):
        logits, coarser = slow(model, read, i, q)
        assert error(out.mask_logits[i, q], slow_bilinear(logits, (24, 24))) < EXACT
        if features == "image":  # the mask itself is as coarse
            assert out.coarse_logits is None
        else:
            assert error(out.coarse_logits[i, q], coarser) < EXACT
    assert torch.equal(out.text_loss, read.text_loss)
    assert out.presence_logits is None


@pytest.mark.parametrize(
    ("settings", "shuffle", "side"),
    [
        ({}, 2, 8),  # 32 x 32 patches of InternVL to 64 x 64
        ({}, 1, 4),  # LLaVA: an image token for every patch
        ({"amplifiers": "residual"}, 2, 4),
        ({"amplifiers": "residual"}, 1, 4),
        ({"amplifiers": "none"}, 2, 4),
        ({"features": "image"}, 2, 4),
        ({"features": "image", "amplifiers": "none"}, 2, 2),
    ],
)
def test_the_resolution_of_a_mask(settings: dict[str, Any], shuffle: int, side: int) -> None:
    model, read = make(replace(TINY, **settings)), readout(grid=(2, 2), shuffle=shuffle)
    image = model._amplify("image", read.image.reshape(2, 3, 2, 2, 6))
    assert max(part.shape[2:4] for part in model._parts(model.precompute(read), image)) == (side, side)


@torch.no_grad()
def test_a_cell_of_the_tower_lies_where_the_canvas_has_it() -> None:
    """Patch (5, 2) of 8 x 8, the only one that answers, is drawn around ((2 + 1/2) / 8, (5 + 1/2) / 8)."""
    config = replace(TINY, features="refilled", amplifiers="none", combine=False, mask_side=64)
    read = readout(b=1, q=1, r=1, grid=(4, 4))
    refilled = torch.zeros(1, 64, 6)
    refilled[0, 5 * 8 + 2] = read.segment[0, 0, 0]
    logits = make(config).decode(replace(read, refilled=refilled)).mask_logits[0, 0].clamp(min=0)
    y, x = (
        ((torch.arange(64) + 0.5) / 64 * logits.sum(1 - axis)).sum().item() / logits.sum().item() for axis in (0, 1)
    )
    assert (y, x) == pytest.approx((5.5 / 8, 2.5 / 8), abs=1e-6)  # measured: 1.2e-8


# ---------------------------------------------------------------- one image, many questions


@torch.no_grad()
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("r", [1, 3])
def test_questions_are_independent_of_each_other(name: str, r: int) -> None:
    model, read = make(replace(PRESETS[name].config, mask_side=24)), readout(r=r)
    together = model.decode(read)
    for i, q in itertools.product(range(2), range(3)):
        one, question = slice(i, i + 1), slice(q, q + 1)
        alone = replace(
            read,
            patches=read.patches[one],
            given=read.given[one],
            refilled=read.refilled[one],
            image=read.image[one, question] if r > 1 else read.image[one],
            segment=read.segment[one, question],
            choice=read.choice[one, question],
            text_loss=None,
        )
        assert error(model.decode(alone).mask_logits[0, 0], together.mask_logits[i, q]) < SINGLE


@torch.no_grad()
@pytest.mark.parametrize(("features", "amplifiers"), ALL)
def test_precomputed_features_serve_every_question(features: Any, amplifiers: Any) -> None:
    model = make(replace(TINY, features=features, amplifiers=amplifiers))
    read, other = readout(seed=1), readout(seed=1)
    fresh = model.decode(read)
    precomputed = model.precompute(
        replace(other, image=other.image * 0, segment=other.segment * 0)
    )  # no question in it
    for _ in range(2):  # and it may be used again
        again = model.decode(read, None, precomputed)
        assert torch.equal(again.mask_logits, fresh.mask_logits)
        assert features == "image" or torch.equal(again.coarse_logits, fresh.coarse_logits)


@torch.no_grad()
def test_half_precision_is_bounded() -> None:
    """An MLLM in bf16 hands out bf16 states; weights, Eq. 1 and logits stay in single precision. Under autocast the
    MLPs are in half precision, Eq. 1 is not."""
    model, read = make(width=32), readout(d=32)
    whole = model.decode(read).mask_logits
    half = model.decode(readout(d=32, dtype=torch.bfloat16)).mask_logits
    with torch.autocast("cpu", torch.bfloat16):
        cast = model.decode(read).mask_logits
    assert half.dtype == cast.dtype == torch.float32
    assert error(half, whole) < 0.002  # measured: 0.0003
    assert error(cast, whole) < 0.01  # measured: 0.0032
    assert cast.unique().numel() > 0.9 * cast.numel()  # rounded to bf16, 2 % of them would differ; 93 % do in fp32


# ---------------------------------------------------------------- what is trained


@pytest.mark.parametrize(
    ("features", "amplifiers", "expected"),
    [
        ("fused", "two", {"given", "image"}),
        ("fused", "shared", {"image"}),
        ("fused", "three", {"refilled", "given", "image"}),
        ("fused", "residual", {"residual"}),
        ("fused", "none", set()),
        ("refilled", "two", {"given", "image"}),
        ("refilled", "shared", {"image"}),
        ("image", "two", {"image"}),
        ("image", "three", {"image"}),
        ("image", "none", set()),
    ],
)
@pytest.mark.parametrize("coarse", [0.0, 1.0])
def test_gradients_reach_every_parameter(features: Any, amplifiers: Any, expected: set[str], coarse: float) -> None:
    model = make(replace(TINY, features=features, amplifiers=amplifiers, coarse_weight=coarse)).train()
    assert set(model.amplifiers) == expected
    read = readout()
    states = {
        name: getattr(read, name).clone().requires_grad_()
        for name in ("given", "refilled", "image", "segment", "text_loss")
    }
    terms = model.losses(model.decode(replace(read, **states)), truth())
    sum(terms.values()).backward()
    for name, weight in model.named_parameters():
        if not name.startswith("adapter."):
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all()
            assert weight.grad.abs().max() > 0, name
    reached = {name for name, state in states.items() if state.grad is not None and state.grad.abs().max() > 0}
    used = {
        "image": {"image"},
        "refilled": {"refilled"} | ({"image"} if coarse else set()),
        "fused": {"refilled", "given", "image"},
    }
    assert reached == used[features] | {"segment", "text_loss"}


def test_the_state_holds_exactly_the_trained_weights() -> None:
    names = {name.split(".")[0] for name in make().state_dict()}
    assert names == {"adapter", "amplifiers", "combine"}
    assert {name.split(".")[0] for name in make(replace(TINY, combine=False)).state_dict()} == {"adapter", "amplifiers"}
    copy = make(seed=1)
    read = readout()
    assert not torch.equal(copy.decode(read).mask_logits, make().decode(read).mask_logits)
    copy.load_state_dict(make().state_dict())
    assert torch.equal(copy.decode(read).mask_logits, make().decode(read).mask_logits)


@pytest.mark.parametrize(("width", "millions"), [(1536, 28.3), (3584, 154)])
def test_the_number_of_extra_parameters_is_the_published_one(width: int, millions: float) -> None:
    """Of InternVL3-2B and -8B, as counted for the authors' code."""
    with torch.device("meta"):
        model = make(PRESETS["authors"].config, width)
    extra = sum(weight.numel() for name, weight in model.named_parameters() if not name.startswith("adapter."))
    assert extra / 1e6 == pytest.approx(millions, rel=0.002)


def test_losses_fall_in_training() -> None:
    """Two questions about one image, whose states differ, and two masks."""
    model, read = make(replace(TINY, coarse_weight=0.5), width=16).train(), readout(1, 2, 2, (4, 4), d=16)
    masks = torch.zeros(1, 2, 24, 24)
    masks[0, 0, 3:15, 2:10], masks[0, 1, 12:21, 9:21] = 1, 1
    yes = torch.ones(1, 2, dtype=torch.bool)
    wanted = Truth(masks, torch.zeros(1, 2, 4, 4), yes, yes, ~yes)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        optimiser.zero_grad()
        terms = model.losses(model.decode(read), wanted)
        sum(value for name, value in terms.items() if name != "text").backward()
        optimiser.step()
    drawn = model.decode(read).mask_logits > 0
    iou = (drawn & (masks > 0)).sum((-2, -1)) / (drawn | (masks > 0)).sum((-2, -1))
    assert iou.min() > 0.9  # measured: 1


def test_a_tiny_internvl_segments_by_itself(tmp_path: Path) -> None:
    """From an image and queries to masks and back: gradients reach all that is trained, and two queries about one image
    are learnt."""
    KINDS["internvl"].save(tmp_path)
    backbone = load_backbone(tmp_path)
    config = replace(TINY, rank=4, dropout=0.0, request="{}", answers=("[SEG].",))
    torch.manual_seed(0)
    model = build_self1e(config, backbone, None)
    left, right = np.zeros((2, 60, 90), bool)
    left[10:50, 5:35] = right[20:60, 50:90] = True
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    sample = Sample("1", image, (Target("dog", left), Target("red cup", right)))
    batch = TunedExample.batch([ExampleMaker(model.mllm, None, model.mask_side).example(sample)])
    optimiser = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        sum(model.losses(model(batch.inputs, batch.embedding), batch.truth).values()).backward()
        missed = [name for name, weight in model.named_parameters() if weight.grad is None]
        assert not missed
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    model.eval()
    with torch.no_grad():
        opened = model.mllm.open(image)
        reads = [model.mllm.read(opened, questions) for questions in (["dog", "red cup"], ["dog"])]
        both, one = (model.decode(read, None, model.precompute(reads[0])).mask_logits for read in reads)
    assert reads[0].fine_grid == (8, 8)
    assert reads[0].image.shape[1] == 2  # each question has its own image states
    assert error(one[0, 0], both[0, 0]) < 1e-5  # measured: 1.1e-7
    drawn = opened.frame.to_image_logits(both[0]) > 0
    for mask, wanted in zip(drawn.numpy(), (left, right), strict=True):
        assert (mask & wanted).sum() / (mask | wanted).sum() > 0.7  # measured: 0.87 and 0.92


# ---------------------------------------------------------------- loss


def truth(seed: int = 0) -> Truth:
    """Two images of three questions: a target, an absent one and a void place; two targets and an answer in words."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.tensor([[True, False, True], [True, True, False]])  # a void place may hold anything
    masks = torch.rand(2, 3, 24, 24, generator=generator) * present[..., None, None]
    return Truth(
        masks,
        torch.zeros(2, 3, 2, 3),
        present,
        valid=torch.tensor([[True, True, False], [True, True, False]]),
        spoken=torch.tensor([[False, False, False], [False, False, True]]),
        tokens=torch.tensor([[3, 5, 7], [2, 4, 20]]),
    )


@torch.no_grad()
@pytest.mark.parametrize("absent", ["skip", "empty"])
def test_losses_equal_a_plain_computation(absent: Any) -> None:
    config = replace(TINY, absent=absent, bce_weight=3.0, dice_weight=0.25, text_weight=0.5, coarse_weight=0.1)
    model = make(config)
    out, wanted = model.decode(readout()), truth()
    terms = model.losses(out, wanted)
    taught = [(0, 0), (1, 0), (1, 1)] + ([(0, 1)] if absent == "empty" else [])
    expected = dict.fromkeys(("bce", "dice", "coarse_bce", "coarse_dice"), 0.0)
    for i, q in taught:
        coarse = torch.as_tensor(slow_bilinear(out.coarse_logits[i, q].numpy(), (24, 24))).float()
        for prefix, logits in (("", out.mask_logits[i, q]), ("coarse_", coarse)):
            for name, value in mask_terms(logits[None], wanted.masks[i, q][None]).items():
                expected[prefix + name] += value.item() / len(taught)
    weights = {"bce": 3.0, "dice": 0.25, "coarse_bce": 0.3, "coarse_dice": 0.025}
    expected = {name: weights[name] * value for name, value in expected.items()}
    losses_that_count = out.text_loss[[0, 0, 1, 1, 1], [0, 1, 0, 1, 2]]  # all but the void place
    expected["text"] = 0.5 * losses_that_count.mean().item()
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_a_step_in_two_passes_has_the_loss_of_one() -> None:
    model, out, wanted = make(), make().decode(readout()), truth()
    whole, totals = model.losses(out, wanted), wanted.totals()
    parts = []
    for i in range(2):
        piece = MethodOutput(
            out.mask_logits[i : i + 1],
            coarse_logits=out.coarse_logits[i : i + 1],
            text_loss=out.text_loss[i : i + 1],
        )
        half = Truth(*(getattr(wanted, name)[i : i + 1] for name in vars(wanted)))
        parts.append(model.losses(piece, half, totals))
    for name, value in whole.items():
        assert sum(part[name].item() for part in parts) == pytest.approx(value.item(), rel=1e-5)


def test_the_authors_divide_masks_by_all_answers() -> None:
    """Four masks (an absent target's is empty) and five answers, of which one is in words."""
    model, wanted = make(replace(PRESETS["authors"].config, mask_side=24)), truth()
    out = model.decode(readout())
    ours = make(replace(model.config, mask_mean="masks")).losses(out, wanted)
    for name, value in model.losses(out, wanted).items():
        assert value.item() == pytest.approx(ours[name].item() * (1 if name == "text" else 4 / 5), rel=1e-5)


def test_a_batch_without_masks_teaches_only_words() -> None:
    model, wanted = make(), truth()
    none = torch.zeros_like(wanted.valid)
    spoken = replace(wanted, present=none, valid=none, spoken=~none)
    out = model.decode(readout())
    terms = model.losses(out, spoken)
    assert {name for name, value in terms.items() if value.item() != 0} == {"text"}
    sum(terms.values()).backward()
    assert all(w.grad.isfinite().all() for n, w in model.named_parameters() if not n.startswith("adapter."))
    assert all(value.isfinite() for value in model.losses(out, spoken, Totals(0.0, 0.0, 0.0)).values())


def test_no_text_loss_outside_training() -> None:
    model = make(replace(TINY, coarse_weight=0.0))
    out = model.decode(replace(readout(), text_loss=None))
    assert out.coarse_logits is None
    assert set(model.losses(out, truth())) == {"bce", "dice"}


# ---------------------------------------------------------------- settings


def test_the_authors_adapter_and_words() -> None:
    tuning = PRESETS["authors"].config.tuning()
    linear = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert tuning == Tuning(("[SEG]",), 128, 256.0, 0.05, linear, vision_rank=128, projector=True, vocabulary=True)
    large = PRESETS["authors-8b"].config.tuning()
    assert (large.rank, large.alpha, large.vision_rank) == (64, 128, 64)
    chosen = Self1eConfig(rank=4, alpha=4.0, vision_rank=0).tuning()
    assert (chosen.rank, chosen.alpha, chosen.vision_rank) == (4, 4, 0)
    templates = PRESETS["default"].config.templates()
    assert templates.request.format("the cat") == " What is the cat in this image? Please output segmentation mask."
    assert templates.answers[0] == "[SEG]."  # the one used to segment
    assert all(answer.count("[SEG]") == 1 for answer in templates.answers)
    assert (templates.tokens, templates.refusal) == (("[SEG]",), None)


def test_a_method_gets_the_adapter_of_its_config() -> None:
    calls: list[tuple[Any, ...]] = []

    class Bare:
        copied, width, heads, feed_forward = (1,), 6, 2, 12

        def clone_layers(self, count: int = 2) -> list:
            return []

        def adapt(
            self, tuning: Tuning, templates: AnswerTemplates, attention: str = "causal", refill: str = "none"
        ) -> FakeReader:
            calls.append((tuning, templates, attention, refill))
            return FakeReader(width=6)

        def head_reader(self, layers: int | None = None) -> HeadAttention:
            raise AssertionError("a tuned method reads no heads")

    model = build_self1e(TINY, Bare(), None)
    assert isinstance(model.mllm, TunedReader)
    assert model.mask_side == 24
    build_self1e(replace(TINY, attention="images", refill_by="scan"), Bare(), None)
    build_self1e(replace(TINY, features="image", attention="causal"), Bare(), None)
    assert calls[0] == (TINY.tuning(), TINY.templates(), "dual", "replicate")
    assert [row[2:] for row in calls[1:]] == [("images", "scan"), ("causal", "none")]


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As users run it: without the test run's own checks of types."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    assert Self1eConfig(**json.loads(json.dumps(asdict(PRESETS[name].config)))) == PRESETS[name].config


def test_paper_and_code_differ() -> None:
    paper, authors = (PRESETS[name].config for name in ("paper", "authors"))
    default = PRESETS["default"].config
    ours = {"request": default.request, "coarse_token": "before", "upsampling": "twice"}
    assert default == replace(authors, **ours, text_mean="answers", mask_mean="masks")
    assert (authors.combine, authors.coarse_weight, authors.bce_weight, authors.dice_weight) == (True, 1.0, 2.0, 0.5)
    assert (paper.combine, paper.coarse_weight, paper.bce_weight, paper.dice_weight) == (False, 0.0, 1.0, 1.0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"features": "both"}, "features='both'.*'image', 'refilled', 'fused'"),
        ({"attention": "all"}, "attention='all'"),
        ({"refill_by": "none"}, "refill_by='none'"),
        ({"amplifiers": "residual", "features": "refilled"}, "have no residual"),
        ({"mask_side": 0}, "mask_side=0"),
        ({"mask_side": 12.5}, "mask_side=12.5"),
        ({"bce_weight": -1.0}, "bce_weight=-1.0"),
        ({"coarse_weight": float("nan")}, "coarse_weight=nan"),
        ({"dice_weight": "much"}, "dice_weight='much'"),
        ({"rank": -1}, "rank=-1"),
        ({"rank": None}, "rank=None"),
        ({"vision_rank": 2.5}, "vision_rank=2.5"),
        ({"dropout": 1.5}, "dropout=1.5"),
        ({"request": "Segment it."}, "request='Segment it.'"),
        ({"answers": ()}, "answers"),
        ({"answers": ("Sure.",)}, "answers"),
    ],
)
def test_invalid_settings_are_refused_by_name(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Self1eConfig(**settings)


def test_a_readout_without_refilled_patches_is_refused() -> None:
    with pytest.raises(ValueError, match="refill='replicate'"):
        make().decode(replace(readout(), refilled=None))


def test_logits_are_resized_as_the_library_does() -> None:
    """The last step alone: bilinear, centres at i + 1/2."""
    model = make(replace(TINY, features="image", amplifiers="none", combine=False, mask_side=7))
    read = readout(grid=(3, 3), dtype=torch.float64)
    raw = torch.einsum("bqid,bqkd->bqi", read.image, read.segment).reshape(2, 3, 3, 3) / 6**0.5
    expected = F.interpolate(raw, (7, 7), mode="bilinear", align_corners=False)
    assert error(model.decode(read).mask_logits, expected) < EXACT


@torch.no_grad()
@pytest.mark.parametrize("name", ["authors", "authors-8b"])
def test_the_authors_stretch_a_mask_once(name: str) -> None:
    """From the cells of the fused map (twice the tower's patches a side) to the image; compared at mask_side."""
    model, read, wanted = make(replace(PRESETS[name].config, mask_side=24)), readout(grid=(3, 3)), truth()
    over = replace(model.config, upsampling="twice")
    twice = make(over)
    once, stopped = model.decode(read), twice.decode(read)
    assert once.mask_logits.shape == (2, 3, 12, 12)
    assert stopped.mask_logits.shape == (2, 3, 24, 24)
    there = np.stack([slow_bilinear(mask.numpy(), (24, 24)) for mask in once.mask_logits.flatten(0, 1)])
    assert error(stopped.mask_logits.flatten(0, 1), there) < SINGLE
    terms = (model.losses(once, wanted), twice.losses(stopped, wanted))
    assert {k: v.item() for k, v in terms[0].items()} == pytest.approx({k: v.item() for k, v in terms[1].items()})
    assert model.mask_side == 24


@pytest.mark.parametrize("name", ["authors", "authors-8b"])
def test_the_authors_coarse_mask_teaches_the_third_mlp(name: str) -> None:
    """Theirs uses F'_SEG after the third MLP, so that its loss alone reaches that MLP; ours does not."""
    for config, reached in ((PRESETS[name].config, True), (PRESETS["default"].config, False)):
        model = make(replace(config, mask_side=24)).train()
        model.decode(readout()).coarse_logits.square().sum().backward()
        grads = [weight.grad for weight in model.combine.parameters()]
        assert all(grad is not None and grad.abs().max() > 0 for grad in grads) == reached
