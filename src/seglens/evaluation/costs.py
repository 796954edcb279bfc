"""The memory that a multimodal LLM will need, computed from its config before any weight is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from seglens.backbones import Blueprint, draw_blueprint
from seglens.decoders.sam import SamDecoder
from seglens.methods.lens import Lens, LensConfig

QUESTION = 40  # tokens


@dataclass(frozen=True)
class Costs:
    """Of one model. Memory in bytes of weights: `chat` for the whole model, `segment` without the layers that only the
    chat needs. The image cache holds the rows of the image's tokens (a template adds a few) and SAM's embedding."""

    name: str
    family: str
    parameters: int
    chat_bf16: int
    chat_4bit: int
    segment_bf16: int
    segment_4bit: int
    layer: int
    depth: int
    image_size: int
    grid: tuple[int, int]
    width: int
    image_cache_bf16: int
    image_cache_int8: int
    question_bf16: int  # for a question of 40 tokens
    head_parameters: int  # trainable: a LENS head of the default settings with SAM's mask decoder

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def work_out(name: str | Path, *, layer: int | None = None, image_size: int | None = None) -> Costs:
    """Of the model in a folder, in a config file or at a hub id; only the config is read.

    Raises ValueError when the family is not supported, or the layer or the size do not fit."""
    plan = draw_blueprint(name, layer=layer, image_size=image_size)
    with torch.device("meta"):
        sam = SamDecoder(SamDecoder.model(SamDecoder.model.config_class()))
        lens = Lens(LensConfig(), plan.copied_runs(), *_sizes(plan), sam)
    width = plan.text.hidden_size
    cached = plan.image_tokens * width + sam.width * sam.side**2
    return Costs(
        name=Path(name).stem if Path(name).is_file() else Path(name).name,
        family=plan.family,
        parameters=plan.parameters(),
        layer=plan.depth.layer,
        depth=plan.depth.whole,
        chat_bf16=plan.weight_bytes(),
        chat_4bit=plan.weight_bytes(packed=True),
        segment_bf16=plan.weight_bytes(segmentation_only=True),
        segment_4bit=plan.weight_bytes(packed=True, segmentation_only=True),
        image_size=plan.layout.image_size,
        grid=plan.layout.grid,
        width=width,
        image_cache_bf16=2 * cached,
        image_cache_int8=cached,
        question_bf16=2 * QUESTION * width,
        head_parameters=sum(p.numel() for p in lens.parameters() if p.requires_grad),
    )


def _sizes(plan: Blueprint) -> tuple[int, int, int]:
    return plan.text.hidden_size, plan.text.num_attention_heads, plan.text.intermediate_size


COLUMNS = {
    "model": lambda c: c.name,
    "family": lambda c: f"`{c.family}`",
    "parameters": lambda c: f"{c.parameters / 1e9:.2f} B",
    "chatting, bf16 / 4 bit": lambda c: f"{c.chat_bf16 / 1e9:.1f} / {c.chat_4bit / 1e9:.1f} GB",
    "segmenting, bf16 / 4 bit": lambda c: f"{c.segment_bf16 / 1e9:.1f} / {c.segment_4bit / 1e9:.1f} GB",
    "read at layer": lambda c: f"{c.layer} of {c.depth}",
    "canvas": lambda c: f"{c.image_size} px",
    "grid": lambda c: f"{c.grid[0]} × {c.grid[1]}",
    "width": lambda c: f"{c.width}",
    "cached per image, bf16 / int8": lambda c: f"{c.image_cache_bf16 / 1e6:.1f} / {c.image_cache_int8 / 1e6:.1f} MB",
    "per question": lambda c: f"{c.question_bf16 / 1e3:.0f} kB",
    "head": lambda c: f"{c.head_parameters / 1e6:.0f} M",
}


def table(models: Sequence[Costs]) -> str:
    """Markdown, a row per model."""
    rows = [[cell(model) for cell in COLUMNS.values()] for model in models]
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
