"""Gemma 3: sliding windows that hide nothing, an image that sees itself, and what else its class has of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bare import Bare, error
from PIL import Image
from transformers import Gemma2Config, PaliGemmaConfig, PaliGemmaForConditionalGeneration, SiglipVisionConfig
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5TextModel
from transformers.models.qwen3_5_moe.configuration_qwen3_5_moe import Qwen3_5MoeTextConfig

from seglens.backbones import Backbone, QuestionError, draw_blueprint, load_backbone
from seglens.backbones.chat_template import LONGEST_QUESTION
from seglens.backbones.layers import sequence_mask
from tiny import KINDS

IMAGE = np.random.default_rng(1).integers(0, 256, (50, 90, 3), dtype=np.uint8)
EXACT = {"dtype": torch.float32, "attn_implementation": "eager"}
WINDOW = 16 + LONGEST_QUESTION  # the smallest that is read: the image tokens of the tiny model, and a question
TOLERANCE = 5e-6
LINEAR = ("key_head_dim", "value_head_dim", "num_key_heads", "num_value_heads")


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds") / "gemma3"
    KINDS["gemma3"].save(folder)
    edit(folder, sliding_window=WINDOW)
    return folder


@pytest.fixture(scope="module")
def backbone(gemma: Path) -> Backbone:
    return load_backbone(gemma, **EXACT, as_is=True)


def edit(folder: Path, **text: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= text
    (folder / "config.json").write_text(json.dumps(config))


def config_alone(gemma: Path, folder: Path, **text: Any) -> Path:
    (folder / "config.json").write_text((gemma / "config.json").read_text())
    edit(folder, **text)
    return folder


def test_a_window_that_is_just_filled_hides_nothing(gemma: Path, backbone: Backbone) -> None:
    """Its class cuts off what is further back; one token more is refused."""
    opened, bare = backbone.open(IMAGE), Bare.load(gemma, **EXACT)
    room = WINDOW - backbone.read_tokens("a", backbone.mllm.frame(IMAGE))
    question = "a" + "b" * room
    readout, start = backbone.read(opened, [question]), opened.prefix.shape[1]
    ids = bare.ids(question, 16)
    assert ids.shape[1] == WINDOW
    there = bare.run(ids, bare.canvas(IMAGE, backbone.image_size)).inputs[backbone.layer][0]
    assert error(readout.prefix[0], there[:start]) < TOLERANCE
    assert error(readout.question[0, 0], there[start:]) < TOLERANCE
    with pytest.raises(QuestionError, match=f"got {WINDOW + 1} tokens .* hold {WINDOW}; shorten the question"):
        backbone.read(opened, [f"{question}b"])
    with pytest.raises(QuestionError, match=f"hold {WINDOW}; shorten the question"):
        backbone.with_system_text("b" * WINDOW).read(backbone.with_system_text("b" * WINDOW).open(IMAGE), ["cup"])
    with pytest.raises(QuestionError, match=f"hold {WINDOW}; shorten the question"):
        backbone.chat_prefix(IMAGE, question)
    with pytest.raises(QuestionError, match=f"hold {WINDOW}; shorten the question, its answer"):
        backbone.likelihoods(IMAGE, question[:-9], ["yes", "b" * 20])


def test_a_smaller_window_is_refused_by_the_config_alone(gemma: Path, tmp_path: Path) -> None:
    folder = config_alone(gemma, tmp_path, sliding_window=WINDOW - 1)
    message = (
        rf"layer 0 has sliding_attention with a window of {WINDOW - 1} tokens.* 16 tokens of an image and up to 512"
    )
    for load in (load_backbone, draw_blueprint):
        with pytest.raises(ValueError, match=message) as caught:
            load(folder)
        assert "\n" not in str(caught.value)


def test_words_that_see_the_future_are_refused_by_the_config_alone(gemma: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="words see those after them"):
        load_backbone(config_alone(gemma, tmp_path, use_bidirectional_attention=True))


def test_the_first_image_token_sees_the_last(backbone: Backbone) -> None:
    """In what is read and in what a head copies."""
    readout = backbone.read(backbone.open(IMAGE), ["cup"])
    first, last = readout.image_tokens[[0, -1]].tolist()
    changed = readout.prefix.clone()
    changed[:, last] += 1
    for layers in (backbone.clone_layers(1)[0], backbone.layers_below()):
        with torch.no_grad():
            one, other = (layers.prefix(rows, readout.prefix_positions)[0] for rows in (readout.prefix, changed))
        assert not torch.equal(one[:, first], other[:, first])
        assert torch.equal(one[:, :first], other[:, :first])


def test_an_image_that_sees_itself_does_so_in_every_kind_of_attention() -> None:
    mask, places = torch.ones(1, 2, 2, dtype=torch.bool), torch.zeros(1, 2, 1, dtype=torch.long)
    for spoken in (False, True):
        whole = sequence_mask("dual", 3, 2, mask, places, torch.full((1, 2), spoken), mutual=True)
        rows = ["".join(".x"[cell] for cell in row) for row in whole[0].tolist()]
        assert rows[1] == ("xxx.." if spoken else "xxxx.")
        assert [rows[0], *rows[3:]] == ["x....", "xxxx.", "xxxxx"]
    assert torch.equal(
        sequence_mask("causal", 3, 2, mask, places, torch.zeros(1, 2, dtype=torch.bool), mutual=True),
        sequence_mask("images", 3, 2, mask, places, torch.zeros(1, 2, dtype=torch.bool)),
    )


def test_a_conversation_begins_once(backbone: Backbone) -> None:
    """Its template brings the token that its tokenizer adds: it stands there once, as in `apply_chat_template`."""
    talk = [
        {
            "role": "user",
            "content": [{"type": "image", "image": Image.fromarray(IMAGE)}, {"type": "text", "text": "a cup"}],
        }
    ]
    expected = backbone.processor.apply_chat_template(
        talk, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    inputs = backbone.chat_inputs(IMAGE, "a cup")
    assert inputs.keys() == expected.keys()
    assert all(torch.equal(inputs[key], expected[key].to(inputs[key].dtype)) for key in inputs)
    ids = [*backbone.prompts.before(), *[backbone.module.config.image_token_id] * 16, *backbone.prompts.after("a cup")]
    assert ids == inputs["input_ids"][0].tolist()
    assert ids.count(backbone.processor.tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("token", ["<start_of_image>", "<image_soft_token>"])
def test_an_image_cannot_be_typed(backbone: Backbone, token: str) -> None:
    with pytest.raises(QuestionError, match=f"contains '{token}', which stands for the image itself"):
        backbone.prompts.after(f"a {token}")


def test_new_tokens_are_as_long_as_the_others(backbone: Backbone) -> None:
    """Gemma multiplies what it reads of its embedding."""
    pytest.importorskip("peft", reason="needs peft: pip install 'seglens[tune]'")
    from test_tuned_reader import LISA, TEMPLATES

    tuned = backbone.adapt(LISA, TEMPLATES).tuned.model
    words = tuned.get_input_embeddings()
    count = len(words.weight)
    assert error(words(torch.tensor([count]))[0], words(torch.arange(count)).mean(0)) < 1e-5


# ------------------------------------------------------------------ why others are refused


def test_the_states_of_an_image_of_paligemma_change_with_the_question() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = Gemma2Config(**sizes, num_key_value_heads=1, head_dim=8, vocab_size=12, initializer_range=0.5)
    vision = SiglipVisionConfig(**sizes, image_size=8, patch_size=4, vision_use_head=False, projection_dim=16)
    config = PaliGemmaConfig(vision_config=vision, text_config=text, image_token_index=9, projection_dim=16)
    model = PaliGemmaForConditionalGeneration(config).eval()
    ids = torch.tensor([[9, 9, 9, 9, 2, question] for question in (3, 4)])
    with torch.no_grad():
        states = model(
            input_ids=ids,
            pixel_values=torch.ones(2, 3, 8, 8),
            token_type_ids=torch.zeros_like(ids),
            attention_mask=torch.ones_like(ids),
            output_hidden_states=True,
        ).hidden_states
    assert torch.equal(states[0][0, :5], states[0][1, :5])
    assert error(states[1][0, :4], states[1][1, :4]) > 1e-3


@pytest.mark.parametrize("config", [Qwen3_5TextConfig, Qwen3_5MoeTextConfig])
def test_three_of_four_layers_of_qwen3_5_have_linear_attention(config: Any) -> None:
    kinds = config().layer_types
    assert kinds == [*["linear_attention"] * 3, "full_attention"] * (len(kinds) // 4)


def test_linear_attention_of_qwen3_5_keeps_a_state_and_no_keys() -> None:
    """Its size does not depend on the number of tokens, so that no token can be left out of it."""
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    linear = {f"linear_{name}": 4 if "dim" in name else 2 for name in LINEAR}
    sizes = {"vocab_size": 12, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 4}
    model = Qwen3_5TextModel(Qwen3_5TextConfig(**sizes, **heads, **linear)).eval()
    with torch.no_grad():
        few, more = (model(input_ids=torch.ones(1, n).long(), use_cache=True).past_key_values for n in (5, 7))
    for one, other in zip(few.layers[:3], more.layers[:3], strict=True):
        assert not hasattr(one, "keys")
        assert one.recurrent_states[0].shape == other.recurrent_states[0].shape == (1, 2, 4, 4)
    assert [cache.layers[3].keys.shape[2] for cache in (few, more)] == [5, 7]
