"""Frozen MLLMs of several families, read at one layer, and their chat. A new family: `families.py`."""

from seglens.backbones.attention_reader import AttentionReader
from seglens.backbones.backbone import Backbone, EncodedPrefix
from seglens.backbones.chat_template import QuestionError
from seglens.backbones.families import FAMILIES
from seglens.backbones.family import Family
from seglens.backbones.generation import GeneratedText, GenerationOptions, before_stop
from seglens.backbones.loading import draw_blueprint, hide_loading_bars, load_backbone
from seglens.backbones.mllm import MLLM
from seglens.backbones.model_spec import Blueprint

__all__ = [
    "FAMILIES",
    "MLLM",
    "AttentionReader",
    "Backbone",
    "Blueprint",
    "EncodedPrefix",
    "Family",
    "GeneratedText",
    "GenerationOptions",
    "QuestionError",
    "before_stop",
    "draw_blueprint",
    "hide_loading_bars",
    "load_backbone",
]
