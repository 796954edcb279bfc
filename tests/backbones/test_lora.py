"""An adapter in use: it learns, is saved, chats, keeps out of the way, and refuses what it cannot do."""

from __future__ import annotations

import dataclasses
import sys
import threading
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from bare import error
from test_devices import spread
from test_quantised import eight_bits, four_bits
from test_tuned_reader import ALL, ATTENTIONS, EXAMPLES, IMAGE, IMAGES, LISA, TEMPLATES, inputs_of, train
from torch import Tensor

from seglens.backbones import Backbone, load_backbone
from seglens.backbones.layers import sequence_mask
from seglens.backbones.tuned_reader import TunedBackbone
from seglens.core.tuning_types import AnswerTemplates, Attention, Tuning
from tiny import KINDS

QUESTION = "what is in the picture ?"
DROPPED = dataclasses.replace(LISA, dropout=0.5)


@pytest.fixture(scope="module")
def internvl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds") / "internvl"
    KINDS["internvl"].save(folder)
    return folder


# ------------------------------------------------------------------ which token attends to which


def test_the_truth_table_of_sight() -> None:
    """A prefix of a word and two image tokens; the question, the token, what follows; and padding."""
    mask = torch.tensor([[[True, True, True, False]]])
    places, spoken = torch.tensor([[[1]]]), torch.tensor([[False]])

    def table(attention: Attention, spoken: Tensor) -> list[str]:
        visible = sequence_mask(attention, 3, 2, mask, places, spoken)
        assert visible.shape == (1, 7, 7)
        return ["".join(".x"[cell] for cell in row) for row in visible[0].tolist()]

    causal = ["x......", "xx.....", "xxx....", "xxxx...", "xxxxx..", "xxxxxx.", "xxxxxxx"]
    images = ["x......", "xxx....", "xxx....", "xxxx...", "xxxxx..", "xxxxxx.", "xxxxxxx"]
    dual = ["x......", "xxx.x..", "xxx.x..", "xxxx...", "xxxxx..", "xxxxxx.", "xxxxxxx"]
    text = ["x......", "xxxxxx.", "xxxxxx.", "xxxx...", "xxxxx..", "xxxxxx.", "xxxxxxx"]
    full = ["xxxxxx."] * 6 + ["xxxxxxx"]
    for attention, expected in zip(get_args(Attention), (causal, images, dual, text, full), strict=True):
        assert table(attention, spoken) == expected
        assert table(attention, ~spoken) == causal


def test_questions_have_tables_of_their_own() -> None:
    mask = torch.tensor([[[True, True], [True, False]], [[True, True], [False, False]]])
    places = torch.tensor([[[0, 1], [0, 0]], [[1, 1], [0, 0]]])
    spoken = torch.tensor([[False, False], [False, True]])
    visible = sequence_mask("dual", 1, 1, mask, places, spoken)
    rows = [["".join(".x"[cell] for cell in row) for row in question] for question in visible.tolist()]
    assert rows == [
        ["xxx", "xx.", "xxx"],
        ["xx.", "xx.", "xxx"[:2] + "x"],
        ["x.x", "xx.", "xxx"],
        ["x..", "xx."[:1] + "x.", "x.x"],
    ]


@pytest.mark.parametrize("kind", ["llava-1.5", "internvl"])
@torch.no_grad()
def test_sight_is_that_of_transformers(kind: str, tmp_path: Path) -> None:
    """transformers' own forward pass of the copy takes such a mask, too."""
    KINDS[kind].save(tmp_path)
    backbone = load_backbone(tmp_path, attn_implementation="eager")
    for attention in ATTENTIONS:
        adapted = backbone.adapt(LISA, TEMPLATES, attention)
        with torch.enable_grad():
            train(adapted)
        inputs = inputs_of(adapted, [IMAGE], [("the red cup", None, True)])
        before, cells = backbone.prompts.before(), backbone.grid[0] * backbone.grid[1]
        image = [backbone.module.config.image_token_id] * cells
        ids = torch.tensor([[*before, *image, *inputs.words[0, 0].tolist()]])
        start = len(before) + cells
        visible = sequence_mask(attention, start, cells, inputs.mask, inputs.places, inputs.spoken)
        added = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)[:, None]
        model: Any = adapted.tuned.model
        there = model(input_ids=ids, pixel_values=inputs.pixels, attention_mask=added, output_hidden_states=True)
        reading = adapted.teach(inputs)
        states, place = there.hidden_states[-1][0], start + int(inputs.places[0, 0, 0])
        assert error(reading.image[0, 0], states[start - cells : start]) < 5e-6  # measured: 5.0e-7
        assert error(reading.segment[0, 0, 0], states[place - 1]) < 5e-6
        assert error(reading.choice[0, 0], there.logits[0, place - 1]) < 5e-6


# ------------------------------------------------------------------ learning


def test_it_learns_what_to_say(backbone: Backbone) -> None:
    """To answer one question and to refuse the other, and to generate both by itself."""
    torch.manual_seed(0)
    image = np.random.default_rng(2).integers(0, 256, (84, 84, 3), dtype=np.uint8)  # a chat sees it as it is
    adapted = backbone.adapt(ALL, AnswerTemplates(("[SEG]",), "find {}", ("the {} : [SEG].",), "the {} : [REJ]."))
    optimizer = torch.optim.AdamW(adapted.adapter.parameters(), 0.005)
    inputs, losses = inputs_of(adapted, [image], [("cup", None, True), ("lamp", None, False)]), []
    for _ in range(50):
        loss = adapted.teach(inputs).text_loss
        assert loss is not None
        loss.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.mean().item())
    assert losses[-1] < 0.03 * losses[0]  # measured: .0032
    answers = [adapted.generate(image, f"find {thing}", 8) for thing in ("cup", "lamp")]
    assert answers == ["the cup :[SEG].", "the lamp :[REJ]."]
    first = backbone.module.get_output_embeddings().weight.shape[0]  # new tokens come after all words
    choice = adapted.read(adapted.open(image), ["cup", "lamp"]).choice.argmax(-1)
    assert choice.tolist() == [[first, first + 1]]


def test_dropout_follows_the_method(backbone: Backbone) -> None:
    adapted = backbone.adapt(DROPPED, TEMPLATES)
    train(adapted)
    method = torch.nn.ModuleDict({"adapter": adapted.adapter})
    inputs = inputs_of(adapted, [IMAGE], EXAMPLES[:1])
    for training in (False, True, False):
        method.train(training)
        one, other = (adapted.teach(inputs).segment for _ in range(2))
        assert torch.equal(one, other) != training
    assert not any(m.training for m in backbone.module.modules())


def test_mixed_precision(internvl: Path) -> None:
    """As training runs: parameters in fp32, products in bfloat16, over a model of either type."""
    for dtype in (torch.float32, torch.bfloat16):
        backbone = load_backbone(internvl, dtype=dtype, attn_implementation="sdpa")
        adapted = backbone.adapt(ALL, TEMPLATES, "dual", refill="replicate")
        inputs = inputs_of(adapted, IMAGES, EXAMPLES)
        expected = adapted.teach(inputs)
        with torch.autocast("cpu", torch.bfloat16):
            reading = adapted.teach(inputs)
        for name in ("image", "segment", "choice", "refilled", "text_loss"):
            value, there = getattr(reading, name), getattr(expected, name)
            assert error(value.detach(), there.detach()) < 0.05, name  # measured: .017
        assert reading.text_loss is not None
        reading.text_loss.sum().backward()
        assert {p.dtype for p in adapted.adapter.parameters()} == {torch.float32}
        assert all(p.grad is None or p.grad.isfinite().all() for p in adapted.adapter.parameters())


@pytest.mark.parametrize("attention", ["causal", "dual"])
def test_the_last_norm_is_trained_in_a_copy(internvl: Path, attention: Attention) -> None:
    """Reading and generation go through the copy; the model of the chat keeps its own norm."""
    backbone = load_backbone(internvl, attn_implementation="eager")
    own = backbone.module.get_decoder().norm.weight
    before = own.clone()
    tuned = backbone.adapt(dataclasses.replace(LISA, final_norm=True), TEMPLATES, attention)
    plain = backbone.adapt(LISA, TEMPLATES, attention)
    (added,) = {*tuned.adapter.state_dict()} - {*plain.adapter.state_dict()}
    assert added == "norm.weight"
    inputs = inputs_of(tuned, IMAGES, EXAMPLES)
    for name in ("image", "segment", "choice", "text_loss"):
        assert torch.equal(getattr(tuned.teach(inputs), name), getattr(plain.teach(inputs), name)), name
    tuned.teach(inputs).text_loss.sum().backward()  # type: ignore[union-attr]
    norm = tuned.adapter.get_parameter("norm.weight")
    assert norm.grad is not None
    assert norm.grad.abs().max() > 0
    states = plain.teach(inputs).segment
    norm.data *= 2
    assert error(tuned.teach(inputs).segment, 2 * states) < 1e-5
    assert torch.equal(own, before)
    assert own is not norm
    assert own.grad is None


def test_it_moves_with_its_parameters_shared(backbone: Backbone) -> None:
    adapted = backbone.adapt(ALL, TEMPLATES)
    before = {name: id(p) for name, p in adapted.adapter.named_parameters()}
    adapted.adapter.to("cpu").to(torch.float64).to(torch.float32)
    assert {name: id(p) for name, p in adapted.adapter.named_parameters()} == before


def test_names_are_readable(backbone: Backbone, internvl: Path) -> None:
    names = set(backbone.adapt(LISA, TEMPLATES).adapter.state_dict())
    updates = {
        f"language.{n}.self_attn.{part}.{side}" for n in range(8) for part in ("q_proj", "v_proj") for side in "AB"
    }
    assert names == updates | {"words.new_input", "words.new_output"}
    names = set(load_backbone(internvl).adapt(ALL, TEMPLATES).adapter.state_dict())
    assert {"projector.0.linear_1.weight", "words.input", "words.output", "vision.1.mlp.fc2.B"} < names
    bare = backbone.adapt(Tuning(("[SEG]",), rank=0), AnswerTemplates(("[SEG]",))).adapter
    assert set(bare.state_dict()) == {"words.new_input", "words.new_output"}


def test_tied_words_stay_tied(tmp_path: Path) -> None:
    KINDS["llava-qwen"].save(tmp_path)
    adapted = load_backbone(tmp_path).adapt(ALL, TEMPLATES)
    model: Any = adapted.tuned.model
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert "words.output" not in adapted.adapter.state_dict()


def test_new_tokens_begin_as_the_mean_word(backbone: Backbone) -> None:
    state = backbone.adapt(LISA, TEMPLATES).adapter.state_dict()
    for name, part in (("new_input", "input"), ("new_output", "output")):
        words = getattr(backbone.module, f"get_{part}_embeddings")().weight
        assert torch.allclose(state[f"words.{name}"], words.mean(0).expand(2, -1), atol=1e-6)


@torch.no_grad()
def test_updates_are_weighed(internvl: Path) -> None:
    """By alpha / rank in the language model, and by 2 in the vision tower, whatever the rank there."""
    weighed = dataclasses.replace(ALL, rank=4, alpha=12.0, vision_rank=3)
    adapted = load_backbone(internvl, dtype=torch.float32).adapt(weighed, TEMPLATES)
    language, vision = adapted.tuned.model.get_decoder().layers, adapted.tuned.family.tower_layers
    for name, part, scale in (
        ("language.0.self_attn.q_proj", language[0].self_attn.q_proj, 3.0),
        ("vision.1.mlp.fc2", vision[1].mlp.fc2, 2.0),
    ):
        state = adapted.adapter.state_dict()
        down, up = state[f"{name}.A"], state[f"{name}.B"].normal_()
        x = torch.randn(5, down.shape[1])
        assert error(part(x), part.base_layer(x) + scale * x @ down.T @ up.T) < 1e-6


# ------------------------------------------------------------------ beside the model


def test_the_model_chats_while_the_adapter_learns(backbone: Backbone) -> None:
    inputs = backbone.chat_inputs(IMAGE, QUESTION)
    with torch.no_grad():
        expected = backbone.module(**inputs).logits
    adapted, stop, equal = backbone.adapt(ALL, TEMPLATES, "dual"), threading.Event(), []

    def talk() -> None:
        with torch.no_grad():
            while not stop.is_set() or len(equal) < 3:
                equal.append(torch.equal(backbone.module(**inputs).logits, expected))

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        train(adapted, 3)
        adapted.read(adapted.open(IMAGE), ["cup"])
    finally:
        stop.set()
        thread.join()
    assert len(equal) >= 3
    assert all(equal)


def test_two_adapters_know_nothing_of_each_other(backbone: Backbone) -> None:
    one, other = backbone.adapt(LISA, TEMPLATES), backbone.adapt(LISA, TEMPLATES)
    before = other.read(other.open(IMAGE), ["cup"])
    train(one)
    assert torch.equal(other.read(other.open(IMAGE), ["cup"]).segment, before.segment)


# ------------------------------------------------------------------ loaded in special ways


@pytest.mark.parametrize(("packing", "kind"), [(four_bits, "embedded"), (eight_bits, "qwen2.5-vl")])
@pytest.mark.parametrize("used", [False, True])  # bitsandbytes moves weights about when they are first used
def test_packed_weights(packing: Any, kind: str, used: bool, tmp_path: Path) -> None:
    KINDS[kind].save(tmp_path)
    how = {**KINDS[kind].options, "quantization_config": packing(), "attn_implementation": "eager"}
    backbone, answers = load_backbone(tmp_path, **how), load_backbone(tmp_path, **how).generate(IMAGE, QUESTION, 4)
    if used:
        assert backbone.generate(IMAGE, QUESTION, 4) == answers
    adapted = backbone.adapt(ALL, TEMPLATES)
    assert adapted.generate(IMAGE, QUESTION, 4) == answers
    assert adapted.read(adapted.open(IMAGE), ["cup"]).segment.isfinite().all()
    if packing is eight_bits:
        readings = train(adapted)
        assert not torch.equal(readings[0].segment, readings[1].segment)
        reading = adapted.teach(inputs_of(adapted, IMAGES, EXAMPLES))
        assert reading.text_loss is not None
        reading.text_loss.sum().backward()
        for name, parameter in adapted.adapter.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name
    else:
        with pytest.raises(ValueError, match=r"4 bits .* no gradients on a CPU; .* a GPU, or .* without quantisation"):
            train(adapted)
    assert backbone.generate(IMAGE, QUESTION, 4) == answers
    assert not any(p.requires_grad for p in backbone.module.parameters())


def test_layers_on_disk(llava: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="left on disk cannot be tuned; give every layer a device"):
        spread(llava, (1,), tmp_path).adapt(LISA, TEMPLATES)


def test_one_device_by_accelerate(llava: Path, backbone: Backbone) -> None:
    placed = load_backbone(llava, attn_implementation="eager", device_map={"": "cpu"}).adapt(LISA, TEMPLATES)
    here = backbone.adapt(LISA, TEMPLATES)
    value, expected = (a.read(a.open(IMAGE), ["cup"]) for a in (placed, here))
    assert torch.equal(value.segment, expected.segment)


# ------------------------------------------------------------------ what it refuses


def test_a_model_without_the_layers_that_talk(llava: Path) -> None:
    with pytest.raises(ValueError, match=r"segmentation_only=True.*load it again without"):
        load_backbone(llava, segmentation_only=True).adapt(LISA, TEMPLATES)


def test_a_model_with_a_sliding_window(internvl: Path) -> None:
    backbone = load_backbone(internvl)
    text = backbone.module.config.get_text_config()
    text.layer_types = [*text.layer_types[:-1], "sliding_attention"]
    with pytest.raises(ValueError, match="decoder layer 5 has a sliding window"):
        backbone.adapt(LISA, TEMPLATES)


def test_layers_that_are_not_there(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match=r"no layers wqkv to adapt; it has down_proj, gate_proj.*v_proj"):
        backbone.adapt(Tuning(("[SEG]",), targets=("q_proj", "wqkv")), AnswerTemplates(("[SEG]",)))


@pytest.mark.parametrize("tokens", [(), ("[SEG]", "[SEG]"), ("[SEG]", "")])
def test_tokens_without_a_name_of_their_own(backbone: Backbone, tokens: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="give at least one, each with another name"):
        backbone.adapt(Tuning(tokens), AnswerTemplates(("[SEG]",)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": -3}, "got rank=-3 for an adapter; it must be a whole number, 0 for none"),
        ({"vision_rank": -1}, "got vision_rank=-1 for an adapter"),
        ({"dropout": 1.5}, "got dropout=1.5 for an adapter; it must be a number from 0 to 1"),
    ],
)
def test_numbers_that_cannot_be(backbone: Backbone, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backbone.adapt(dataclasses.replace(LISA, **settings), TEMPLATES)


def test_without_peft(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"tuning an MLLM needs peft .*pip install 'seglens\[tune\]'"):
        backbone.adapt(LISA, TEMPLATES)


def test_no_question(backbone: Backbone) -> None:
    adapted: TunedBackbone = backbone.adapt(LISA, TEMPLATES)
    with pytest.raises(ValueError, match="got no question; ask at least one"):
        adapted.read(adapted.open(np.zeros((8, 9, 3), np.uint8)), [])
