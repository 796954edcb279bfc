"""What an MLLM with an adapter promises, on every kind of model that `tiny` makes; no test here names a family.

Errors are relative to the largest value compared, as in test_contract.py: other row counts add up in another order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from bare import Bare, digest, error
from torch import Tensor

from seglens.backbones import Backbone, load_backbone
from seglens.backbones.tuned_reader import TunedBackbone
from seglens.core.tuning_types import AnswerTemplates, Attention, TunedInputs, TunedReadout, Tuning
from seglens.methods.base import EncodedImage
from seglens.methods.tuned import TunedReader
from tiny import EVERY, KINDS, TILED, TUNED, by_speed

pytest.importorskip("peft", reason="needs peft: pip install 'seglens[tune]'")

ATTENTIONS: tuple[Attention, ...] = ("causal", "images", "dual")
QUERIES = ("the red cup", "dog")
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 0.03}
EXACT = {"dtype": torch.float32, "attn_implementation": "eager"}
ROUGH = {"dtype": torch.bfloat16, "attn_implementation": "sdpa"}
LISA = Tuning(("[SEG]", "[REJ]"), rank=4, alpha=8.0, dropout=0.0)
ALL = Tuning(
    ("[SEG]", "[REJ]"),
    rank=4,
    alpha=8.0,
    dropout=0.0,
    targets=("q_proj", "o_proj", "down_proj"),
    vision_rank=2,
    projector=True,
    vocabulary=True,
)
TEMPLATES = AnswerTemplates(("[SEG]",), request="find {}", answers=("it is [SEG].",), refusal="no {} : [REJ].")
IMAGES = np.random.default_rng(1).integers(0, 256, (2, 50, 90, 3), dtype=np.uint8)
IMAGE = IMAGES[0]


@dataclass(frozen=True)
class Case:
    """A loaded backbone, its digest, and the bare model beside it."""

    backbone: Backbone
    bare: Bare
    before: str

    @property
    def tolerance(self) -> float:
        return TOLERANCE[self.bare.model.dtype]

    def untouched(self) -> None:
        assert digest(self.backbone.module) == self.before
        assert not any(p.requires_grad or p.grad is not None for p in self.backbone.module.parameters())
        assert not any(m.training for m in self.backbone.module.modules())


def make(folder: Path, how: dict) -> Case:
    backbone = load_backbone(folder, **{**EVERY[folder.name].options, **how}, as_is=True)
    return Case(backbone, Bare.load(folder, **how), digest(backbone.module))


@pytest.fixture(scope="module", params=by_speed(kind for kind in {**KINDS, **TUNED} if kind != "embedded"))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of each kind but the largest, which is built as the first."""
    folder = tmp_path_factory.mktemp("kinds") / request.param
    EVERY[request.param].save(folder)
    return folder


@pytest.fixture(scope="module")
def case(family: Path) -> Case:
    return make(family, EXACT)


@pytest.fixture(scope="module", params=[EXACT, ROUGH], ids=["float32-eager", "bfloat16-sdpa"])
def either(request: pytest.FixtureRequest, family: Path) -> Case:
    return request.getfixturevalue("case") if request.param is EXACT else make(family, ROUGH)


def inputs_of(
    adapted: TunedBackbone, images: Sequence[np.ndarray], examples: Sequence[tuple[str, str | None, bool]]
) -> TunedInputs:
    """The same questions about every image."""
    questions = [adapted.words(*ask) for ask in examples]
    rows = [torch.tensor(words.ids) for words in questions]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).bool()
    learnt = torch.nn.utils.rnn.pad_sequence([torch.tensor(words.learnt) for words in questions], batch_first=True)
    places, spoken = (
        torch.tensor([words.places for words in questions]),
        torch.tensor([words.spoken for words in questions]),
    )
    pixels = torch.stack([adapted.pixels(image) for image in images])
    return TunedInputs(pixels, *(v.expand(len(images), *v.shape) for v in (ids, mask, learnt, places, spoken)))


def raster(backbone: Backbone) -> list[int]:
    """The places of all cells, row by row over the canvas, where tile comes after tile."""
    tiles, cells = backbone.tiling.across, backbone.tiling.cells
    rows = [divmod(row, cells) for row in range(tiles * cells)]
    return [((y * tiles + x) * cells + r) * cells + c for y, r in rows for x, c in rows]


EXAMPLES = (("cup", None, True), ("a dog", None, False), ("how ?", "so", True))


def train(adapted: TunedBackbone, steps: int = 2, rate: float = 0.05) -> list[TunedReadout]:
    """Every parameter moves."""
    optimizer = torch.optim.SGD(adapted.adapter.parameters(), rate)
    inputs, readings = inputs_of(adapted, IMAGES, EXAMPLES), []
    for _ in range(steps):
        readings.append(adapted.teach(inputs))
        loss = readings[-1].text_loss.mean() + readings[-1].segment.square().mean() + readings[-1].image.mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return readings


def same(one: TunedReadout, other: TunedReadout) -> None:
    for name, value in vars(one).items():
        there = vars(other)[name]
        assert torch.equal(value, there) if isinstance(value, Tensor) else value == there, name


# ------------------------------------------------------------------ a new adapter changes nothing


def test_it_is_what_methods_read(case: Case) -> None:
    adapted = case.backbone.adapt(LISA, TEMPLATES)
    assert isinstance(adapted, TunedReader)
    assert isinstance(adapted.open(IMAGE), EncodedImage)


@torch.no_grad()
def test_a_new_adapter_says_what_the_model_says(either: Case) -> None:
    """Through transformers' own forward pass, with every part in the copy exchanged: the same bits."""
    adapted = either.backbone.adapt(ALL, TEMPLATES)
    question = "what is in the picture ?"
    answer, logits = either.bare.talk(IMAGE, question, 5)
    first = logits.shape[-1]
    ours = adapted.tuned.model(**either.backbone.chat_inputs(IMAGE, question)).logits
    assert ours.shape[-1] == first + len(ALL.tokens)
    if logits.dtype == torch.float32:
        assert torch.equal(ours[..., :first], logits)
        assert adapted.generate(IMAGE, question, 5) == answer
    else:  # copies compute in fp32
        assert error(ours[..., :first], logits) < 0.04  # measured: .033
    frozen = either.backbone.adapt(LISA, TEMPLATES)
    assert torch.equal(frozen.tuned.model(**either.backbone.chat_inputs(IMAGE, question)).logits[..., :first], logits)
    assert frozen.generate(IMAGE, question, 5) == answer


@torch.no_grad()
def test_a_new_adapter_is_read_as_the_model(either: Case) -> None:
    """Against the last hidden states and logits of the bare class, given the whole sequence at once."""
    adapted = either.backbone.adapt(LISA, AnswerTemplates(("[SEG]",), request="find {}", answers=("[SEG]",)))
    reading = adapted.read(adapted.open(IMAGE), QUERIES)
    cells = reading.given.shape[1]
    canvas = either.bare.canvas(IMAGE, either.backbone.image_size)
    for q, query in enumerate(QUERIES):
        ids = either.bare.ids(f"find {query}", cells)
        there = either.bare.model(
            **either.bare.kind.canvas(either.bare.model, either.bare.processor, canvas, ids), output_hidden_states=True
        )
        states, image = there.hidden_states[-1][0], ids[0] == either.bare.model.config.image_token_id
        image_states = states[image][raster(either.backbone)]
        assert error(reading.image[0, 0], image_states) < either.tolerance  # measured: 8.7e-7 and .022
        assert error(reading.segment[0, q, 0], states[-1]) < either.tolerance
        start = int(image.nonzero()[0])
        assert (reading.before is None) == (start == 0 or either.backbone.tiling.across > 1)
        if reading.before is not None:
            assert error(reading.before[0], states[start - 1]) < either.tolerance
        logits = there.logits[0, -1]
        assert error(reading.choice[0, q, : len(logits)], logits) < either.tolerance


@torch.no_grad()
def test_patches_become_the_image_tokens(either: Case) -> None:
    backbone = either.backbone
    adapted = backbone.adapt(LISA, TEMPLATES, refill="replicate")
    reading, vision = adapted.read(adapted.open(IMAGE), ["dog"]), backbone.mllm.encode(IMAGE)
    fine = reading.fine_grid[0] * reading.fine_grid[1]
    assert reading.patches.shape == (1, fine, adapted.patch_width)
    assert error(reading.given, vision.rows[:, backbone.tiling.places]) < either.tolerance  # measured: 0 and 0
    later = adapted.open(IMAGE).vision.later
    assert len(later) == len(vision.later)
    assert all(torch.equal(one, other) for one, other in zip(later, vision.later, strict=True))
    assert reading.refilled is not None
    for patch in (0, fine - 1):  # alone in the places of all
        whole = reading.patches[:, patch : patch + 1].repeat(1, 1, adapted.shuffle**2)
        assert error(reading.refilled[:, patch], backbone.mllm.family.project(whole)[:, 0]) < either.tolerance
    if adapted.shuffle == 1:
        assert error(reading.refilled, reading.given) < either.tolerance


@torch.no_grad()
def test_patches_of_many_images_equal_single_ones(case: Case) -> None:
    adapted = case.backbone.adapt(LISA, TEMPLATES)
    pixels = torch.stack([adapted.pixels(image) for image in IMAGES])
    both = adapted.model.vision.patches(pixels)
    for n, image in enumerate(IMAGES):
        alone = adapted.model.vision.patches(adapted.pixels(image)[None])
        assert error(both.rows[n], alone.rows[0]) < case.tolerance
        for one, other in zip(both.later, alone.later, strict=True):
            assert error(one[n], other[0]) < case.tolerance


# ------------------------------------------------------------------ the model is shared, and stays


def test_only_the_adapter_is_new(case: Case) -> None:
    for tuning in (LISA, ALL):
        adapted = case.backbone.adapt(tuning, TEMPLATES)
        theirs, ours = ({id(p): p for p in m.parameters()} for m in (case.backbone.module, adapted.tuned.model))
        trained = {id(p): p for p in adapted.adapter.parameters()}
        assert set(ours) - set(theirs) == set(trained)
        assert {p.data_ptr() for p in trained.values()}.isdisjoint(p.data_ptr() for p in theirs.values())
        models = case.backbone.module, adapted.tuned.model
        # the scale of Gemma's embedding, one number, is copied with it
        buffers = [{b.data_ptr() for b in model.buffers() if b.numel() > 1} for model in models]
        assert buffers[0] == buffers[1]
        assert {p.data_ptr() for p in ours.values()} >= {p.data_ptr() for k, p in theirs.items() if k in ours}
        if tuning is LISA:
            assert set(theirs) < set(ours)
        assert all(p.requires_grad and p.dtype == torch.float32 for p in trained.values())
    case.untouched()


def test_the_model_chats_and_is_read_as_before(case: Case) -> None:
    backbone, question = case.backbone, "what is this ?"
    answer, logits = case.bare.talk(IMAGE, question, 5)
    readout = backbone.read(backbone.open(IMAGE), QUERIES)

    def as_before() -> None:
        assert backbone.generate(IMAGE, question, 5) == answer
        with torch.no_grad():
            assert torch.equal(backbone.module(**backbone.chat_inputs(IMAGE, question)).logits, logits)
        again = backbone.read(backbone.open(IMAGE), QUERIES)
        assert torch.equal(again.question, readout.question)
        assert torch.equal(again.prefix, readout.prefix)
        case.untouched()

    adapted = backbone.adapt(ALL, TEMPLATES, "dual", refill="replicate")
    as_before()
    train(adapted)
    as_before()
    adapted.read(adapted.open(IMAGE), QUERIES)
    as_before()


# ------------------------------------------------------------------ training


@pytest.mark.parametrize(("tuning", "attention"), [(LISA, "causal"), (ALL, "dual")], ids=["some", "all"])
def test_gradients_reach_exactly_the_adapter(case: Case, tuning: Tuning, attention: Attention) -> None:
    adapted = case.backbone.adapt(tuning, TEMPLATES, attention)
    train(adapted, 1, 1.0)  # B is 0 at first, and A then has no gradient
    reading = adapted.teach(inputs_of(adapted, IMAGES, EXAMPLES))
    assert reading.text_loss is not None
    (reading.text_loss.sum() + reading.segment.square().sum()).backward()
    for name, parameter in adapted.adapter.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    trained = {id(p) for p in adapted.adapter.parameters()}
    assert not any(p.requires_grad for p in adapted.tuned.model.parameters() if id(p) not in trained)
    if tuning is LISA:
        assert not reading.given.requires_grad  # no graph through the vision side
        assert not reading.patches.requires_grad
    case.untouched()


@pytest.mark.parametrize(("tuning", "attention"), [(LISA, "causal"), (ALL, "dual")], ids=["some", "all"])
def test_recomputed_layers_give_the_same_gradients(case: Case, tuning: Tuning, attention: Attention) -> None:
    """Bit for bit, with the same dropout, and with fewer bytes kept for the backward pass."""
    adapted = case.backbone.adapt(dataclasses.replace(tuning, dropout=0.2), TEMPLATES, attention)
    train(adapted, 1, 1.0)  # B is 0 at first, and A then has no gradient
    adapted.adapter.train()
    plain, saved = gradients(adapted)
    adapted.recompute(True)
    again, saved_less = gradients(adapted)
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        assert torch.equal(gradient, again[name]), name
    assert saved_less < 0.7 * saved
    adapted.recompute(False)
    assert gradients(adapted)[1] == pytest.approx(saved, rel=0.05)  # some memory is used twice


def gradients(adapted: TunedBackbone) -> tuple[dict[str, Tensor], int]:
    """Of one pass by the names of what is trained, and the bytes of the tensors that it kept for the backward pass, but
    for the weights."""
    torch.manual_seed(5)
    weights = {p.untyped_storage().data_ptr() for p in adapted.tuned.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        reading = adapted.teach(inputs_of(adapted, IMAGES, EXAMPLES))
    assert reading.text_loss is not None
    (reading.text_loss.sum() + reading.segment.square().sum() + reading.image.mean()).backward()
    found = {name: p.grad.clone() for name, p in adapted.adapter.named_parameters() if p.grad is not None}
    adapted.adapter.zero_grad()
    return found, sum(kept.values())


def test_what_was_trained_comes_back(case: Case) -> None:
    adapted = case.backbone.adapt(ALL, TEMPLATES, "dual", refill="replicate")
    fresh = adapted.read(adapted.open(IMAGE), QUERIES)
    train(adapted)
    state = {name: value.clone() for name, value in adapted.adapter.state_dict().items()}
    trained = adapted.read(adapted.open(IMAGE), QUERIES)
    for name in ("patches", "given", "refilled", "image", "segment", "choice"):
        assert not torch.equal(getattr(fresh, name), getattr(trained, name)), name
    other = case.backbone.adapt(ALL, TEMPLATES, "dual", refill="replicate")
    before = {id(p) for p in other.adapter.parameters()}
    other.adapter.load_state_dict(state)
    assert {id(p) for p in other.adapter.parameters()} == before
    same(other.read(other.open(IMAGE), QUERIES), trained)
    assert set(state) == {name for name, _ in adapted.adapter.named_parameters()}


def test_text_loss_is_that_of_transformers(case: Case) -> None:
    """transformers' own forward pass of the copy over the whole sequence, with the answer's tokens as labels."""
    adapted = case.backbone.adapt(ALL, TEMPLATES)
    train(adapted, 1, 1.0)
    values = adapted.teach(inputs_of(adapted, IMAGES[:1], EXAMPLES)).text_loss
    assert values is not None
    model = Bare(adapted.tuned.model, case.bare.processor, case.bare.kind)
    canvas = case.bare.canvas(IMAGE, case.backbone.image_size)
    for q, ask in enumerate(EXAMPLES):
        words = adapted.words(*ask)
        question = ask[0] if ask[1] else f"find {ask[0]}"
        start = case.bare.ids(question, case.backbone.grid[0] * case.backbone.grid[1])
        n = sum(words.learnt)
        answer = torch.tensor([words.ids[-n:]])
        ids = torch.cat([start, answer], 1)
        with torch.no_grad():
            logits = model.model(**case.bare.kind.canvas(model.model, model.processor, canvas, ids)).logits
        expected = torch.nn.functional.cross_entropy(logits[0, -n - 1 : -1], answer[0])
        assert error(values[0, q], expected) < 1e-5  # measured: 3.1e-7


def test_many_images_and_questions_equal_single_ones(either: Case) -> None:
    attention: Attention = "dual" if either.bare.model.dtype == torch.float32 else "causal"
    adapted = either.backbone.adapt(LISA, TEMPLATES, attention, refill="replicate")
    both = adapted.teach(inputs_of(adapted, IMAGES, EXAMPLES))
    assert both.text_loss is not None
    for n, image in enumerate(IMAGES):
        for q, ask in enumerate(EXAMPLES):
            alone = adapted.teach(inputs_of(adapted, [image], [ask]))
            assert alone.text_loss is not None
            pairs = [
                (both.image[n, q if attention == "dual" else 0], alone.image[0, 0]),
                (both.given[n], alone.given[0]),
                (both.patches[n], alone.patches[0]),
                (both.text_loss[n, q], alone.text_loss[0, 0]),
            ]
            if ask[1] is None:  # else places are void
                pairs += [(both.segment[n, q], alone.segment[0, 0]), (both.choice[n, q], alone.choice[0, 0])]
            for values, expected in pairs:
                assert error(values, expected) < either.tolerance  # measured: 3.9e-7 and .014


@pytest.mark.parametrize("attention", ["causal", "dual"])
def test_reading_equals_teaching(case: Case, attention: Attention) -> None:
    """An answer's end changes nothing before it."""
    adapted = case.backbone.adapt(LISA, TEMPLATES, attention, refill="replicate")
    train(adapted)
    trained = adapted.teach(inputs_of(adapted, [IMAGE], [(query, None, True) for query in QUERIES]))
    read = adapted.read(adapted.open(IMAGE), QUERIES)
    assert read.image.shape[1] == (1 if attention == "causal" else len(QUERIES))
    assert read.text_loss is None
    assert trained.segment.requires_grad
    assert not read.segment.requires_grad
    names = ["patches", "given", "refilled", "image", "segment", "choice"]
    if case.backbone.tiling.across == 1:
        names.append("before")
    for name in names:
        assert error(getattr(read, name), getattr(trained, name)) < case.tolerance, name  # measured: 6.0e-7


# ------------------------------------------------------------------ which token attends to which


def test_kinds_of_attention_agree(case: Case, family: Path) -> None:
    other = make(family, {**EXACT, "attn_implementation": "sdpa"})
    one, two = (c.backbone.adapt(LISA, TEMPLATES, "dual") for c in (case, other))
    train(one, 1, 1.0)
    two.adapter.load_state_dict(one.adapter.state_dict())
    ours, theirs = (a.teach(inputs_of(a, IMAGES, EXAMPLES)) for a in (one, two))
    for name in ("image", "segment", "choice", "text_loss"):
        assert error(getattr(ours, name), getattr(theirs, name)) < 1e-5, name  # measured: 1.0e-6


@torch.no_grad()
def test_questions_answered_in_words_are_read_causally(case: Case) -> None:
    spoken = [("how many ?", "two dogs", True)]
    readings = []
    for attention in ATTENTIONS:
        adapted = case.backbone.adapt(LISA, TEMPLATES, attention)
        readings.append(adapted.teach(inputs_of(adapted, [IMAGE], spoken)))
    for reading in readings[1:]:
        assert error(reading.image, readings[0].image) < case.tolerance
        assert reading.text_loss is not None
        assert error(reading.text_loss, readings[0].text_loss) < case.tolerance


@torch.no_grad()
def test_images_see_each_other_and_the_token(case: Case) -> None:
    """It changes with the segmentation token, and with all that this one sees, where it sees it; else with neither."""
    for attention in ATTENTIONS:
        adapted = case.backbone.adapt(LISA, TEMPLATES, attention)
        inputs = inputs_of(adapted, [IMAGE], [("dog", None, True)])
        place = int(inputs.places[0, 0, 0])
        image = adapted.teach(inputs).image
        for at, changes in ((place, attention == "dual"), (place - 1, attention == "dual"), (place + 1, False)):
            words = inputs.words.clone()
            words[..., at] = words[..., at] - 3 if words[..., at] > 10 else 12
            other = adapted.teach(dataclasses.replace(inputs, words=words)).image
            assert torch.equal(image, other) != changes
    case.untouched()


@torch.no_grad()
def test_the_first_image_token_sees_the_last(case: Case) -> None:
    for attention in ATTENTIONS:
        adapted = case.backbone.adapt(LISA, TEMPLATES, attention)
        opened = adapted.open(IMAGE)
        rows = opened.vision.rows.clone()
        rows[:, -1] += 1
        vision = dataclasses.replace(opened.vision, rows=rows)
        prefix = adapted.model.language.prefix(vision) if opened.prefix else None
        moved = dataclasses.replace(opened, vision=vision, prefix=prefix)
        one, other = (adapted.read(image, ["dog"]).image for image in (opened, moved))
        mutual = case.backbone.mllm.family.mutual
        assert torch.equal(one[:, :, 0], other[:, :, 0]) == (attention == "causal" and not mutual)
        assert not torch.equal(one[:, :, -1], other[:, :, -1])


@pytest.mark.parametrize("kind", [kind for kind in TILED if not kind.startswith("internvl")])
def test_tiles_with_newlines_are_not_tuned(kind: str, tmp_path: Path) -> None:
    TILED[kind].save(tmp_path)
    backbone = load_backbone(tmp_path, **TILED[kind].options)
    with pytest.raises(ValueError, match=r"in tiles is read by LENS only.*leave image_size out"):
        backbone.adapt(LISA, TEMPLATES)
    assert load_backbone(tmp_path).adapt(LISA, TEMPLATES).grid == (backbone.grid[0] // 2,) * 2
