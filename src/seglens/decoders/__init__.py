"""Mask decoders by family. A new family is one file and one line of `DECODERS`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from seglens.decoders.base import MaskDecoder
from seglens.decoders.sam import SamDecoder

DECODERS: dict[str, Callable[..., MaskDecoder]] = {"sam": SamDecoder.from_pretrained}  # by config.model_type


def load_decoder(name: str | Path, *, revision: str | None = None, **loading: Any) -> MaskDecoder:
    """Load the mask decoder in a folder or at a hub id, whatever its family. `loading` goes to transformers.

    Raises ValueError when the family is not supported, naming those that are, or when the weights do not fit."""
    family = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False).model_type
    if family not in DECODERS:
        near = difflib.get_close_matches(family, DECODERS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} is a {family!r} model; supported mask decoders: {', '.join(DECODERS)}{hint}")
    return DECODERS[family](name, revision=revision, **loading)


__all__ = ["DECODERS", "MaskDecoder", "load_decoder"]
