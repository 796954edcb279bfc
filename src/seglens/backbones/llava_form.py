"""LLaVA v1 (a linear projector, two tokens around the image) described as transformers' LLaVA: config, tokenizer,
processor. LISA is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
)

IMAGE, AROUND = "<image>", ("<im_start>", "<im_end>")
# LISA's conv_llava_v1: "USER: <im_start><image><im_end>\n... ASSISTANT:", after the system text, if there is one
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}{{ '<im_start><image><im_end>\n' }}{% endif %}"
    "{% endfor %}{% for item in message['content'] %}{% if item['type'] == 'text' %}{{ item['text'] + ' ' }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
TEXT = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "rms_norm_eps",
    "hidden_act",
)


@dataclass(frozen=True)
class LlavaForm:
    """What a conversion needs to know: shapes of all tensors by their names, and the words of the tokenizer that was
    written, by their numbers."""

    shapes: dict[str, tuple[int, ...]]
    words: list[str]


def write_llava_v1(theirs: Mapping[str, Any], base: Path, tower: Path, folder: Path) -> LlavaForm:
    """Config, tokenizer, image processor and chat template in `folder`. `theirs` is the config of the checkpoint,
    `base` a LLaVA in transformers' own form with the same words (for its tokenizer), `tower` the CLIP that it reads.

    Raises ValueError that names what is missing, and what transformers' class does not compute."""
    lacking = [key for key in TEXT if key not in theirs]
    if lacking:
        raise ValueError(f"its config lacks {', '.join(lacking)}; copy the config of the checkpoint as published")
    features, projector = theirs.get("mm_vision_select_feature", "patch"), theirs.get("mm_projector_type", "linear")
    if (features, projector) != ("patch", "linear"):
        raise ValueError("its projector or its choice of features is not LLaVA v1's; only that one is converted")
    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    tokenizer.add_special_tokens({"extra_special_tokens": list(AROUND)}, replace_extra_special_tokens=False)
    vision = CLIPVisionConfig.from_pretrained(tower)
    config = _config(theirs, vision, tokenizer)
    side = vision.image_size
    images = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return LlavaForm(shapes, tokenizer.convert_ids_to_tokens(range(len(tokenizer))))


def _config(theirs: Mapping[str, Any], vision: CLIPVisionConfig, tokenizer: Any) -> LlavaConfig:
    """A linear projector is transformers' projector of two layers whose second does nothing."""
    text = LlamaConfig(
        **{key: theirs[key] for key in TEXT},
        num_key_value_heads=theirs.get("num_key_value_heads") or theirs["num_attention_heads"],
        max_position_embeddings=theirs.get("max_position_embeddings") or 2048,
        rope_parameters={"rope_type": "default", "rope_theta": theirs.get("rope_theta") or 10000.0},
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        projector_hidden_act="linear",
        vision_feature_layer=theirs.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
        architectures=["LlavaForConditionalGeneration"],
    )
