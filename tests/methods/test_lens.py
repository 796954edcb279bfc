"""LENS on a tiny LLaVA-1.5 and a tiny SAM."""

from __future__ import annotations

import inspect
import math
import re
import time
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from seglens.backbones import Backbone
from seglens.core.geometry import Frame
from seglens.core.types import Embedding, MethodOutput, Readout, Truth
from seglens.decoders import MaskDecoder
from seglens.methods import keypoints, method_settings
from seglens.methods import lens as module
from seglens.methods.keypoints import suppress
from seglens.methods.lens import Lens, LensConfig
from seglens.methods.losses import bce, bce_with_logits, dice

QUESTIONS = ("the red cup", "what keeps you dry when it rains ?", "dog")
UNTRAINED = r"mask_decoder\.(iou_prediction_head|output_hypernetworks_mlps\.[123])\."  # a single mask needs neither
TINY = LensConfig(keypoints=5, encoder_width=64)
TOLERANCE = 5e-5  # of the largest value; measured: 8e-6 on a presence logit, 1e-6 elsewhere


def error(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def one(embedding: Embedding, b: int) -> Embedding:
    return Embedding(embedding.coarse[b : b + 1])


def make(backbone: Backbone, decoder: MaskDecoder, config: LensConfig = TINY, seed: int = 0) -> Lens:
    torch.manual_seed(seed)
    return Lens(config, backbone.clone_layers(2), backbone.width, backbone.heads, backbone.feed_forward, decoder).eval()


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in [(50, 90), (64, 40)]]


@pytest.fixture(scope="module")
def singles(backbone: Backbone, images: list[np.ndarray]) -> list[Readout]:
    return [backbone.read(backbone.open(image), QUESTIONS) for image in images]


@pytest.fixture(scope="module")
def readout(singles: list[Readout]) -> Readout:
    """Two images with three questions each."""
    joined = ("prefix", "prefix_positions", "question", "question_positions", "question_mask")
    return replace(singles[0], **{name: torch.cat([getattr(s, name) for s in singles]) for name in joined})


@pytest.fixture(scope="module")
def embedding(decoder: MaskDecoder, images: list[np.ndarray]) -> Embedding:
    return Embedding(torch.cat([decoder.encode(image, Frame(*image.shape[:2])).coarse for image in images]))


@pytest.fixture(scope="module")
def lens(backbone: Backbone, decoder: MaskDecoder) -> Lens:
    return make(backbone, decoder)


# ------------------------------------------------------------------ the paper


@pytest.mark.parametrize(
    ("code", "numbers"), [(module, [*"1234567"]), (keypoints, ["S3", "S4", "S5", "S6", "S7", "S8"])]
)
def test_the_equations_stand_in_the_papers_order(code: ModuleType, numbers: list[str]) -> None:
    """Each is written out beside the code that computes it, first in the order of the paper."""
    assert [*dict.fromkeys(re.findall(r"Eq\. (S?\d)(?:, \w+ parts?)?: ", inspect.getsource(code)))] == numbers


# ------------------------------------------------------------------ forward


@torch.no_grad()
def test_outputs_have_their_documented_shapes(
    lens: Lens, readout: Readout, embedding: Embedding, decoder: MaskDecoder
) -> None:
    out = lens(readout, embedding)
    b, q, m, side = 2, len(QUESTIONS), TINY.keypoints, 4 * decoder.side
    assert out.mask_logits.shape == (b, q, side, side)
    assert out.heat_map.shape == (b, q, *readout.grid)
    assert out.presence_logits.shape == (b, q)
    assert out.keypoints.points.shape == (b, q, m, 2)
    assert out.keypoints.scores.shape == out.keypoints.keep.shape == (b, q, m)
    assert ((out.keypoints.points >= 0) & (out.keypoints.points <= 1)).all()
    assert (out.heat_map.sum((-2, -1)) < 1).all()  # what a soft-max leaves for the image
    assert all(x.isfinite().all() for x in (out.mask_logits, out.heat_map, out.presence_logits))


@torch.no_grad()
def test_questions_are_independent_of_each_other(
    lens: Lens, backbone: Backbone, readout: Readout, embedding: Embedding, images: list[np.ndarray]
) -> None:
    together = lens(readout, embedding)
    for b, image in enumerate(images):
        opened = backbone.open(image)
        for q, question in enumerate(QUESTIONS):
            alone = lens(backbone.read(opened, [question]), one(embedding, b))
            for name in ("mask_logits", "heat_map", "presence_logits"):
                assert error(getattr(alone, name)[0, 0], getattr(together, name)[b, q]) < TOLERANCE
            assert torch.equal(alone.keypoints.keep[0, 0], together.keypoints.keep[b, q])


@torch.no_grad()
def test_a_precomputed_prefix_gives_the_same_masks(lens: Lens, readout: Readout, embedding: Embedding) -> None:
    prefix = lens.precompute(readout)
    for _ in range(2):  # and it may be used again
        one, other = lens(readout, embedding, prefix), lens(readout, embedding)
        assert torch.equal(one.mask_logits, other.mask_logits)
        assert torch.equal(one.heat_map, other.heat_map)


@torch.no_grad()
@pytest.mark.parametrize("aggregate", ["mean", "last"])
def test_the_map_is_the_models_own_attention(
    backbone: Backbone, decoder: MaskDecoder, images: list[np.ndarray], embedding: Embedding, aggregate: Any
) -> None:
    """Before training, A_c of Eq. 1 is the attention of the backbone's next layer in transformers, computed by hand."""
    assert backbone.family == "llava"
    inputs_seen: list[Tensor] = []
    tower = backbone.module.model.vision_tower
    hook = tower.register_forward_pre_hook(lambda _, args: inputs_seen.append(args[0]))
    opened = backbone.open(images[0])
    hook.remove()
    heat = make(backbone, decoder, replace(TINY, aggregate=aggregate))(
        backbone.read(opened, QUESTIONS), one(embedding, 0)
    ).heat_map[0]
    for q, question in enumerate(QUESTIONS):
        inputs = backbone.chat_inputs(images[0], question)
        assert isinstance(backbone.module, LlavaForConditionalGeneration)
        out = backbone.module(**{**inputs, "pixel_values": inputs_seen[0]}, output_attentions=True)
        image = (inputs["input_ids"][0] == backbone.module.config.image_token_id).nonzero()[:, 0]
        rows = out.attentions[backbone.layer][0].mean(0)[int(image[-1]) + 1 :, image]  # tokens of the question x image
        expected = rows.mean(0) if aggregate == "mean" else rows[-1]
        assert error(heat[q].flatten(), expected) < TOLERANCE


@torch.no_grad()
def test_keypoints_are_those_of_the_map(
    backbone: Backbone, decoder: MaskDecoder, readout: Readout, embedding: Embedding
) -> None:
    config = replace(TINY, newton="none", threshold=0.5, radius=1 / 6)
    out = make(backbone, decoder, config)(readout, embedding)
    h, w = readout.grid
    for b in range(2):
        for q in range(len(QUESTIONS)):
            heat, points = out.heat_map[b, q], out.keypoints
            cells, scores, keep = suppress(heat[None], 5, 1.0, 0.5)
            assert torch.equal(points.keep[b, q], keep[0])
            assert torch.equal(points.scores[b, q], scores[0])
            assert torch.allclose(points.points[b, q], Frame.cells_to_canvas(cells[0], (h, w)))
            assert heat.argmax() == cells[0, 0, 1] * w + cells[0, 0, 0]
    corner = make(backbone, decoder, replace(config, coordinates="corner"))(readout, embedding).keypoints.points
    assert torch.allclose(
        corner * torch.tensor([w - 1, h - 1]), out.keypoints.points * torch.tensor([w, h]) - 0.5, atol=1e-5
    )


@pytest.mark.parametrize(("saved", "meant"), [(True, "guarded"), (False, "none"), ("paper", "paper")])
def test_heads_saved_when_there_was_one_newton_step_still_load(saved: object, meant: str) -> None:
    assert method_settings("lens", {"newton": saved}).newton == meant


@torch.no_grad()
@pytest.mark.parametrize("coordinates", ["centre", "corner"])
def test_descriptions_read_the_cells_around_their_points(
    backbone: Backbone, decoder: MaskDecoder, readout: Readout, embedding: Embedding, coordinates: Any
) -> None:
    """Without the sub-pixel step a 3 x 3 neighbourhood is nine cells of F_i^2, the border repeated."""
    lens = make(backbone, decoder, replace(TINY, newton="none", threshold=0.0, coordinates=coordinates))
    inputs: list[tuple[Tensor, ...]] = []
    hook = lens.descriptor.register_forward_pre_hook(lambda _, args: inputs.append(args))
    heat = lens(readout, embedding).heat_map
    hook.remove()
    (h, w), features = readout.grid, lens.precompute(readout).features
    cells = suppress(heat.flatten(0, 1), 5, TINY.radius * w)[0].long().unflatten(0, (2, -1))
    near = inputs[0][1].unflatten(0, (2, -1))
    for tap, (dy, dx) in enumerate((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
        x, y = (cells[..., 0] + dx).clamp(0, w - 1), (cells[..., 1] + dy).clamp(0, h - 1)
        expected = torch.stack([features[b, :, y[b], x[b]].movedim(0, -1) for b in range(2)])
        assert error(near[..., tap, :], expected) < TOLERANCE


@torch.no_grad()
def test_prompts_are_descriptions_plus_positions(
    lens: Lens, decoder: MaskDecoder, readout: Readout, embedding: Embedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eq. 4, the global description first with [CLS] for its position."""
    calls: list[Tensor] = []
    decode = MaskDecoder.decode

    def watched(self: MaskDecoder, embedding: Embedding, prompts: Tensor, *rest: Any) -> Tensor:
        calls.append(prompts)
        return decode(self, embedding, prompts, *rest)

    monkeypatch.setattr(MaskDecoder, "decode", watched)
    described: list[Tensor] = []
    hook = lens.descriptor.register_forward_hook(lambda _, __, out: described.append(out))
    points = lens(readout, embedding).keypoints.points
    hook.remove()
    position = calls[0] - described[0].unflatten(0, calls[0].shape[:2])
    assert torch.allclose(position[:, :, 0], lens.cls.expand_as(position[:, :, 0]), atol=1e-5)
    assert torch.allclose(position[:, :, 1:], decoder.positions(points), atol=1e-5)


@torch.no_grad()
def test_void_keypoints_change_nothing(
    backbone: Backbone, decoder: MaskDecoder, readout: Readout, embedding: Embedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    lens = make(backbone, decoder, replace(TINY, threshold=0.9, newton="none"))
    before = lens(readout, embedding)
    keep = before.keypoints.keep
    assert keep[..., 0].all()
    assert not keep.all()

    def moved(which: str) -> Tensor:
        def suppress_and_move(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
            cells, scores, keep = suppress(*args, **kwargs)
            change = ~keep if which == "void" else keep
            return torch.where(change[..., None], (cells + 2) % readout.grid[0], cells), scores, keep

        monkeypatch.setattr(module, "suppress", suppress_and_move)
        return lens(readout, embedding).mask_logits

    assert error(moved("void"), before.mask_logits) < TOLERANCE
    assert error(moved("kept"), before.mask_logits) > 1e-3


@torch.no_grad()
def test_without_local_descriptions_only_the_global_token_is_used(
    backbone: Backbone, decoder: MaskDecoder, readout: Readout, embedding: Embedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Tensor, Tensor]] = []
    decode = MaskDecoder.decode

    def watched(self: MaskDecoder, embedding: Embedding, prompts: Tensor, keep: Tensor, own: Any = None) -> Tensor:
        calls.append((prompts, keep))
        return decode(self, embedding, prompts, keep, own)

    monkeypatch.setattr(MaskDecoder, "decode", watched)
    lens = make(backbone, decoder)
    both = lens(readout, embedding).mask_logits
    local = torch.tensor([[True, False, True], [False, False, True]])
    mixed = lens(readout, embedding, local=local).mask_logits
    prompts, keep = calls[-1]
    assert keep[..., 0].all()
    assert not keep[..., 1:][~local].any()
    assert error(mixed[local], both[local]) < TOLERANCE
    alone = decode(decoder, embedding, prompts[:, :, :1], None, lens.mask_decoder)
    assert error(mixed[~local], alone[~local]) < TOLERANCE
    # the ablation goes further: the keypoints do not reach the global token through the self-attention either
    without = replace(TINY, local_descriptions=False)
    one, many = (make(backbone, decoder, replace(without, keypoints=n))(readout, embedding).mask_logits for n in (1, 9))
    assert error(one, many) < TOLERANCE
    assert error(one, alone) > 1e-3
    make(backbone, decoder, replace(TINY, global_description=False))(readout, embedding)
    assert not calls[-1][1][..., 0].any()
    assert torch.equal(calls[-1][1][..., 1:], lens(readout, embedding).keypoints.keep)


# ------------------------------------------------------------------ training


def all_valid(masks: Tensor, cells: Tensor, present: Tensor) -> Truth:
    """Of a batch in which every question was asked."""
    return Truth(masks, cells, present, torch.ones_like(present), torch.zeros_like(present))


def losses(lens: Lens, readout: Readout, embedding: Embedding) -> Tensor:
    out = lens(readout, embedding)
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(out.mask_logits.shape, generator=generator)
    cells = torch.rand(out.heat_map.shape, generator=generator)
    present = torch.tensor([[True, True, False], [True, False, True]])
    return sum(lens.losses(out, all_valid(masks, cells, present)).values(), torch.zeros(()))


def test_the_map_keeps_its_precision_in_autocast(lens: Lens, readout: Readout, embedding: Embedding) -> None:
    """In bfloat16 half the cells of a flat map tie, and keypoints are drawn by lot."""
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        out = lens(readout, embedding)
    assert out.heat_map.dtype == out.mask_logits.dtype == out.presence_logits.dtype == torch.float32


@pytest.mark.parametrize("train_mask_decoder", [True, False])
@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_reach_what_is_trained(
    backbone: Backbone,
    decoder: MaskDecoder,
    readout: Readout,
    embedding: Embedding,
    train_mask_decoder: bool,
    autocast: bool,
) -> None:
    lens = make(backbone, decoder, replace(TINY, train_mask_decoder=train_mask_decoder)).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses(lens, readout, embedding).backward()
    reached = {name for name, p in lens.named_parameters() if p.grad is not None}
    idle = {name for name, _ in lens.named_parameters() if re.match(UNTRAINED, name)}
    assert reached == {name for name, p in lens.named_parameters() if p.requires_grad}
    assert reached == {name for name, _ in lens.named_parameters()} - idle
    assert bool(idle) == train_mask_decoder
    assert all(p.grad.isfinite().all() for p in lens.parameters() if p.grad is not None)
    strength: dict[str, float] = {}
    for name, p in lens.named_parameters():
        if p.grad is not None:
            part = ".".join(name.split(".")[:2])
            strength[part] = max(strength.get(part, 0.0), float(p.grad.abs().max()))
    assert min(strength.values()) > 0
    assert all(p.grad is None for p in (*backbone.module.parameters(), *decoder.module.parameters()))


def test_a_frozen_decoder_is_not_part_of_the_head(backbone: Backbone, decoder: MaskDecoder) -> None:
    lens = make(backbone, decoder, replace(TINY, train_mask_decoder=False))
    assert lens.mask_decoder is None
    assert not any(name.startswith("mask_decoder") for name in lens.state_dict())


def test_state_is_exactly_the_head(lens: Lens, backbone: Backbone, decoder: MaskDecoder) -> None:
    names = {name.split(".")[0] for name in lens.state_dict()}
    assert names == {"layers", "norm", "descriptor", "cls", "presence", "mask_decoder"}
    sizes = [sum(p.numel() for p in clone.parameters()) for clone in backbone.clone_layers(2)]
    count = {"layers": sum(sizes), "mask_decoder": sum(p.numel() for p in decoder.module.mask_decoder.parameters())}
    for part, expected in count.items():
        assert sum(v.numel() for k, v in lens.state_dict().items() if k.startswith(f"{part}.")) == expected
    theirs = {p.data_ptr() for p in (*backbone.module.parameters(), *decoder.module.parameters())}
    assert not theirs & {v.data_ptr() for v in lens.state_dict().values()}


def test_state_moves_to_another_head(
    lens: Lens, backbone: Backbone, decoder: MaskDecoder, readout: Readout, embedding: Embedding
) -> None:
    other = make(backbone, decoder, seed=1)
    with torch.no_grad():
        expected = lens(readout, embedding).mask_logits
        assert not torch.equal(other(readout, embedding).mask_logits, expected)
        other.load_state_dict(lens.state_dict(), strict=True)
        assert torch.equal(other(readout, embedding).mask_logits, expected)


def test_cls_starts_with_the_configured_deviation(backbone: Backbone, decoder: MaskDecoder) -> None:
    """From N(0, 1) for the authors, from a fiftieth of it unless they are asked for; the same numbers otherwise."""
    ours, theirs = (make(backbone, decoder, replace(TINY, cls_std=wide)).cls for wide in (0.02, 1.0))
    assert torch.allclose(theirs, 50 * ours)
    assert 0.7 < theirs.detach().std().item() < 1.3
    with pytest.raises(ValueError, match=r"cls_std=2\.0; it must be a number from 0 to 1"):
        LensConfig(cls_std=2.0)
    with pytest.raises(ValueError, match="map_target='floor' without a map_size"):
        LensConfig(map_target="floor")


def test_the_share_of_samples_without_keypoints_is_the_configured_one(backbone: Backbone, decoder: MaskDecoder) -> None:
    def share(seed: int = 0, **changes: Any) -> float:
        drawn = make(backbone, decoder, replace(TINY, **changes)).random_inputs(
            (40, 50), torch.Generator().manual_seed(seed)
        )["local"]
        assert drawn.shape == (40, 50)
        return drawn.float().mean().item()

    assert share() == share()
    assert share() != share(seed=1)
    assert share(drop=0.9) == pytest.approx(0.1, abs=0.03)
    assert share(drop=0.5) == pytest.approx(0.5, abs=0.05)
    assert (share(drop=0.0), share(drop=1.0)) == (1, 0)
    assert share(global_description=False) == share(local_descriptions=False) == 1  # nothing else would be left


# ------------------------------------------------------------------ losses


@pytest.fixture
def output() -> MethodOutput:
    """One question with a target, one without."""
    heat = torch.tensor([[[[0.5, 0.25], [0.125, 0.125]], [[0.9, 0.0], [0.0, 0.0]]]], requires_grad=True)
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 1] = 7.0
    return MethodOutput(logits.requires_grad_(), heat, None, torch.zeros(1, 2, requires_grad=True))


def test_losses_by_hand(backbone: Backbone, decoder: MaskDecoder, output: MethodOutput) -> None:
    masks = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    cells = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    present = torch.tensor([[True, False]])
    for scale, p in (("raw", (0.5, 0.25, 0.125, 0.125)), ("peak", (0.99, 0.495, 0.2475, 0.2475))):
        config = replace(TINY, map_scale=scale, attention_weight=1.5)  # type: ignore[arg-type]
        terms = make(backbone, decoder, config).losses(output, all_valid(masks, cells, present))
        assert set(terms) == {"dice", "bce", "attention", "presence"}
        assert terms["bce"].item() == pytest.approx(4 * math.log(2))
        assert terms["dice"].item() == pytest.approx(2 * (1 - (2 * 1 / 1000 + 1e-6) / (4 / 1000 + 1e-6)), abs=1e-5)
        eq5 = -(math.log(p[0]) + sum(math.log(1 - x) for x in p[1:])) / 4
        assert terms["attention"].item() == pytest.approx(1.5 * eq5, rel=1e-5)
        assert terms["presence"].item() == pytest.approx(config.presence_weight * math.log(2))


def test_losses_are_means_over_what_is_there(lens: Lens) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    out = MethodOutput(8 * draw(2, 3, 6, 6) - 4, draw(2, 3, 4, 4) / 16, None, draw(2, 3))
    masks, cells = draw(2, 3, 6, 6), draw(2, 3, 4, 4)
    present = torch.tensor([[True, False, True], [False, False, True]])
    terms = lens.losses(out, all_valid(masks, cells, present))
    assert torch.allclose(terms["bce"], 4 * bce_with_logits(out.mask_logits[present], masks[present]).mean())
    assert torch.allclose(terms["dice"], 2 * dice(out.mask_logits[present], masks[present]).mean())
    assert out.heat_map is not None
    weight = lens.config.attention_weight
    assert torch.allclose(terms["attention"], weight * bce(out.heat_map[present], cells[present]).mean())


@pytest.mark.parametrize("map_size", [None, 8])
@pytest.mark.parametrize("map_scale", ["raw", "peak"])
def test_absent_targets_teach_only_presence(
    backbone: Backbone, decoder: MaskDecoder, output: MethodOutput, map_scale: Any, map_size: int | None
) -> None:
    lens = make(backbone, decoder, replace(TINY, map_scale=map_scale, map_size=map_size))
    nothing = torch.zeros(1, 2, 2, 2)
    terms = lens.losses(output, all_valid(nothing, nothing, torch.zeros(1, 2, dtype=torch.bool)))
    total = sum(terms.values(), torch.zeros(()))
    assert total.item() == pytest.approx(0.5 * math.log(2))
    total.backward()
    assert output.heat_map is not None
    assert output.presence_logits is not None
    assert (output.mask_logits.grad == 0).all()
    assert (output.heat_map.grad == 0).all()
    assert (output.presence_logits.grad > 0).all()


def test_the_peak_keeps_its_gradient(lens: Lens, output: MethodOutput) -> None:
    """A peak in the wrong place is pushed down, one in the right place up (clamped to 1 it would get nothing)."""
    assert output.heat_map is not None
    masks = torch.zeros(1, 2, 2, 2)
    for target, sign in ((1.0, -1), (0.0, 1)):
        cells = torch.full((1, 2, 2, 2), target)
        grad = torch.autograd.grad(
            lens.losses(output, all_valid(masks, cells, torch.tensor([[True, False]])))["attention"], output.heat_map
        )[0]
        assert grad[0, 0, 0, 0].sign() == sign
        assert (grad[0, 1] == 0).all()


# ------------------------------------------------------------------ the whole


@pytest.mark.slow
def test_overfits_one_scene(backbone: Backbone, decoder: MaskDecoder) -> None:
    """Three questions about one image, learned in seconds: everything that must carry a gradient carries it."""
    image = np.full((48, 64, 3), 90, np.uint8)
    truth = np.zeros((3, 48, 64), bool)
    truth[0, 6:22, 4:24] = truth[1, 10:40, 34:60] = truth[2, 28:44, 6:26] = True
    for mask, colour in zip(truth, [(220, 30, 30), (30, 200, 60), (40, 60, 230)], strict=True):
        image[mask] = colour
    frame = Frame(48, 64)
    readout, embedding = backbone.read(backbone.open(image), QUESTIONS), decoder.encode(image, frame)
    masks = frame.to_canvas_mask(torch.tensor(truth), 4 * decoder.side)[None]
    cells = frame.to_canvas_mask(torch.tensor(truth), backbone.grid[0])[None]
    present = torch.ones(1, 3, dtype=torch.bool)
    lens = make(backbone, decoder)
    optimizer = torch.optim.AdamW([p for p in lens.parameters() if p.requires_grad], lr=1e-3)
    start, worst = time.process_time(), 0.0
    for step in range(600):
        out = lens(readout, embedding)
        terms = lens.losses(out, all_valid(masks, cells, present))
        sum(terms.values(), torch.zeros(())).backward()
        torch.nn.utils.clip_grad_norm_(lens.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 19:
            drawn = frame.to_image_logits(out.mask_logits[0].detach()) > 0
            both, either = (drawn & torch.tensor(truth)).sum((1, 2)), (drawn | torch.tensor(truth)).sum((1, 2))
            worst = (both / either).min().item()
            if worst > 0.9 or time.process_time() - start > 15:
                break
    print(f"{step + 1} steps, {time.process_time() - start:.1f} s, worst IoU {worst:.3f}")
    assert worst > 0.9
    inside = [cells[0, q][out.heat_map[0, q] == out.heat_map[0, q].max()].item() for q in range(3)]
    assert min(inside) > 0.5  # the strongest cell lies on its own object
