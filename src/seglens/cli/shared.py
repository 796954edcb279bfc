"""What commands share: options, printing, loading."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

Model = Annotated[str, typer.Option("--model", help="A head folder, a hub id, or 'embedded'.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps, ...")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def say(text: str) -> None:
    print(text, file=sys.stderr)


def emit(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def load_segmenter(model: str, device: str, **options: Any) -> Any:
    from seglens.backbones import hide_loading_bars
    from seglens.segmenter import Segmenter

    hide_loading_bars()
    return Segmenter.from_pretrained(model, device=device, **options)


def load_mllm(name: str, device: str, **options: Any) -> Any:
    """An MLLM without a head: in fp32 on a CPU, elsewhere as its files are."""
    import torch

    from seglens.backbones import hide_loading_bars, load_backbone
    from seglens.checkpoint import Origin
    from seglens.parts import usable_device

    hide_loading_bars()
    where = usable_device(device)
    loaded = load_backbone(Origin.of(name).resolve(), dtype=torch.float32 if where.type == "cpu" else "auto", **options)
    loaded.module.to(where)
    return loaded
