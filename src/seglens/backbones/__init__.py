"""Frozen MLLMs by family. A new family is one file and one line of `FAMILIES`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from seglens.backbones.attention_maps import AttentionReader
from seglens.backbones.base import Backbone, OpenImage
from seglens.backbones.generation import GeneratedText, GenerationOptions, before_stop
from seglens.backbones.internvl import InternVLBackbone
from seglens.backbones.llava import LlavaBackbone
from seglens.backbones.llava_onevision import LlavaOnevisionBackbone
from seglens.backbones.model_spec import Blueprint
from seglens.backbones.prompts import QuestionError
from seglens.backbones.qwen2_vl import Qwen2VLBackbone
from seglens.backbones.qwen3_vl import Qwen3VLBackbone
from seglens.core.names import did_you_mean
from seglens.model_files.strict_loading import HUB, refuse_adapter

FAMILIES: dict[str, type[Backbone]] = {  # by config.model_type
    "llava": LlavaBackbone,
    "llava_next": LlavaOnevisionBackbone,
    "llava_onevision": LlavaOnevisionBackbone,
    "internvl": InternVLBackbone,
    "qwen2_vl": Qwen2VLBackbone,
    "qwen2_5_vl": Qwen2VLBackbone,
    "qwen3_vl": Qwen3VLBackbone,
}


def load_backbone(name: str | Path, *, revision: str | None = None, **options: Any) -> Backbone:
    """Load the MLLM in a folder or at a hub id, whatever its family. `options` as for the family's `from_pretrained`.

    Raises ValueError when the family is not supported, naming those that are."""
    where = {key: options[key] for key in HUB if key in options}
    return _family(name, revision=revision, **where).from_pretrained(name, revision=revision, **options)


def draw_blueprint(
    name: str | Path, *, layer: int | None = None, image_size: int | None = None, revision: str | None = None
) -> Blueprint:
    """What is known of the MLLM in a folder, in a config file or at a hub id from its config alone.

    Raises ValueError when the family is not supported, or the layer or the size do not fit."""
    family = _family(name, revision=revision)
    config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    return Blueprint.draw(name, config, family.layout(config, image_size), layer)


def _family(name: str | Path, **where: Any) -> type[Backbone]:
    if str(name).startswith((".", "/", "~")) and not Path(name).exists():
        raise ValueError(f"the model {str(name)!r} does not exist; give a folder, a config file or a hub id")
    refuse_adapter(name)
    # read as it stands: transformers makes no config of a family that it does not know, or that brings its own code
    said, _ = PreTrainedConfig.get_config_dict(name, **where)
    family = str(said.get("model_type"))
    if "model_type" not in said:
        raise ValueError(f"{name} has no config.json of a model; give a folder that has one, a config file or a hub id")
    if family not in FAMILIES:
        hint = did_you_mean(family, FAMILIES, ", with the name of its -hf version")
        raise ValueError(f"{name} is a {family!r} model; supported families: {', '.join(FAMILIES)}{hint}")
    return FAMILIES[family]


def hide_loading_bars() -> None:
    """Keep transformers' progress bars off the terminal: for programs, not for libraries."""
    from transformers.utils import logging

    logging.disable_progress_bar()


__all__ = [
    "FAMILIES",
    "AttentionReader",
    "Backbone",
    "Blueprint",
    "GeneratedText",
    "GenerationOptions",
    "OpenImage",
    "QuestionError",
    "before_stop",
    "draw_blueprint",
    "hide_loading_bars",
    "load_backbone",
]
