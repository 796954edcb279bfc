"""InternVL's plain checkpoints, under their own names and files, become models that transformers' class loads and that
say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, InternVLForConditionalGeneration

from command import Run
from convert import their_files
from convert.test_convert_mllmseg import answers, as_published, internlm, tiny_size
from seglens.backbones import load_backbone
from seglens.backbones.internvl_form import internvl_config
from seglens.backbones.internvl_spec import Skeleton
from seglens.checkpoints.origin import CheckpointError
from seglens.convert.internvl import check_facts, mllm_pieces
from seglens.convert.plain import convert_internvl
from seglens.convert.weights import refuse_misfit
from tiny import internvl, internvl_processor, internvl_tokenizer, save_processor

SPECIAL = ("<|im_end|>", "<|endoftext|>", "<|im_start|>", "<img>", "</img>", "<IMG_CONTEXT>")


@pytest.fixture(scope="module", params=["qwen", "internlm"])
def truth(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in transformers' own form."""
    folder = tmp_path_factory.mktemp("truth") / request.param
    torch.manual_seed(0)
    model = internlm() if request.param == "internlm" else internvl()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.1)
    model.save_pretrained(folder)
    save_processor(internvl_processor(), folder)
    return folder


def their_config(truth: Path) -> dict[str, Any]:
    """As InternVL's own code writes it, with what else its language model's config holds."""
    held = json.loads((truth / "config.json").read_text())
    text, eye, qwen = held["text_config"], held["vision_config"], held["text_config"]["model_type"] == "qwen2"
    same_names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "rms_norm_eps",
        "max_position_embeddings",
        "vocab_size",
        "hidden_act",
    )
    rotary = text["rope_parameters"]
    llm = {
        **{key: text[key] for key in same_names},
        "rope_theta": rotary["rope_theta"],
        "tie_word_embeddings": False,
        "architectures": ["Qwen2ForCausalLM" if qwen else "InternLM2ForCausalLM"],
        "torch_dtype": "bfloat16",
        "rope_scaling": None if qwen else {"factor": 2.0, "type": "dynamic"},
        "temperature": 1.0,
        "use_cache": False,
        "attn_implementation": "eager",
        "model_type": "qwen2" if qwen else "internlm2",
        "bos_token_id": None,
    }
    vision = {
        "architectures": ["InternVisionModel"],
        "model_type": "intern_vit_6b",
        "hidden_size": eye["hidden_size"],
        "num_hidden_layers": eye["num_hidden_layers"],
        "num_attention_heads": eye["num_attention_heads"],
        "intermediate_size": eye["intermediate_size"],
        "image_size": 64,
        "patch_size": 8,
        "qkv_bias": True,
        "qk_normalization": False,
        "norm_type": "layer_norm",
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu",
        "drop_path_rate": 0.1,
        "initializer_factor": 0.1,
        "use_flash_attn": True,
    }
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "downsample_ratio": 0.5,
        "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"},
        "dynamic_image_size": True,
        "force_image_size": 64,
        "select_layer": -1,
        "ps_version": "v2",
        "template": "internvl2_5",
        "use_llm_lora": 0,
        "use_backbone_lora": 0,
        "llm_config": llm,
        "vision_config": vision,
    }


def write_tokenizer(folder: Path, qwen: bool) -> None:
    """Qwen2's files of before `tokenizer.json`; of InternLM2's those that state its numbers and its class."""
    ids = {token: number for token, number in internvl_tokenizer().get_vocab().items() if token in SPECIAL}
    (folder / "added_tokens.json").write_text(json.dumps(ids))
    vocabulary = {word: n for word, n in internvl_tokenizer().get_vocab().items() if n < 256}
    added = {
        str(n): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for token, n in ids.items()
    }
    message = {
        "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIAL[2:]),
        "eos_token": SPECIAL[0],
        "pad_token": SPECIAL[1],
        "add_prefix_space": False,
        "model_max_length": 8192,
        "bos_token": None,
        "tokenizer_class": "Qwen2Tokenizer" if qwen else "InternLM2Tokenizer",
        "unk_token": None,
    }
    if qwen:
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        (folder / "merges.txt").write_text("#version: 0.2\n")
    else:
        message["auto_map"] = {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(message))


@pytest.fixture
def source(truth: Path, tmp_path: Path) -> Path:
    folder, size = tmp_path / "theirs", tiny_size(truth)
    folder.mkdir()
    tensors = as_published(load_file(truth / "model.safetensors"), size)
    for n, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), 1):
        part = {name: tensors[name].contiguous() for name in names}
        save_file(part, folder / f"model-{n:05}-of-00002.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(their_config(truth)))
    (folder / "modeling_internvl_chat.py").write_text("raise SystemExit('code of a checkpoint was run')\n")
    write_tokenizer(folder, not size.internlm)
    return folder


def needs_base(source: Path) -> bool:
    return not (source / "vocab.json").exists()


def convert(source: Path, out: Path, truth: Path) -> Any:
    return convert_internvl(source, out, truth if needs_base(source) else None)


def change(path: Path, at: tuple[str, ...], value: Any) -> None:
    held = json.loads(path.read_text())
    inner = held
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    path.write_text(json.dumps(held))


def test_transformers_own_class_says_the_same(truth: Path, source: Path, tmp_path: Path) -> None:
    """Logits bit for bit, by transformers' loading; and every fact of the config that changes one."""
    converted = convert(source, tmp_path / "out", truth)
    assert converted.tensors == len(load_file(truth / "model.safetensors"))
    assert torch.equal(answers(tmp_path / "out"), answers(truth))
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "out", truth))
    for part in ("vision_config", "text_config"):
        differ = {key for key in theirs[part] if ours[part].get(key) != theirs[part][key]}
        # what starts weights, whose padding is not used, and how files are written
        assert differ <= {"initializer_range", "pad_token_id", "dtype", "layer_types"}
    assert {k: v for k, v in ours.items() if not k.endswith("_config")} == {
        k: v for k, v in theirs.items() if k not in ("dtype",) and not k.endswith("_config")
    }
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == internvl_tokenizer().convert_tokens_to_ids("<|im_end|>")
    _, report = InternVLForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())
    assert not list((tmp_path / "out").glob("*.py"))


@pytest.mark.parametrize("name", their_files.SIZES)
def test_the_published_sizes_fit_by_name_and_shape(name: str, tmp_path: Path) -> None:
    """InternVL2.5 of 1B to 8B, from their own configs, without a weight in memory."""
    size = their_files.SIZES[name]
    message = their_files.config_of(size)
    text = {
        "hidden_size": size.d,
        "intermediate_size": size.inner,
        "num_hidden_layers": size.layers,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
    }
    eye = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "norm_type": "layer_norm",
        "hidden_act": "gelu",
        "qkv_bias": True,
        "qk_normalization": False,
    }
    message = {
        **message,
        "llm_config": {**message["llm_config"], **text},
        "vision_config": {**message["vision_config"], **eye},
    }
    config = internvl_config(message, size.image_token, size.words - 1)
    config.save_pretrained(tmp_path)
    skeleton = Skeleton.draw(tmp_path)
    shapes = their_files.vision_shapes() | their_files.projector_shapes(size.d) | their_files.language_shapes(size)
    refuse_misfit(mllm_pieces(shapes, skeleton), skeleton.shapes, tmp_path)
    check_facts(message, skeleton, "their config")
    assert config.image_seq_length == 256


def test_it_is_a_backbone(truth: Path, source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", truth)
    picture = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    converted = load_backbone(tmp_path / "out")
    assert isinstance(converted.generate(picture, "What is it?", 2), str)
    assert converted.grid == load_backbone(truth).grid
    if not needs_base(source):  # ImageNet's, as InternVL's own code has them
        images = converted.processor.image_processor
        assert (list(images.image_mean), list(images.image_std)) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        assert (images.size["height"], images.size["width"], images.crop_to_patches) == (64, 64, True)


def test_the_tokenizer_is_the_checkpoint_s_own(truth: Path, source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", truth)
    ours, own = AutoTokenizer.from_pretrained(tmp_path / "out"), internvl_tokenizer()
    text = "<|im_start|>user\n<img><IMG_CONTEXT></img>What is é?<|im_end|>\n"
    assert ours(text)["input_ids"] == own(text)["input_ids"]
    assert ours.video_token_id == own.video_token_id
    chat = (tmp_path / "out" / "chat_template.jinja").read_text()
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]}]
    message = ours.apply_chat_template(messages, chat_template=chat, add_generation_prompt=True, tokenize=False)
    assert message == "<|im_start|>user\n<IMG_CONTEXT>\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_a_template_without_a_line_end(truth: Path, source: Path, tmp_path: Path) -> None:
    if needs_base(source):
        pytest.skip("takes its base's template")
    change(source / "config.json", ("template",), "Hermes-2")
    convert(source, tmp_path / "out", truth)
    assert "<|im_end|>' }}" in (tmp_path / "out" / "chat_template.jinja").read_text()
    change(source / "config.json", ("template",), "phi3-chat")
    with pytest.raises(CheckpointError, match=r"of the template 'phi3-chat'; those known: internvl2_5"):
        convert(source, tmp_path / "other", truth)


def test_a_word_embedding_that_is_the_output_layer(truth: Path, source: Path, tmp_path: Path) -> None:
    """The file holds one of the two where the config states that they are one."""
    if needs_base(source):
        pytest.skip("InternLM2 has two")
    file = next(path for path in source.glob("*.safetensors") if "language_model.lm_head.weight" in load_file(path))
    held = load_file(file)
    held.pop("language_model.lm_head.weight")
    save_file(held, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"does not fit: missing language_model.lm_head.weight"):
        convert(source, tmp_path / "out", truth)
    change(source / "config.json", ("llm_config", "tie_word_embeddings"), True)
    convert(source, tmp_path / "out", truth)
    converted = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(
        converted["language_model.lm_head.weight"], converted["language_model.model.embed_tokens.weight"]
    )


def test_tensors_that_do_not_fit_are_named(truth: Path, source: Path, tmp_path: Path) -> None:
    file = next(path for path in source.glob("*.safetensors") if "mlp1.1.bias" in load_file(path))
    held = load_file(file)
    held["mlp1.9.weight"] = held.pop("mlp1.1.bias")
    save_file(held, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing multi_modal_projector.linear_1.bias; extra mlp1.9.weight"):
        convert(source, tmp_path / "out", truth)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("at", "value", "complaint"),
    [
        (("ps_version",), "v1", "ps_version is 'v1'"),
        (("force_image_size",), 128, "force_image_size is 128, and the tower's 64"),
        (("llm_config", "architectures"), ["Phi3ForCausalLM"], "its language model is 'Phi3ForCausalLM'; those known"),
        (("llm_config", "rope_theta"), None, ""),
        (("llm_config",), {}, "its language model is 'not named'"),
        (("vision_config", "layer_norm_eps"), "gone", ""),
        (("vision_config", "hidden_size"), 64, "makes vision_tower"),
    ],
)
def test_a_config_of_another_model_is_refused(
    truth: Path, source: Path, tmp_path: Path, at: tuple[str, ...], value: Any, complaint: str
) -> None:
    if complaint:
        change(source / "config.json", at, value)
    else:
        held = json.loads((source / "config.json").read_text())
        del held[at[0]][at[1]]
        (source / "config.json").write_text(json.dumps(held))
    with pytest.raises(CheckpointError, match=re.escape(complaint) or f"{at[0]} lacks {at[1]}"):
        convert(source, tmp_path / "out", truth)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_its_own_code_needs_a_base(truth: Path, source: Path, tmp_path: Path, seglens: Run) -> None:
    out = tmp_path / "out"
    if needs_base(source):
        code, _, message = seglens("convert", "internvl", source, out)
        assert (code, message.count("\n")) == (2, 1)
        assert "its tokenizer is 'InternLM2Tokenizer', code of its own, which is not run here; give --base" in message
    change(source / "added_tokens.json", ("<img>",), 7)
    with pytest.raises(CheckpointError, match=r"numbers <img> 7, and .* 259; give --base"):
        convert(source, out, truth)
    change(source / "added_tokens.json", ("<img>",), 259)
    held = json.loads((source / "added_tokens.json").read_text())
    held.pop("</img>")
    (source / "added_tokens.json").write_text(json.dumps(held))
    with pytest.raises(CheckpointError, match=r"numbers no </img>; it is no InternVL"):
        convert(source, out, truth)
    assert not out.exists()


def test_the_command(truth: Path, source: Path, tmp_path: Path, seglens: Run) -> None:
    base = ("--base", truth) if needs_base(source) else ()
    code, printed, _ = seglens("convert", "internvl", source, tmp_path / "out", *base, "--json")
    assert (code, json.loads(printed)["updates_added"]) == (0, 0)
    code, _, message = seglens("convert", "internvl", source, tmp_path / "out", *base)
    assert code == 2
    assert "out" in message
