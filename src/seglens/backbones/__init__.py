"""Frozen MLLMs by family. A new family is one file and one line of `FAMILIES`."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from seglens.backbones.base import Backbone, OpenImage, QuestionError
from seglens.backbones.internvl import InternVLBackbone
from seglens.backbones.llava import LlavaBackbone
from seglens.backbones.llava_onevision import LlavaOnevisionBackbone
from seglens.backbones.qwen2_vl import Qwen2VLBackbone
from seglens.backbones.qwen3_vl import Qwen3VLBackbone
from seglens.backbones.watch import Watch

FAMILIES: dict[str, type[Backbone]] = {  # by config.model_type
    "llava": LlavaBackbone,
    "llava_onevision": LlavaOnevisionBackbone,
    "internvl": InternVLBackbone,
    "qwen2_vl": Qwen2VLBackbone,
    "qwen2_5_vl": Qwen2VLBackbone,
    "qwen3_vl": Qwen3VLBackbone,
}


def load_backbone(name: str | Path, *, revision: str | None = None, **options: Any) -> Backbone:
    """Load the MLLM in a folder or at a hub id, whatever its family. `options` as for the family's `from_pretrained`.

    Raises ValueError when the family is not supported, naming those that are."""
    family = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False).model_type
    if family not in FAMILIES:
        near = difflib.get_close_matches(family, FAMILIES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} is a {family!r} model; supported families: {', '.join(FAMILIES)}{hint}")
    return FAMILIES[family].from_pretrained(name, revision=revision, **options)


def hide_loading_bars() -> None:
    """Keep transformers' progress bars off the terminal: for programs, not for libraries."""
    from transformers.utils import logging

    logging.disable_progress_bar()


__all__ = ["FAMILIES", "Backbone", "OpenImage", "QuestionError", "Watch", "hide_loading_bars", "load_backbone"]
