"""A model as its config alone describes it: its size and shape, known before any weights are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from seglens.backbones.read_layer import Depth
from seglens.backbones.vision_layout import Layout

PACKED_BITS = 4.5  # of NF4 as bitsandbytes packs by default: 4, and a 32-bit scale for every 64 weights


@dataclass(frozen=True)
class Blueprint:
    """The transformers model on the meta device, where it will be read, and the canvas it will see."""

    name: str
    module: Any
    depth: Depth
    layout: Layout

    @classmethod
    def draw(cls, name: str | Path, config: Any, layout: Layout, layer: int | None) -> Blueprint:
        """Raises ValueError when the layer cannot be read."""
        depth, text = Depth.of(config, layout, layer), config.get_text_config()
        # transformers unties words that both parts of a checkpoint bring; only the text config states it
        config.tie_word_embeddings = config.tie_word_embeddings and getattr(text, "tie_word_embeddings", True)
        with torch.device("meta"):
            return cls(str(name), AutoModelForImageTextToText.from_config(config), depth, layout)

    @property
    def family(self) -> str:
        return self.module.config.model_type

    @property
    def text(self) -> Any:
        return self.module.config.get_text_config()

    @property
    def image_tokens(self) -> int:
        """How many tokens stand for an image."""
        return self.layout.tiling.tokens

    def layer_for(self, deepest: int) -> int:
        """The layer to read so that the decoder layer `deepest` is loaded, too: its own choice, or one above that."""
        return self.depth.reaching(deepest, self.module.config)

    def copied_runs(self) -> list[nn.ModuleList]:
        """The decoder layers that a head copies, as `Depth.runs`."""
        return list(map(nn.ModuleList, self.depth.runs(self.module.get_decoder().layers)))

    def parameters(self, segmentation_only: bool = False) -> int:
        return sum(p.numel() for _, p in self._kept(segmentation_only))

    def weight_bytes(self, packed: bool = False, segmentation_only: bool = False) -> int:
        """In bfloat16, or as bitsandbytes packs them in 4 bits: linear layers, but not the one that makes words."""
        head = self.module.get_output_embeddings()
        layers = ((n, m) for n, m in self.module.named_modules() if isinstance(m, nn.Linear) and m is not head)
        small = {f"{name}.weight" for name, _ in layers} if packed else set()
        kept = self._kept(segmentation_only)
        return round(sum(p.numel() * (PACKED_BITS if name in small else 16) for name, p in kept) / 8)

    def _kept(self, segmentation_only: bool) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.module.named_parameters():
            if not (segmentation_only and self.depth.beyond(name)):
                yield name, parameter
