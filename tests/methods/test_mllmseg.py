"""MLLMSeg's decoder, step by step beside plain computations, on random readouts."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from readouts import FakeReader
from torch import Tensor, nn

from seglens.core.tuning_types import TunedReadout
from seglens.core.types import MethodOutput, Totals, Truth
from seglens.methods.light_decoder import Block, MaskHead
from seglens.methods.losses import focal, smooth_dice
from seglens.methods.mllmseg import PRESETS, MLLMSeg, MLLMSegConfig

TINY = MLLMSegConfig(width=16, heads=2, feed_forward=24, groups=2, subpixels=4)
WORDS, D, V = 30, 20, 16
TOLERANCE = 1e-5  # of the largest value; measured: 4.2e-7


def reader(width: int = D, patch_width: int = V, grid: tuple[int, int] = (3, 3), shuffle: int = 2) -> FakeReader:
    return FakeReader(width=width, patch_width=patch_width, grid=grid, shuffle=shuffle)


def make(config: MLLMSegConfig = TINY, mllm: FakeReader | None = None, seed: int = 0) -> MLLMSeg:
    torch.manual_seed(seed)
    return MLLMSeg(config, mllm or reader()).eval()


def readout(b: int = 2, q: int = 3, mllm: FakeReader | None = None, r: int = 1, seed: int = 0) -> TunedReadout:
    """Random states; new words last, as an adapter adds them."""
    mllm, dice = mllm or reader(), torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=dice)  # noqa: E731
    i = mllm.grid[0] * mllm.grid[1]
    return TunedReadout(
        patches=draw(b, i * mllm.shuffle**2, mllm.patch_width),
        given=draw(b, i, mllm.width),
        refilled=None,
        image=draw(b, r, i, mllm.width),
        segment=draw(b, q, 1, mllm.width),
        grid=mllm.grid,
        shuffle=mllm.shuffle,
        choice=draw(b, q, WORDS + 2),
        text_loss=draw(b, q).abs(),
        before=draw(b, mllm.width),
    )


def error(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(("width", "millions"), [(4096, 34.39), (2048, 30.19), (896, 27.83)])
def test_as_many_parameters_as_published(width: int, millions: float) -> None:
    """34 M of InternVL2.5-8B; the paper gives no figure for 2B and 4B (2048 wide) and 1B (896)."""
    with torch.device("meta"):
        method = MLLMSeg(PRESETS["authors"].config, reader(width, 1024, (16, 16)))
    decoder = sum(p.numel() for name, p in method.named_parameters() if not name.startswith("adapter."))
    assert decoder / 1e6 == pytest.approx(millions, abs=0.005)
    assert method.mask_side == 448


def test_weights_start_from_xavier() -> None:
    method = make(replace(TINY, norm="batch"))
    for name, parameter in method.named_parameters():
        if parameter.dim() > 1 and not name.startswith("adapter."):
            field = parameter[0, 0].numel()
            bound = (6 / (field * (parameter.shape[0] + parameter.shape[1]))) ** 0.5
            assert 0.75 * bound < parameter.abs().max() <= bound, name


@torch.no_grad()
def test_an_upright_filter_draws_where_channels_are_active() -> None:
    """And nothing where they are silent; otherwise its signs are those of chance."""
    for upright in (True, False):
        filters = [make(replace(TINY, upright=upright), seed=seed).decoder.head.smooth for seed in range(3)]
        assert all(bool((one.weight >= 0).all()) == upright for one in filters)
        assert all(bool((one(torch.zeros(1, 1, 7, 7)) < 0).all()) for one in filters if upright)


@torch.no_grad()
def test_outputs_have_their_documented_shapes() -> None:
    method, read = make(), readout()
    out = method.decode(read, None)
    assert method.mask_side == 3 * 2 * 4
    assert out.mask_logits.shape == (2, 3, 24, 24)
    assert out.mask_logits.min() < 0 < out.mask_logits.max()  # logits, not probabilities
    assert out.presence_logits is not None
    assert out.presence_logits.shape == (2, 3)
    assert out.heat_map is out.keypoints is None
    assert out.text_loss is read.text_loss


def test_only_square_grids_are_accepted() -> None:
    with pytest.raises(ValueError, match="4 x 6 patches; it draws on square grids only"):
        make(mllm=reader(grid=(2, 3)))


# ---------------------------------------------------------------- the steps


def library_block(block: Block) -> nn.TransformerDecoder:
    """torch's own decoder of one layer, which the authors' is a copy of, with the block's weights."""
    width, wide = block.expand.in_features, block.expand.out_features
    layer = nn.TransformerDecoderLayer(width, block.own.num_heads, wide, 0.1, batch_first=True)
    library = nn.TransformerDecoder(layer, 1, nn.LayerNorm(width)).eval()
    inner = library.layers[0]
    parts = {
        inner.self_attn: block.own,
        inner.multihead_attn: block.other,
        inner.linear1: block.expand,
        inner.linear2: block.shrink,
        library.norm: block.norms[3],
    }
    norms = [inner.norm1, inner.norm2, inner.norm3]
    for theirs, ours in [*parts.items(), *zip(norms, block.norms, strict=False)]:
        theirs.load_state_dict(ours.state_dict())
    return library


@torch.no_grad()
def test_a_block_equals_torchs_decoder_layer() -> None:
    block = make().decoder.condition
    for parameter in block.norms.parameters():
        parameter.normal_()
    x, memory = torch.randn(2, 7, 16), torch.randn(2, 3, 16)
    assert error(block.cross_attend(block.self_attend(x), memory), library_block(block)(x, memory)) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_head_draws_each_patchs_pixels(norm: Any) -> None:
    torch.manual_seed(0)
    head, x = MaskHead(16, 4, norm).eval(), torch.randn(2, 16, 3, 3)
    channels = F.relu(head.norm(F.conv2d(x, head.conv.weight, head.conv.bias, padding=1)))
    pixels = torch.zeros(2, 1, 12, 12)
    for row in range(12):
        for column in range(12):
            pixels[:, 0, row, column] = channels[:, (row % 4) * 4 + column % 4, row // 4, column // 4]
    padded, expected = F.pad(pixels[:, 0], (2, 2, 2, 2)), torch.zeros(2, 12, 12)
    for row in range(12):
        for column in range(12):
            window = padded[:, row : row + 5, column : column + 5]
            expected[:, row, column] = (window * head.smooth.weight[0, 0]).sum((1, 2)) + head.smooth.bias
    assert error(head(x), expected) < TOLERANCE


def by_hand(method: MLLMSeg, read: TunedReadout) -> Tensor:
    """Question by question as in the released code: everything anew for each."""
    out = torch.zeros(*read.segment.shape[:2], method.mask_side, method.mask_side)
    decoder, side = method.decoder, read.grid[0]
    fuse = decoder.fuse
    for b in range(out.shape[0]):
        for q in range(out.shape[1]):
            raw, image = read.patches[b, None], F.linear(read.image[b, :1], fuse.image.weight, fuse.image.bias)
            enhanced = library_block(fuse.enhance)(raw, image)
            coarse = image.transpose(1, 2).reshape(1, -1, side, side)
            fine = fuse.upsample(coarse).flatten(2).transpose(1, 2)
            fused = fuse.join(torch.cat([enhanced, raw, fine], -1))
            x = library_block(decoder.condition)(fused, decoder.segment(read.segment[b, q, None]))
            out[b, q] = decoder.head(x.transpose(1, 2).reshape(1, -1, 2 * side, 2 * side))[0]
    return out


@torch.no_grad()
def test_the_whole_decoder_equals_a_plain_computation() -> None:
    method, read = make(replace(TINY, norm="batch")), readout()
    assert error(method.decode(read, None).mask_logits, by_hand(method, read)) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("r", [1, 3])
def test_precomputed_features_give_the_same_masks(r: int) -> None:
    method, read = make(), readout(r=r)
    precomputed, fresh = method.precompute(read), method.decode(read, None)
    assert precomputed.shape == (2, r, 36, 16)
    for _ in range(2):  # and it may be used again
        again = method.decode(replace(read, patches=torch.zeros_like(read.patches)), None, precomputed)
        assert torch.equal(again.mask_logits, fresh.mask_logits)
        assert torch.equal(again.presence_logits, fresh.presence_logits)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("r", [1, 3])
def test_questions_are_independent_of_each_other(norm: Any, r: int) -> None:
    method, read = make(replace(TINY, norm=norm)), readout(r=r)
    together = method.decode(read, None).mask_logits
    for b in range(2):
        for q in range(3):
            alone = replace(
                read,
                patches=read.patches[b : b + 1],
                given=read.given[b : b + 1],
                text_loss=None,
                before=None,
                image=read.image[b : b + 1, q if r > 1 else 0][:, None],
                segment=read.segment[b : b + 1, q : q + 1],
                choice=read.choice[b : b + 1, q : q + 1],
            )
            assert error(method.decode(alone, None).mask_logits[0, 0], together[b, q]) < TOLERANCE


SWITCHES = {"detail": ("decoder.fuse.enhance",), "raw": (), "semantic": ("decoder.fuse.upsample",)}


@torch.no_grad()
@pytest.mark.parametrize("off", SWITCHES)
def test_a_source_that_is_off_is_left_out(off: str) -> None:
    method, less = make(), make(replace(TINY, **{off: False}))  # type: ignore[arg-type]
    gone = method.state_dict().keys() - less.state_dict().keys()
    assert gone == {name for name in method.state_dict() if name.startswith(SWITCHES[off] or "none")}
    assert less.decoder.fuse.join.in_features == 2 * 16
    # with the weights of the whole, it is the whole with zeros in that source's place
    state = method.state_dict()
    columns = [k for k, name in enumerate(("detail", "raw", "semantic")) if name != off]
    state["decoder.fuse.join.weight"] = torch.cat(
        [state["decoder.fuse.join.weight"].chunk(3, 1)[k] for k in columns], 1
    )
    less.load_state_dict({name: state[name] for name in less.state_dict()})
    method.decoder.fuse.join.weight.chunk(3, 1)[("detail", "raw", "semantic").index(off)].zero_()
    read = readout()
    assert error(less.decode(read, None).mask_logits, method.decode(read, None).mask_logits) < TOLERANCE


@torch.no_grad()
def test_one_source_is_enough() -> None:
    for name in SWITCHES:
        method = make(replace(TINY, **{other: other == name for other in SWITCHES}))  # type: ignore[arg-type]
        read = readout()
        moved = replace(read, image=read.image + 1)
        changed = not torch.equal(method.decode(read, None).mask_logits, method.decode(moved, None).mask_logits)
        assert changed == (name != "raw")
        assert ("decoder.fuse.image.weight" in method.state_dict()) == (name != "raw")


@torch.no_grad()
def test_without_pixel_shuffle_nothing_is_up_sampled() -> None:
    mllm = reader(grid=(4, 4), shuffle=1)
    method, read = make(mllm=mllm), readout(mllm=mllm)
    assert not any(name.startswith("decoder.fuse.upsample") for name in method.state_dict())
    assert method.decode(read, None).mask_logits.shape == (2, 3, 16, 16)


@torch.no_grad()
def test_patches_of_another_width_are_projected() -> None:
    assert "decoder.fuse.patches.weight" not in make().state_dict()
    mllm = reader(patch_width=10)
    method = make(mllm=mllm)
    assert method.decoder.fuse.patches.weight.shape == (16, 10)
    assert method.decode(readout(mllm=mllm), None).mask_logits.shape == (2, 3, 24, 24)


@torch.no_grad()
@pytest.mark.parametrize("r", [1, 3])
def test_image_states_one_token_early(r: int) -> None:
    method, early, read = make(), make(replace(TINY, shift_image_tokens=True)), readout(r=r)
    assert read.before is not None
    image = torch.zeros_like(read.image)
    image[:, :, 0], image[:, :, 1:] = read.before[:, None], read.image[:, :, :-1]
    shifted, expected = early.decode(read, None), method.decode(replace(read, image=image), None)
    assert torch.equal(shifted.mask_logits, expected.mask_logits)
    with pytest.raises(ValueError, match="needs the state in front of the image"):
        early.decode(replace(read, before=None), None)


# ---------------------------------------------------------------- presence


def chosen(**logits: float) -> Tensor:
    """Logits of five old words, [SEG] and [REJ], all 0 but for what is given."""
    words = ["a", "b", "c", "d", "e", "seg", "rej"]
    return torch.tensor([[[logits.get(word, 0.0) for word in words]]])


@torch.no_grad()
def test_presence_is_the_margin_over_reject() -> None:
    read = readout(1, 1)
    for config, choice, expected in (
        (TINY, chosen(seg=2.0, rej=1.0), 1.0),
        (TINY, chosen(seg=1.0, rej=2.5), -1.5),
        (TINY, chosen(seg=-9.0, rej=2.0, c=3.0), 1.0),  # neither is the likeliest: present, as long as [REJ] is not
        (replace(TINY, refusal_by="two-way"), chosen(seg=-9.0, rej=2.0, c=3.0), -11.0),
        (replace(TINY, refusal_by="two-way"), chosen(seg=2.0, rej=1.0, c=3.0), 1.0),
    ):
        presence = make(config).decode(replace(read, choice=choice), None).presence_logits
        assert presence is not None
        assert presence.item() == expected
    mute = replace(TINY, refusal=None)
    assert make(mute).decode(replace(read, choice=chosen(rej=9.0)[..., :-1]), None).presence_logits is None


@torch.no_grad()
def test_presence_is_whether_reject_is_the_likeliest_word() -> None:
    read = readout(4, 50, seed=3)
    presence = make().decode(read, None).presence_logits
    assert presence is not None
    refused = read.choice.argmax(-1) == WORDS + 1
    assert refused.any()
    assert torch.equal(presence < 0, refused)


# ---------------------------------------------------------------- losses


def truth(masks: Tensor, present: Tensor, valid: Tensor | None = None, spoken: Tensor | None = None) -> Truth:
    valid = torch.ones_like(present) if valid is None else valid
    spoken = torch.zeros_like(present) if spoken is None else spoken
    return Truth(masks, masks, present, valid, spoken)


def test_losses_by_hand() -> None:
    """One target, one that is not there, one question in words and one of padding."""
    logits = torch.zeros(1, 4, 2, 2)
    logits[0, 1:] = 7.0
    masks = torch.zeros(1, 4, 2, 2)
    masks[0, 0, 0] = 1
    bits = lambda *message: torch.tensor([message], dtype=torch.bool)  # noqa: E731
    labels = truth(masks, bits(1, 0, 0, 0), bits(1, 1, 0, 0), bits(0, 0, 1, 0))
    output = MethodOutput(logits, text_loss=torch.tensor([[0.5, 1.0, 3.0, 100.0]]))
    ce = float(np.log(2))
    terms = make(replace(TINY, text_weight=2.0, focal_weight=3.0, dice_weight=5.0)).losses(output, labels)
    assert set(terms) == {"text", "focal", "dice"}
    assert terms["text"].item() == pytest.approx(2 * (0.5 + 1 + 3) / 3)
    # half of the four pixels weigh 1/4, half 3/4; each is half missed
    assert terms["focal"].item() == pytest.approx(3 * 0.5 * 0.25 * ce)
    assert terms["dice"].item() == pytest.approx(5 * (1 - (2 * 1 + 1) / (2 + 2 + 1)))
    both = make(replace(TINY, absent="empty")).losses(output, labels)
    p = 1 / (1 + np.exp(-7.0))
    assert both["dice"].item() == pytest.approx((0.4 + 1 - 1 / (4 * p + 1)) / 2)
    assert both["focal"].item() == pytest.approx((0.125 * ce + 0.75 * p**2 * np.log1p(np.exp(7.0))) / 2, rel=1e-5)


def test_losses_over_the_totals_of_a_whole_step() -> None:
    method, dice = make(), torch.Generator().manual_seed(0)
    out = MethodOutput(torch.randn(2, 3, 6, 6, generator=dice), text_loss=torch.rand(2, 3, generator=dice))
    masks, present = torch.rand(2, 3, 6, 6, generator=dice), torch.tensor([[True, False, True], [False, True, True]])
    whole = method.losses(out, truth(masks, present))
    totals = Totals(present=4.0, valid=6.0, answered=6.0)
    halves = [
        method.losses(
            MethodOutput(out.mask_logits[b : b + 1], text_loss=out.text_loss[b : b + 1]),
            truth(masks[b : b + 1], present[b : b + 1]),
            totals,
        )
        for b in range(2)
    ]
    for name, value in whole.items():
        assert torch.allclose(halves[0][name] + halves[1][name], value)


def test_a_batch_without_targets_has_no_mask_loss() -> None:
    out = MethodOutput(torch.zeros(1, 1, 2, 2, requires_grad=True), text_loss=torch.ones(1, 1))
    terms = make().losses(out, truth(torch.zeros(1, 1, 2, 2), torch.tensor([[False]])))
    assert [terms[name].item() for name in ("text", "focal", "dice")] == [1, 0, 0]


def test_two_sigmoids_in_the_focal_term() -> None:
    logits, target = torch.randn(3, 4, 4), torch.rand(3, 4, 4).round()
    p = logits.sigmoid()
    p_t = p * target + (1 - p) * (1 - target)
    alpha_t = 0.25 * target + 0.75 * (1 - target)
    for twice, ce in ((False, -p_t.log()), (True, F.binary_cross_entropy_with_logits(p, target, reduction="none"))):
        expected = (alpha_t * (1 - p_t) ** 2 * ce).mean((1, 2))
        assert torch.allclose(focal(logits, target, double_sigmoid=twice), expected, atol=1e-6)
        config = replace(TINY, double_sigmoid=twice)
        out = MethodOutput(logits[None], text_loss=torch.zeros(1, 3))
        terms = make(config).losses(out, truth(target[None], torch.ones(1, 3, dtype=torch.bool)))
        assert torch.allclose(terms["focal"], expected.mean(), atol=1e-6)
    assert torch.allclose(terms["dice"], smooth_dice(logits, target).mean())


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("config", [TINY, replace(TINY, norm="batch"), replace(TINY, semantic=False)])
@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_reach_what_is_trained(config: MLLMSegConfig, autocast: bool) -> None:
    method, read = make(config).train(), readout()
    states = {name: getattr(read, name).requires_grad_() for name in ("patches", "image", "segment")}
    present = torch.tensor([[True, True, False], [True, False, True]])
    masks = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        terms = method.losses(method.decode(read, None), truth(masks, present))
        sum(terms.values(), torch.zeros(())).backward()
    for name, p in method.named_parameters():
        if not name.startswith("adapter."):
            assert p.grad is not None, name
            assert p.grad.isfinite().all(), name
            # what stands before a norm and adds the same everywhere changes nothing
            assert p.grad.abs().max() > 0 or name == "decoder.head.conv.bias", name
    for name, state in states.items():
        assert state.grad is not None, name
        assert state.grad.abs().sum() > 0, name


@torch.no_grad()
def test_half_precision_is_bounded() -> None:
    method, read = make(), readout()
    exact = method.decode(read, None).mask_logits
    halves = {name: getattr(read, name).bfloat16() for name in ("patches", "image", "segment", "choice", "before")}
    with torch.autocast("cpu", torch.bfloat16):
        mixed = method.decode(replace(read, **halves), None)
    # of the largest logit; measured: 0.013 and 0.014 at worst of four seeds
    assert error(mixed.mask_logits.float(), exact) < 0.04
    assert mixed.presence_logits is not None
    assert mixed.presence_logits.dtype == torch.float32
    assert error(method.bfloat16().decode(replace(read, **halves), None).mask_logits.float(), exact) < 0.04


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_overfits_three_masks(norm: Any) -> None:
    method, read = make(replace(TINY, norm=norm)), readout(1)
    masks = torch.zeros(1, 3, 24, 24)
    masks[0, 0, 2:11, 3:9] = masks[0, 1, 10:21, 12:22] = masks[0, 2, 5:8, 14:23] = 1
    labels = truth(masks, torch.ones(1, 3, dtype=torch.bool))
    optimizer = torch.optim.AdamW(method.parameters(), lr=5e-3)
    for step in range(400):
        sum(method.train().losses(method.decode(read, None), labels).values(), torch.zeros(())).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 19:
            drawn = method.eval().decode(read, None).mask_logits > 0
            iou = (drawn & masks.bool()).sum((2, 3)) / (drawn | masks.bool()).sum((2, 3))
            if iou.min() > 0.8:
                return
    pytest.fail(f"IoU {iou.tolist()}")


# ---------------------------------------------------------------- settings


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As users run it: nothing checks the types of what they give."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.usefixtures("unchecked")
def test_settings_survive_json() -> None:
    for config in (*(preset.config for preset in PRESETS.values()), TINY):
        assert MLLMSegConfig(**json.loads(json.dumps(asdict(config)))) == config


def test_tuning_and_texts_are_those_of_the_released_code() -> None:
    config = MLLMSegConfig()
    tuning, templates = config.tuning(), config.templates()
    assert (tuning.rank, tuning.alpha, tuning.dropout, tuning.vision_rank, tuning.projector) == (
        64,
        128,
        0.05,
        0,
        False,
    )
    assert tuning.targets == ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert tuning.tokens == ("[SEG]", "[REJ]")
    assert templates.tokens == ("[SEG]",)
    assert templates.refusal == "Sure, {}:[REJ]."
    mute = replace(config, refusal=None)
    assert mute.tuning().tokens == ("[SEG]",)
    assert mute.templates().refusal is None
    authors = PRESETS["authors"].config
    assert authors.request.format("the cup") == " What are the cupin this image? Please output segmentation masks."
    assert authors.answers[0].format("the cup") == "Sure,the cup:[SEG]."
    assert (authors.tuning().vocabulary, authors.tuning().final_norm, authors.text_mean) == (True, True, "tokens")
    assert not tuning.final_norm


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "layer"}, "norm='layer'"),
        ({"refusal_by": "chance"}, "refusal_by='chance'"),
        ({"absent": "ignore"}, "absent='ignore'"),
        ({"width": 0}, "width=0; it must be a whole number above 0"),
        ({"subpixels": 1.5}, "subpixels=1.5"),
        ({"heads": 3}, "width=16; it must be a multiple of heads=3"),
        ({"groups": 5}, "multiple of groups=5"),
        ({"decoder_dropout": 2.0}, "decoder_dropout=2.0; it must be a number from 0 to 1"),
        ({"detail": False, "raw": False, "semantic": False}, "leave at least one of them on"),
        ({"request": "segment it"}, "needs one {} where the query goes"),
        ({"answers": ()}, "needs one or more"),
        ({"answers": ("It is there.",)}, "each with one [SEG]"),
        ({"refusal": "Nothing."}, "needs one [REJ] and no [SEG]"),
        ({"refusal": "There is none: [REJ]."}, "they must begin alike"),
    ],
)
def test_invalid_settings_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="MLLMSeg got ") as caught:
        replace(TINY, **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
