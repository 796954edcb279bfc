"""An InternVL without its weights: the tensors that its files must hold, for converters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig

# transformers names tensors in memory (left) other than in its files (right), which keep the names of 2024
IN_FILES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.": "",
}


@dataclass(frozen=True)
class Skeleton:
    """`shapes` of all tensors by their names in files; `facts` are settings that change its numbers and no shape, by
    their names in the config of InternVL's own code."""

    shapes: dict[str, tuple[int, ...]]
    facts: dict[str, Any]
    width: int
    patch_width: int
    heads: int
    key_heads: int
    words: int
    image_token: int
    shuffle: int

    @classmethod
    def draw(cls, name: str | Path) -> Skeleton:
        """Of the InternVL in a folder, from its config alone. The word embedding and the output layer are two.

        Raises ValueError when it is no InternVL in transformers' own form."""
        config_dict, _ = PreTrainedConfig.get_config_dict(name)
        if config_dict.get("model_type") != "internvl":
            raise ValueError(
                f"{name} is a {config_dict.get('model_type')!r} model; give an InternVL in transformers' own form, "
                "whose name ends in -hf"
            )
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
        text, vision = config.text_config, config.vision_config
        return cls(
            shapes={_in_files(key): tuple(tensor.shape) for key, tensor in model.state_dict().items()},
            facts=_facts(config),
            width=text.hidden_size,
            patch_width=vision.hidden_size,
            heads=text.num_attention_heads,
            key_heads=text.num_key_value_heads,
            words=text.vocab_size,
            image_token=config.image_token_id,
            shuffle=round(1 / config.downsample_ratio),
        )


def _in_files(key: str) -> str:
    start = next(start for start in IN_FILES if key.startswith(start))
    return IN_FILES[start] + key.removeprefix(start)


def _facts(config: PreTrainedConfig) -> dict[str, Any]:
    text, vision, rotary = config.text_config, config.vision_config, config.text_config.rope_parameters
    scaling = (rotary["rope_type"], rotary.get("factor"))
    return {
        "llm_config.num_attention_heads": text.num_attention_heads,
        "llm_config.num_key_value_heads": text.num_key_value_heads,
        "llm_config.rms_norm_eps": text.rms_norm_eps,
        "llm_config.rope_theta": rotary["rope_theta"],
        "llm_config.rope_scaling": None if scaling[0] == "default" else scaling,
        "vision_config.num_attention_heads": vision.num_attention_heads,
        "vision_config.layer_norm_eps": vision.layer_norm_eps,
        "vision_config.image_size": vision.image_size[0],
        "downsample_ratio": config.downsample_ratio,
        "select_layer": config.vision_feature_layer,
        "ps_version": "v2",  # the only order in which transformers shuffles pixels
    }
