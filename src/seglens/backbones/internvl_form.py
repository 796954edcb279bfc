"""InternVL from the form of its own code (OpenGVLab) into that of transformers: config, tokenizer, processor.

What is written is what transformers' `convert_internvl_weights_to_hf.py` writes, from the checkpoint's own files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import (
    AutoTokenizer,
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLVisionConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

LANGUAGES: dict[str, type[PreTrainedConfig]] = {
    "Qwen2ForCausalLM": Qwen2Config,
    "Qwen3ForCausalLM": Qwen3Config,
    "LlamaForCausalLM": LlamaConfig,
    "InternLM2ForCausalLM": LlamaConfig,  # which is LLaMA under other names
}
TEXT = (
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
TEXT_IF_THERE = ("head_dim", "attention_bias", "use_sliding_window", "sliding_window", "max_window_layers")
VISION = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "layer_norm_eps",
    "hidden_act",
    "norm_type",
)
# the name there, the name here, and the default of their class
VISION_RENAMED = (("qkv_bias", "attention_bias", False), ("qk_normalization", "use_qk_norm", True))
ENDS = {"internvl2_5": "\n", "Hermes-2": "", "internlm2-chat": ""}  # what follows <|im_end|>, by InternVL's template
TOKENIZERS = ("Qwen2Tokenizer", "Qwen2TokenizerFast")  # the others need remote code
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)
IMAGE, BEFORE, BEHIND, VIDEO, END = "<IMG_CONTEXT>", "<img>", "</img>", "<video>", "<|im_end|>"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}{{ 'IMAGE\n' }}"
    "{% elif item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>END' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def internvl_config(original: Mapping[str, Any], image_token: int, end_token: int) -> InternVLConfig:
    """The config of InternVL's own code as transformers'. Word embedding and output layer are two.

    Raises ValueError that names what is missing, and what transformers' class does not compute."""
    text, vision = original.get("llm_config") or {}, original.get("vision_config") or {}
    language = (text.get("architectures") or [""])[0]
    if language not in LANGUAGES:
        raise ValueError(f"its language model is {language or 'not named'!r}; those known: {', '.join(LANGUAGES)}")
    if original.get("ps_version") != "v2":
        raise ValueError(
            f"ps_version is {original.get('ps_version')!r}; transformers shuffles pixels in the order of 'v2'"
        )
    side = original.get("force_image_size") or vision.get("image_size")
    if side != vision.get("image_size"):
        raise ValueError(
            f"force_image_size is {side}, and the tower's {vision.get('image_size')}: it resizes positions"
        )
    eye = InternVLVisionConfig(
        **_required(vision, VISION, "vision_config"),
        **{name: vision.get(original_name, default) for original_name, name, default in VISION_RENAMED},
    )
    words = LANGUAGES[language](
        **_required(text, TEXT, "llm_config"),
        **{key: text[key] for key in TEXT_IF_THERE if key in text},
        rope_parameters=_rotary(text),
        eos_token_id=end_token,
        bos_token_id=text.get("bos_token_id"),
        pad_token_id=text.get("pad_token_id"),
        tie_word_embeddings=False,
        architectures=[language],
    )
    ratio = original["downsample_ratio"]
    return InternVLConfig(
        vision_config=eye,
        text_config=words,
        image_token_id=image_token,
        downsample_ratio=ratio,
        image_seq_length=int((side // vision["patch_size"] * ratio) ** 2),
        tie_word_embeddings=False,
        vision_feature_layer=original.get("select_layer", -1),
        architectures=["InternVLForConditionalGeneration"],
    )


def _required(original: Mapping[str, Any], keys: tuple[str, ...], of: str) -> dict[str, Any]:
    lacking = [key for key in keys if key not in original]
    if lacking:
        raise ValueError(f"{of} lacks {', '.join(lacking)}; copy the config of the checkpoint as published")
    return {key: original[key] for key in keys}


def _rotary(text: Mapping[str, Any]) -> dict[str, Any]:
    scaling = dict(text.get("rope_scaling") or {})
    kind = scaling.pop("rope_type", None) or scaling.pop("type", None) or "default"
    scaling.pop("type", None)
    return {"rope_type": kind, **scaling, **_required(text, ("rope_theta",), "llm_config")}


def write_processor(source: Path, folder: Path, config: InternVLConfig, template: str) -> None:
    """Tokenizer, image processor and chat template beside `config`, from the tokenizer's files in `source`.

    Raises ValueError when the tokenizer is code of its own, or the conversation's template is not known."""
    if template not in ENDS:
        raise ValueError(f"its conversations are of the template {template!r}; those known: {', '.join(ENDS)}")
    kind = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8")).get("tokenizer_class")
    if kind not in TOKENIZERS:
        raise ValueError(
            f"its tokenizer is {kind!r}, code of its own, which is not run here; give --base, "
            "an InternVL in transformers' own form with the same language model, for its tokenizer"
        )
    named = {"start_image_token": BEFORE, "end_image_token": BEHIND, "context_image_token": IMAGE, "video_token": VIDEO}
    with TemporaryDirectory() as apart:  # from the model's config, of which transformers would warn
        for name in FILES:
            if (source / name).is_file():
                shutil.copy(source / name, apart)
        tokenizer = AutoTokenizer.from_pretrained(apart, trust_remote_code=False, extra_special_tokens=named)
    tokenizer.save_pretrained(folder)
    height, width = config.vision_config.image_size
    images = GotOcr2ImageProcessorPil(
        size={"height": height, "width": width}, image_mean=MEAN, image_std=STD, crop_to_patches=True
    )
    images.save_pretrained(folder)
    chat = TEMPLATE.replace("IMAGE", IMAGE).replace("END", ENDS[template])
    (folder / "chat_template.jinja").write_text(chat, encoding="utf-8")
    settings = {"processor_class": "InternVLProcessor", "image_seq_length": config.image_seq_length}
    (folder / "processor_config.json").write_text(json.dumps(settings), encoding="utf-8")


def numbers_of(folder: Path, tokens: tuple[str, ...]) -> dict[str, int | None]:
    """How the tokenizer of a converted folder numbers these tokens."""
    vocabulary = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).get_vocab()
    return {token: vocabulary.get(token) for token in tokens}
