"""Mask decoders by family. A new family is one file and one line of `DECODERS`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from seglens.core.names import did_you_mean
from seglens.decoders.base import MaskDecoder
from seglens.decoders.sam import SamDecoder
from seglens.decoders.sam2 import Sam2Decoder
from seglens.model_files.strict_loading import HUB, checked_options, reaching, refuse_adapter

DECODERS: dict[str, type[MaskDecoder]] = {  # by config.model_type
    "sam": SamDecoder,
    "sam2": Sam2Decoder,
    "sam2_video": Sam2Decoder,  # what the hub's SAM 2 checkpoints call themselves
}


def load_decoder(name: str | Path, *, revision: str | None = None, **loading: Any) -> MaskDecoder:
    """Load the mask decoder in a folder or at a hub id, whatever its family. `loading` goes to transformers.

    Raises ValueError when the family is not supported, naming those that are, or when the weights do not fit."""
    refuse_adapter(name)
    loading = checked_options(loading)
    where = {key: loading[key] for key in HUB if key in loading}
    return DECODERS[_family(name, revision, **where)].from_pretrained(name, revision=revision, **loading)


def draw_decoder(name: str | Path, *, revision: str | None = None) -> MaskDecoder:
    """The same on the meta device: its shapes from the config alone, without weights."""
    kind = DECODERS[_family(name, revision)]
    config = kind.model.config_class.from_pretrained(name, revision=revision, trust_remote_code=False)
    with torch.device("meta"):
        return kind(kind.model(config), name=str(name), revision=revision)


def _family(name: str | Path, revision: str | None, **where: Any) -> str:
    with reaching(name):
        family = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False, **where).model_type
    if family not in DECODERS:
        hint = did_you_mean(family, DECODERS)
        raise ValueError(f"{name} is a {family!r} model; supported mask decoders: {', '.join(DECODERS)}{hint}")
    return family


__all__ = ["DECODERS", "MaskDecoder", "draw_decoder", "load_decoder"]
