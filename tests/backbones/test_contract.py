"""What every backbone promises, on every kind of model that `tiny` makes; no test here names a family.

Errors are relative to the largest value compared. Measured on one thread of a CPU with AVX-512; other row counts make
BLAS add in another order, which is all that differs in float32. In bfloat16 two units of its last place are .016.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType

import numpy as np
import pytest
import torch
from bare import Bare, States, digest, error
from torch import Tensor

from seglens.backbones import FAMILIES, Backbone, EncodedPrefix, Family, load_backbone
from seglens.core.geometry import Frame
from seglens.core.types import Readout, Truth
from seglens.decoders import MaskDecoder
from seglens.methods.lens import Lens, LensConfig
from tiny import CROPPED, EVERY, FROZEN, KINDS, TILED, by_speed

QUESTIONS = ("the red cup", "what keeps you dry when it rains ?", "dog")
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 0.03}
EXACT = {"dtype": torch.float32, "attn_implementation": "eager"}
ROUGH = {"dtype": torch.bfloat16, "attn_implementation": "sdpa"}
IMAGE = np.random.default_rng(1).integers(0, 256, (50, 90, 3), dtype=np.uint8)


@dataclass
class Case:
    """A loaded backbone, what it read of `IMAGE`, and the bare model beside it."""

    backbone: Backbone
    bare: Bare
    opened: EncodedPrefix
    readout: Readout
    before: str

    @property
    def tolerance(self) -> float:
        dtype = self.readout.prefix.dtype
        if dtype == torch.bfloat16 and self.bare.kind in FROZEN.values():
            return 0.15  # rounding may choose another expert for a token; measured: .078
        return TOLERANCE[dtype]

    def ids(self, question: str) -> Tensor:
        return self.bare.ids(question, len(self.readout.image_tokens))

    def whole(self, ids: Tensor) -> States:
        return self.bare.run(ids, self.bare.canvas(IMAGE, self.backbone.image_size))


def load(folder: Path, **how: object) -> Backbone:
    return load_backbone(folder, **{**EVERY[folder.name].options, **how})


@pytest.fixture(scope="module", params=by_speed([*KINDS, *FROZEN, *TILED, *CROPPED]))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of each kind, and of those that have tiles in tiles."""
    folder = tmp_path_factory.mktemp("kinds") / request.param
    EVERY[request.param].save(folder)
    return folder


def make(folder: Path, how: dict) -> Case:
    backbone = load(folder, **how)
    before = digest(backbone.module)
    opened = backbone.open(IMAGE)
    return Case(backbone, Bare.load(folder, **how), opened, backbone.read(opened, QUESTIONS), before)


@pytest.fixture(scope="module")
def case(family: Path) -> Case:
    return make(family, EXACT)


@pytest.fixture(scope="module", params=[EXACT, ROUGH], ids=["float32-eager", "bfloat16-sdpa"])
def either(request: pytest.FixtureRequest, family: Path) -> Case:
    return request.getfixturevalue("case") if request.param is EXACT else make(family, ROUGH)


def test_every_family_has_a_kind() -> None:
    assert {kind.model().config.model_type for kind in {**KINDS, **FROZEN, **CROPPED}.values()} == set(FAMILIES)


def test_families_are_abstract_or_final() -> None:
    """No method of a family is written over: each has one body, in the family or in what it shares with its like."""
    for family in set(FAMILIES.values()):
        assert getattr(family, "__final__", False)
        ours = [base for base in family.__mro__ if issubclass(base, Family)]
        bodies = Counter(
            name
            for base in ours
            for name, value in vars(base).items()
            if isinstance(value, FunctionType | staticmethod | property) and name not in base.__abstractmethods__
        )
        assert bodies["encode"] == bodies["layout_of"] == bodies["projectors"] == 1
        assert [name for name, count in bodies.items() if count > 1] == [], family.__name__


# ------------------------------------------------------------------ reading


def test_shapes(case: Case) -> None:
    backbone, readout = case.backbone, case.readout
    rows, columns = backbone.grid
    assert rows * columns == len(readout.image_tokens)
    assert readout.grid == backbone.grid
    assert readout.question.shape[:2] == (1, len(QUESTIONS))
    for q, question in enumerate(QUESTIONS):
        ids = case.ids(question)
        image = (ids[0] == case.bare.model.config.image_token_id).nonzero()[:, 0].tolist()
        assert set(image) >= {*readout.image_tokens.tolist()}
        assert (image == readout.image_tokens.tolist()) == (backbone.tiling.tokens == rows * columns)
        ends = 2 if any(backbone.tiling.around) else 0  # Molmo 2: a token ends the last row, and one the image
        assert readout.prefix.shape == (1, image[-1] + 1 + ends, backbone.width)  # the image ends the prefix
        length = int(readout.question_mask[0, q].sum())
        assert length == ids.shape[1] - readout.prefix.shape[1]
        assert readout.question_mask[0, q, :length].all()


def test_positions_turn_as_the_models_own(case: Case) -> None:
    """One axis or three: the rotary factors are the same numbers."""
    readout, start = case.readout, case.readout.prefix.shape[1]
    for q, question in enumerate(QUESTIONS):
        n = int(readout.question_mask[0, q].sum())
        positions = torch.cat([readout.prefix_positions, readout.question_positions[:, q, :n]], 1)
        if positions.ndim > 2:
            positions = positions.permute(2, 0, 1)
        for kind, expected in case.whole(case.ids(question)).rotary:
            factors = case.backbone.module.get_decoder().rotary_emb(readout.prefix, positions, *kind)
            for ours, theirs in zip(factors, expected, strict=True):
                assert torch.equal(ours, theirs.expand_as(ours))
                assert ours.shape[1] == start + n


def test_images_that_share_a_pass_are_read_as_alone(case: Case) -> None:
    images = [IMAGE, np.ascontiguousarray(IMAGE[::-1, :60])]
    questions = [QUESTIONS[:2], QUESTIONS[1:]]
    opened = case.backbone.open_many(images)
    alone = [case.backbone.read(case.backbone.open(image), some) for image, some in zip(images, questions, strict=True)]
    together = case.backbone.read_many(opened, questions)
    for k, (one, image) in enumerate(zip(alone, images, strict=True)):
        length = one.question_mask.shape[2]
        mask, hidden = together.question_mask[k], together.question[k, :, :length]
        assert opened[k].frame == case.backbone.mllm.frame(image)
        assert torch.equal(mask[:, :length], one.question_mask[0])
        assert not mask[:, length:].any()
        assert torch.equal(together.question_positions[k, :, :length], one.question_positions[0])
        assert error(together.prefix[k], one.prefix[0]) < case.tolerance
        assert error(hidden[one.question_mask[0]], one.question[0][one.question_mask[0]]) < case.tolerance


def test_reading_equals_the_whole_model(either: Case) -> None:
    readout, start = either.readout, either.readout.prefix.shape[1]
    assert readout.prefix.dtype == either.bare.model.dtype
    for q, question in enumerate(QUESTIONS):
        there = either.whole(either.ids(question)).inputs[either.backbone.layer][0]
        assert error(readout.prefix[0], there[:start]) < either.tolerance  # measured: 1.3e-6 and .012
        assert error(readout.question[0, q, : len(there) - start], there[start:]) < either.tolerance


def test_early_exit_is_exact(case: Case) -> None:
    """With the same rows in the same order nothing at all differs: what is above the layer never mattered."""
    there = case.whole(case.ids(QUESTIONS[0])[:, : case.readout.prefix.shape[1]])
    assert torch.equal(case.readout.prefix, there.inputs[case.backbone.layer])


def test_prefix_does_not_depend_on_the_question(case: Case) -> None:
    start = case.readout.prefix.shape[1]
    whole = [case.ids(q) for q in QUESTIONS[:2]]
    differ = next(n for n in range(start, min(ids.shape[1] for ids in whole)) if whole[0][0, n] != whole[1][0, n])
    first, second = (case.whole(ids[:, : differ + 1]).inputs for ids in whole)
    exact = case.bare.kind not in FROZEN.values()  # an expert that also runs the last token is given more rows
    for one, other in zip(first, second, strict=True):
        before, again = one[:, :start], other[:, :start]
        assert torch.equal(before, again) if exact else error(before, again) < TOLERANCE[torch.float32]
    assert torch.equal(case.backbone.read(case.opened, ["umbrella"]).prefix, case.readout.prefix)


def test_many_questions_equal_single_ones(either: Case) -> None:
    for q, question in enumerate(QUESTIONS):
        alone = either.backbone.read(either.opened, [question])
        length = alone.question.shape[2]
        assert alone.question_mask.all()
        assert error(either.readout.question[:, q : q + 1, :length], alone.question) < either.tolerance


def test_reading_twice_gives_the_same(case: Case) -> None:
    again, reopened = case.backbone.read(case.opened, QUESTIONS), case.backbone.open(IMAGE)
    assert torch.equal(again.question, case.readout.question)
    assert torch.equal(reopened.prefix, case.readout.prefix)


def test_layers_above_never_run(case: Case) -> None:
    layers = case.backbone.module.get_decoder().layers
    runs = [0] * len(layers)

    def count(n: int) -> None:
        runs[n] += 1

    hooks = [layer.register_forward_hook(lambda *_, n=n: count(n)) for n, layer in enumerate(layers)]
    case.backbone.read(case.backbone.open(np.zeros((8, 8, 3), np.uint8)), QUESTIONS)
    for hook in hooks:
        hook.remove()
    k = case.backbone.layer
    assert runs == [2] * k + [0] * (len(layers) - k)  # once for the image, once for all questions


def test_segmentation_only(case: Case, family: Path) -> None:
    whole, short = case.backbone, load(family, segmentation_only=True, **EXACT)
    assert (short.layer, short.depth) == (whole.layer, whole.depth)
    size, short_size = (sum(p.numel() for p in b.module.parameters()) for b in (whole, short))
    above = whole.mllm.language.layers[whole.copied[-1] + 1 :]
    assert len(whole.mllm.language.layers) == whole.depth > len(short.mllm.language.layers) == whole.copied[-1] + 1
    assert short_size == size - sum(p.numel() for p in above.parameters())
    readout = short.read(short.open(IMAGE), QUESTIONS)
    assert torch.equal(readout.prefix, case.readout.prefix)
    assert torch.equal(readout.question, case.readout.question)
    for one, other in zip(whole.clone_layers(2), short.clone_layers(2), strict=True):
        assert digest(one) == digest(other)
    with pytest.raises(ValueError, match=r"segmentation_only=True.*load it again"):
        short.generate(IMAGE, "what is this ?")


# ------------------------------------------------------------------ cloned layers


@torch.no_grad()
def test_clones_continue_the_model(either: Case) -> None:
    """In float32, as the head runs them, on whatever precision the backbone reads in."""
    readout, start = either.readout, either.readout.prefix.shape[1]
    prefix, question = readout.prefix.float(), readout.question.float()
    places = (readout.question_positions, readout.question_mask)
    states = [either.whole(either.ids(text)) for text in QUESTIONS]
    for layer, clone in zip(either.backbone.copied, either.backbone.clone_layers(2), strict=True):
        prefix, memory = clone.prefix(prefix, readout.prefix_positions)
        rows = clone.rows()
        plain = clone.questions(question, *places, memory)
        question = clone.questions(question, *places, memory, rows)
        assert error(plain, question) < TOLERANCE[torch.float32]  # measured: 0
        assert rows.probabilities is not None
        attention = rows.probabilities.unflatten(2, (len(QUESTIONS), -1))  # b heads q t columns
        for q, whole in enumerate(states):
            there, probabilities = whole.inputs[layer + 1][0], whole.attentions[layer]
            n = len(there) - start
            assert error(prefix[0], there[:start]) < either.tolerance
            assert error(question[0, q, :n], there[start:]) < either.tolerance
            if probabilities is not None:  # only eager attention shows them
                expected = probabilities[0, :, start:, :start]
                assert error(attention[0, :, q, :n, :start], expected) < either.tolerance


def test_clones_are_independent(case: Case) -> None:
    original = case.backbone.module.get_decoder().layers[case.backbone.layer].self_attn
    clones = case.backbone.clone_layers(2)
    theirs = {p.data_ptr() for p in case.backbone.module.parameters()}
    ours = [p for clone in clones for p in clone.parameters()]
    assert all(p.requires_grad and p.dtype == torch.float32 for p in ours)
    assert not theirs & {p.data_ptr() for p in ours}
    prefix, _ = clones[0].prefix(case.readout.prefix.float(), case.readout.prefix_positions)
    prefix.square().mean().backward()
    with torch.no_grad():
        for p in clones[0].parameters():
            p -= p.grad
    assert digest(case.backbone.module) == case.before
    assert original.config._attn_implementation == EXACT["attn_implementation"]
    assert torch.equal(case.backbone.read(case.opened, QUESTIONS).question, case.readout.question)


# ------------------------------------------------------------------ frozen, and chatting as before


def test_nothing_is_trained_or_changed(case: Case) -> None:
    assert not any(p.requires_grad for p in case.backbone.module.parameters())
    assert not any(m.training for m in case.backbone.module.modules())
    assert not case.readout.question.requires_grad
    assert digest(case.backbone.module) == case.before


def test_chat_is_untouched(family: Path, decoder: MaskDecoder) -> None:
    question = "what is in the picture ?"
    answer, logits = Bare.load(family).talk(IMAGE, question, 8)
    backbone = load(family, as_is=True)

    def talk() -> None:
        assert backbone.generate(IMAGE, question, 8) == answer
        with torch.no_grad():
            assert torch.equal(backbone.module(**backbone.chat_inputs(IMAGE, question)).logits, logits)

    before = digest(backbone.module), digest(decoder.module)
    talk()
    torch.manual_seed(0)
    config = LensConfig(keypoints=4, encoder_width=32)
    lens = Lens(config, backbone.clone_layers(2), backbone.width, backbone.heads, backbone.feed_forward, decoder)
    optimizer = torch.optim.AdamW(lens.parameters(), lr=1e-2)
    lens.train()
    assert not any(m.training for m in (*backbone.module.modules(), *decoder.module.modules()))
    readout = backbone.read(backbone.open(IMAGE), QUESTIONS)
    embedding = decoder.encode(IMAGE, Frame(*IMAGE.shape[:2]))
    for _ in range(2):
        output = lens(readout, embedding)
        masks, cells = torch.rand_like(output.mask_logits), torch.rand(1, len(QUESTIONS), *backbone.grid)
        every = torch.ones(1, len(QUESTIONS), dtype=torch.bool)
        sum(lens.losses(output, Truth(masks, cells, every, every, ~every)).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    talk()
    assert (digest(backbone.module), digest(decoder.module)) == before


# ------------------------------------------------------------------ geometry


@pytest.fixture(scope="module")
def narrow(family: Path) -> Backbone:
    """A backbone whose vision tower mixes nothing: a token knows only its own cell."""
    backbone = load(family, **EXACT)
    mixing = ("out_proj.", "projection_layer.", "attn.proj.", "attn.o_proj.")  # the end of every kind of attention
    language = {id(p) for p in backbone.module.get_decoder().parameters()}
    silenced = 0
    for name, parameter in backbone.module.named_parameters():
        if any(end in name for end in mixing) and id(parameter) not in language:
            parameter.data.zero_()
            silenced += 1
    assert silenced >= 4
    return backbone


@torch.no_grad()
@pytest.mark.parametrize("size", [(60, 120), (120, 60), (84, 84), (31, 170)])
def test_a_pixel_lands_in_its_token(narrow: Backbone, size: tuple[int, int]) -> None:
    """One bright pixel moves the token of the cell that the Frame gives, at most its neighbours, and no other."""
    frame, (rows, columns) = Frame(*size), narrow.grid

    def rows_of(image: np.ndarray) -> Tensor:
        return narrow.mllm.encode(image).rows[0, narrow.tiling.places]

    dark = np.zeros((*size, 3), np.uint8)
    still = rows_of(dark)
    for y, x in ((size[0] // 2, 0), (size[0] - 1, size[1] // 3), (0, size[1] - 1), (size[0] // 3, size[1] // 2)):
        bright = dark.copy()
        bright[y, x] = 255
        change = (rows_of(bright) - still).abs().sum(-1).reshape(rows, columns)
        point = frame.to_canvas(torch.tensor([x + 0.5, y + 0.5]))
        column, row = (point * torch.tensor([columns, rows]) - 0.5).round().long().tolist()
        near = torch.zeros(rows, columns, dtype=torch.bool)
        # an antialiased resize spreads a pixel by at most one of its own
        near[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = True
        assert change[row, column] > 0
        assert change[~near].abs().max() == 0
        centre = torch.tensor([change.argmax() % columns, change.argmax() // columns])
        back = frame.to_image(frame.cells_to_canvas(centre.float(), narrow.grid))
        assert (back - torch.tensor([x, y])).abs().max() <= frame.side / rows  # and the way back, within a cell
