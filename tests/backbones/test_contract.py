"""What every backbone promises, on every family of the table, in every precision and attention.

Errors are relative to the largest value compared. Measured on one thread of a CPU with AVX-512; other row counts make
BLAS add in another order, which is all that differs in float32.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoProcessor, LlavaForConditionalGeneration

from seglens.backbones import FAMILIES, Backbone, OpenImage, QuestionError, load_backbone
from seglens.backbones.llava import LlavaBackbone
from seglens.decoders import MaskDecoder
from seglens.geometry import Frame
from seglens.methods.lens import Lens, LensConfig
from seglens.types import Readout, Truth

QUESTIONS = ("the red cup", "what keeps you dry when it rains ?", "dog")
KINDS = [(dtype, attention) for dtype in (torch.float32, torch.bfloat16) for attention in ("eager", "sdpa")]
# measured: 1.1e-6 and .016 (two units of bfloat16's last place)
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 0.03}


def error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return ((found.float() - expected.float()).abs().max() / expected.float().abs().max()).item()


def digest(module: nn.Module) -> str:
    state = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        state.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


@dataclass
class Case:
    """A loaded backbone, what it read, and the bare model beside it."""

    backbone: Backbone
    bare: nn.Module
    opened: OpenImage
    readout: Readout
    pixels: Tensor  # what the vision tower was given
    before: str

    def ids(self, question: str) -> Tensor:
        """Of the whole conversation, by the model's own processor."""
        assert isinstance(self.backbone, LlavaBackbone)
        return self.backbone.chat_inputs(np.zeros((8, 8, 3), np.uint8), question)["input_ids"]

    @torch.no_grad()
    def whole(self, ids: Tensor, attentions: bool = False) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...] | None]:
        out = self.bare(
            input_ids=ids, pixel_values=self.pixels, output_hidden_states=True, output_attentions=attentions
        )
        return out.hidden_states, out.attentions


def pixels_of(backbone: Backbone, image: np.ndarray) -> tuple[OpenImage, Tensor]:
    seen: list[Tensor] = []
    assert isinstance(backbone.module, LlavaForConditionalGeneration)
    hook = backbone.module.model.vision_tower.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    opened = backbone.open(image)
    hook.remove()
    return opened, seen[0]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{str(kind[0])[6:]}-{kind[1]}")
def case(request: pytest.FixtureRequest, family: Path) -> Case:
    dtype, attention = request.param
    backbone = load_backbone(family, dtype=dtype, attn_implementation=attention)
    bare = LlavaForConditionalGeneration.from_pretrained(family, dtype=dtype, attn_implementation=attention).eval()
    before = digest(backbone.module)
    image = np.random.default_rng(1).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    opened, pixels = pixels_of(backbone, image)
    return Case(backbone, bare, opened, backbone.read(opened, QUESTIONS), pixels, before)


def test_shapes(case: Case) -> None:
    backbone, readout = case.backbone, case.readout
    rows, columns = backbone.grid
    assert rows * columns == len(readout.image_tokens)
    assert readout.grid == backbone.grid
    assert readout.prefix.shape == (1, readout.image_tokens[-1] + 1, backbone.width)  # the image ends the prefix
    assert readout.question.shape[:2] == (1, len(QUESTIONS))
    for q, question in enumerate(QUESTIONS):
        ids = case.ids(question)
        image = (ids[0] == case.bare.config.image_token_id).nonzero()[:, 0]
        assert image.tolist() == readout.image_tokens.tolist()
        length = int(readout.question_mask[0, q].sum())
        assert length == ids.shape[1] - readout.prefix.shape[1]
        assert readout.question_mask[0, q, :length].all()
        assert readout.question_positions[0, q, :length].tolist() == list(range(image[-1] + 1, ids.shape[1]))


def test_reading_equals_the_whole_model(case: Case) -> None:
    dtype, start = case.readout.prefix.dtype, case.readout.prefix.shape[1]
    assert dtype == case.bare.dtype
    for q, question in enumerate(QUESTIONS):
        there = case.whole(case.ids(question))[0][case.backbone.layer][0]
        assert error(case.readout.prefix[0], there[:start]) < TOLERANCE[dtype]
        assert error(case.readout.question[0, q, : len(there) - start], there[start:]) < TOLERANCE[dtype]


def test_early_exit_is_exact(case: Case) -> None:
    """With the same rows in the same order nothing at all differs: what is above the layer never mattered."""
    ids = case.ids(QUESTIONS[0])[:, : case.readout.prefix.shape[1]]
    there = case.whole(ids)[0][case.backbone.layer]
    eager = case.bare.config.text_config._attn_implementation == "eager"
    assert error(case.readout.prefix, there) <= (0 if eager else TOLERANCE[there.dtype])


def test_prefix_does_not_depend_on_the_question(case: Case) -> None:
    start = case.readout.prefix.shape[1]
    first, second = (case.ids(q)[:, : start + 4] for q in QUESTIONS[:2])
    assert not torch.equal(first, second)
    states = [case.whole(ids)[0] for ids in (first, second)]
    for one, other in zip(*states, strict=True):
        assert torch.equal(one[:, :start], other[:, :start])
    assert torch.equal(case.backbone.read(case.opened, ["umbrella"]).prefix, case.readout.prefix)


def test_many_questions_equal_single_ones(case: Case) -> None:
    for q, question in enumerate(QUESTIONS):
        alone = case.backbone.read(case.opened, [question])
        length = alone.question.shape[2]
        assert alone.question_mask.all()
        assert error(case.readout.question[:, q : q + 1, :length], alone.question) < TOLERANCE[alone.prefix.dtype]


def test_reading_twice_gives_the_same(case: Case) -> None:
    again = case.backbone.read(case.opened, QUESTIONS)
    reopened = case.backbone.open(np.random.default_rng(1).integers(0, 256, (50, 90, 3), dtype=np.uint8))
    assert torch.equal(again.question, case.readout.question)
    assert torch.equal(reopened.prefix, case.readout.prefix)


def test_nothing_is_trained_or_changed(case: Case) -> None:
    assert not any(p.requires_grad for p in case.backbone.module.parameters())
    assert not any(m.training for m in case.backbone.module.modules())
    assert not case.readout.question.requires_grad
    assert digest(case.backbone.module) == case.before


def test_layers_above_never_run(case: Case) -> None:
    assert isinstance(case.backbone.module, LlavaForConditionalGeneration)
    layers = case.backbone.module.model.language_model.layers
    runs = [0] * len(layers)

    def count(n: int) -> None:
        runs[n] += 1

    hooks = [layer.register_forward_hook(lambda *_, n=n: count(n)) for n, layer in enumerate(layers)]
    case.backbone.read(case.backbone.open(np.zeros((8, 8, 3), np.uint8)), QUESTIONS)
    for hook in hooks:
        hook.remove()
    k = case.backbone.layer
    assert runs == [2] * k + [0] * (len(layers) - k)  # once for the image, once for all questions


@torch.no_grad()
def test_clones_continue_the_model(case: Case) -> None:
    """In float32, as the head runs them, on whatever precision the backbone reads in."""
    readout, start = case.readout, case.readout.prefix.shape[1]
    dtype, eager = readout.prefix.dtype, case.bare.config.text_config._attn_implementation == "eager"
    prefix, question = readout.prefix.float(), readout.question.float()
    given = (readout.question_positions, readout.question_mask)
    for depth, clone in enumerate(case.backbone.clone_layers(2), case.backbone.layer + 1):
        prefix, memory = clone.prefix(prefix, readout.prefix_positions)
        rows = clone.rows()
        unwatched = clone.questions(question, *given, memory)
        question = clone.questions(question, *given, memory, rows)
        assert error(unwatched, question) < TOLERANCE[torch.float32]  # measured: 0
        assert rows.probabilities is not None
        attention = rows.probabilities.unflatten(2, (len(QUESTIONS), -1))  # b heads q t columns
        for q, text in enumerate(QUESTIONS):
            states, attentions = case.whole(case.ids(text), attentions=eager)
            there = states[depth][0]
            n = len(there) - start
            assert error(prefix[0], there[:start]) < TOLERANCE[dtype]
            assert error(question[0, q, :n], there[start:]) < TOLERANCE[dtype]
            if attentions is not None:
                expected = attentions[depth - 1][0, :, start:, :start]
                assert error(attention[0, :, q, :n, :start], expected) < TOLERANCE[dtype]


def test_clones_are_independent(case: Case) -> None:
    layer, config = case.backbone.layer, case.backbone.module.config.text_config
    attention = config._attn_implementation
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
    assert isinstance(case.backbone.module, LlavaForConditionalGeneration)
    original = case.backbone.module.model.language_model.layers[layer].self_attn
    assert original.config._attn_implementation == config._attn_implementation == attention
    assert torch.equal(case.backbone.read(case.opened, QUESTIONS).question, case.readout.question)


def test_segmentation_only(case: Case, family: Path) -> None:
    whole = case.backbone
    kind = {"dtype": case.bare.dtype, "attn_implementation": case.bare.config.text_config._attn_implementation}
    short = load_backbone(family, segmentation_only=True, **kind)
    assert (short.layer, short.depth) == (whole.layer, whole.depth)
    size, short_size = (sum(p.numel() for p in b.module.parameters()) for b in (whole, short))
    layer = sum(p.numel() for p in whole.clone_layers(1)[0].parameters())
    assert short_size == size - (whole.depth - whole.layer - 2) * layer
    image = np.random.default_rng(1).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    readout = short.read(short.open(image), QUESTIONS)
    assert torch.equal(readout.prefix, case.readout.prefix)
    assert torch.equal(readout.question, case.readout.question)
    for one, other in zip(whole.clone_layers(2), short.clone_layers(2), strict=True):
        assert digest(one) == digest(other)
    with pytest.raises(ValueError, match=r"segmentation_only=True.*load it again"):
        short.generate(image, "what is this ?")


# ------------------------------------------------------------------ chat


@torch.no_grad()
def bare_talk(folder: Path, image: np.ndarray, question: str) -> tuple[str, Tensor]:
    """A conversation with the model as its makers mean it, without a line of ours."""
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    text = processor.apply_chat_template(conversation, add_generation_prompt=True)
    inputs = processor(images=image, text=text, return_tensors="pt")
    said = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    answer = processor.decode(said[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    return answer, model(**inputs).logits


def test_chat_is_untouched(family: Path, decoder: MaskDecoder, picture: np.ndarray) -> None:
    question = "what is in the picture ?"
    answer, logits = bare_talk(family, picture, question)
    backbone = load_backbone(family)
    assert isinstance(backbone, LlavaBackbone)

    def talk() -> None:
        assert backbone.generate(picture, question, 12) == answer
        with torch.no_grad():
            assert torch.equal(backbone.module(**backbone.chat_inputs(picture, question)).logits, logits)

    before = digest(backbone.module), digest(decoder.module)
    talk()
    torch.manual_seed(0)
    config = LensConfig(keypoints=4, encoder_width=32)
    lens = Lens(config, backbone.clone_layers(2), backbone.width, backbone.heads, backbone.feed_forward, decoder)
    optimizer = torch.optim.AdamW(lens.parameters(), lr=1e-2)
    lens.train()
    assert not any(m.training for m in (*backbone.module.modules(), *decoder.module.modules()))
    readout = backbone.read(backbone.open(picture), QUESTIONS)
    embedding = decoder.encode(picture, Frame(*picture.shape[:2]))
    for _ in range(3):
        output = lens(readout, embedding)
        masks, cells = torch.rand_like(output.mask_logits), torch.rand(1, len(QUESTIONS), *backbone.grid)
        sum(lens.losses(output, Truth(masks, cells, *torch.ones(2, 1, len(QUESTIONS), dtype=torch.bool))).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    talk()
    assert (digest(backbone.module), digest(decoder.module)) == before


# ------------------------------------------------------------------ geometry


@pytest.mark.parametrize("size", [(60, 120), (120, 60), (84, 84), (31, 170)])
def test_a_thin_object_lands_in_its_cell(backbone: Backbone, size: tuple[int, int]) -> None:
    """A bright line one pixel wide moves the pixels of the patches that its Frame says, and of no other."""
    frame, (rows, columns) = Frame(*size), backbone.grid
    for x in (0, size[1] // 3, size[1] - 1):
        dark, bright = np.zeros((*size, 3), np.uint8), np.zeros((*size, 3), np.uint8)
        y = size[0] // 2
        bright[y, x] = 255
        change = (pixels_of(backbone, bright)[1] - pixels_of(backbone, dark)[1]).abs().sum((0, 1))
        patch = len(change) // rows
        energy = change.unflatten(1, (columns, patch)).unflatten(0, (rows, patch)).sum((1, 3))
        point = frame.to_canvas(torch.tensor([x + 0.5, y + 0.5]))
        column, row = (point * torch.tensor([columns, rows]) - 0.5).round().long().tolist()
        assert int(energy.argmax()) == row * columns + column
        # an antialiased resize spreads a pixel by at most one of its own: nothing lands further than the next cell
        far = torch.ones(rows, columns, dtype=torch.bool)
        far[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = False
        assert energy[far].sum() == 0


def test_the_cell_of_an_object_is_its_image_token(backbone: Backbone) -> None:
    """Image tokens are in raster order: the embedding that changes most is the one of the object's cell."""
    rows, columns = backbone.grid
    size = (48, 96)
    frame = Frame(*size)
    assert isinstance(backbone.module, LlavaForConditionalGeneration)
    seen: list[Tensor] = []
    vision = backbone.module.model.vision_tower.embeddings
    hook = vision.register_forward_hook(lambda _, __, out: seen.append(out))
    dark = np.zeros((*size, 3), np.uint8)
    backbone.open(dark)
    for x, y in [(5, 3), (90, 44), (40, 20), (70, 5)]:
        bright = dark.copy()
        bright[:, x] = 255  # one column of pixels, one pixel wide
        bright[:y] = bright[y + 6 :] = 0
        backbone.open(bright)
        change = (seen[-1] - seen[0]).abs().sum((0, 2))[1:]  # without the class token
        centre = frame.to_canvas(torch.tensor([x + 0.5, min(y + 3.0, size[0])]))
        column, row = (centre * torch.tensor([columns, rows]) - 0.5).round().long().tolist()
        assert int(change.argmax()) % columns == column
        assert abs(int(change.argmax()) // columns - row) <= 1
    hook.remove()


# ------------------------------------------------------------------ questions


@pytest.fixture(scope="module")
def opened(backbone: Backbone) -> OpenImage:
    return backbone.open(np.full((20, 30, 3), 128, np.uint8))


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("", "empty"), ("  \n\t\u3000", "empty"), ("word " * 2000, "at most 512"), ("a <image> b", "<image>"),
        ("<image>", "<image>"), ("half a \ud83d pair", "Unicode"),
    ],
)  # fmt: skip
def test_questions_that_cannot_be_read(backbone: Backbone, opened: OpenImage, question: str, said: str) -> None:
    with pytest.raises(QuestionError, match=said) as caught:
        backbone.read(opened, ["the dog", question])
    assert "\n" not in str(caught.value)
    with pytest.raises(QuestionError):
        backbone.generate(np.zeros((8, 8, 3), np.uint8), question)


def test_no_question(backbone: Backbone, opened: OpenImage) -> None:
    with pytest.raises(QuestionError, match="at least one"):
        backbone.read(opened, [])


@pytest.mark.parametrize(
    "question", ["🦊👩‍👩‍👧", "שלום עולם", "nul \0 here", "</s> <s> <pad>", "{{ 1 }} {% if %}", "x" * 10_000]
)
def test_strange_questions_are_read(backbone: Backbone, opened: OpenImage, question: str) -> None:
    assert torch.isfinite(backbone.read(opened, [question, "the dog"]).question).all()


@settings(deadline=None, database=None, max_examples=60)
@given(st.text(st.characters(), max_size=80))
def test_any_text_is_read_or_refused(backbone: Backbone, opened: OpenImage, question: str) -> None:
    try:
        readout = backbone.read(opened, [question])
    except QuestionError:
        return
    assert torch.isfinite(readout.question).all()


# ------------------------------------------------------------------ loading


@pytest.fixture
def damaged(llava: Path, tmp_path: Path) -> Path:
    return shutil.copytree(llava, tmp_path / "model")


def rewrite(folder: Path, change: str) -> str:
    """Damage the weights, and return what the error must name."""
    file = folder / "model.safetensors"
    state = load_file(file)
    key = next(k for k in state if k.endswith("layers.1.mlp.up_proj.weight"))
    if change == "missing":
        del state[key]
    elif change == "extra":
        key = key.replace("layers.1.", "layers.1.bogus.")
        state[key] = torch.zeros(3)
    elif change == "beyond":  # a layer that the config does not have
        key = key.replace("layers.1.", "layers.8.")
        state[key] = torch.zeros(3)
    elif change == "reshaped":
        state[key] = state[key].T.contiguous()
    save_file(state, file, metadata={"format": "pt"})
    return key.removeprefix("language_model.")


@pytest.mark.parametrize("segmentation_only", [False, True])
@pytest.mark.parametrize("change", ["missing", "extra", "beyond", "reshaped"])
def test_weights_that_do_not_fit_are_refused(damaged: Path, change: str, segmentation_only: bool) -> None:
    named = rewrite(damaged, change)
    with pytest.raises(ValueError, match=f"do not fit their config.*{named}") as caught:
        load_backbone(damaged, segmentation_only=segmentation_only)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_cut_weights_are_refused(damaged: Path, kept: float) -> None:
    file = damaged / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ValueError, match="cut short or damaged") as caught:
        load_backbone(damaged)
    assert "\n" not in str(caught.value)
    assert str(damaged) in str(caught.value)


def test_pickles_are_refused(damaged: Path) -> None:
    state = load_file(damaged / "model.safetensors")
    (damaged / "model.safetensors").unlink()
    torch.save(state, damaged / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"model\.safetensors") as caught:
        load_backbone(damaged)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layer", [0, -1, 7, 8, 100])
def test_layers_out_of_reach(llava: Path, layer: int) -> None:
    with pytest.raises(ValueError, match="choose 1 to 6"):
        load_backbone(llava, layer=layer)


def test_quantised_weights_are_refused(damaged: Path) -> None:
    def refused(**loading: object) -> None:
        with pytest.raises(ValueError, match=r"load it without quantisation \(support is planned\)") as caught:
            load_backbone(damaged, **loading)
        assert "\n" not in str(caught.value)

    packed = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    refused(quantization_config=packed)
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps({**config, "quantization_config": packed}))
    refused()


def test_unknown_family(damaged: Path) -> None:
    config = (damaged / "config.json").read_text()
    (damaged / "config.json").write_text(config.replace('"llava"', '"llava_next"'))
    with pytest.raises(ValueError, match=f"llava_next.*supported families: {', '.join(FAMILIES)}"):
        load_backbone(damaged)
