"""Where a language model is read, and which of its layers that takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedConfig

from seglens.backbones.chat_template import LONGEST_QUESTION
from seglens.backbones.vision_layout import Layout

COPIED = 2  # layers above the one that is read: a head copies them
# By config.model_type, as a share of the layers: LENS section 4.1 (14 of 32) and the authors' other configurations
# (14 of 28, 20 of 28). Elsewhere half; `seglens probe` measures better ones.
READ_SHARE = {"llava": 14 / 32, "llava_onevision": 14 / 28, "qwen2_vl": 20 / 28}
FULL, SLIDING = "full_attention", "sliding_attention"  # among config.layer_types


@dataclass(frozen=True)
class Depth:
    """`layer`: hidden_states[layer] is read; `whole`: the layers of the whole model."""

    layer: int
    whole: int

    @classmethod
    def of(cls, config: PreTrainedConfig, layout: Layout, layer: int | None = None) -> Depth:
        """The depth asked for, by default the family's. Raises ValueError where reading or copying would be wrong."""
        lowest, whole = layout.first_layer, config.get_text_config().num_hidden_layers
        highest = whole - COPIED
        if highest < lowest:
            raise ValueError(
                f"the model has {whole} layers, too few to read one and copy {COPIED} above it; "
                f"choose a model of at least {lowest + COPIED}"
            )
        if layer is None:
            layer = min(max(round(READ_SHARE.get(config.model_type, 0.5) * whole), lowest), highest)
        if not lowest <= layer <= highest:
            raise ValueError(
                f"layer {layer} cannot be read: the model has {whole} layers and LENS copies two above it; "
                f"choose {lowest} to {highest}"
            )
        depth = cls(layer, whole)
        depth._check_attention(config, layout)
        return depth

    def _check_attention(self, config: PreTrainedConfig, layout: Layout) -> None:
        n = unlimited_layers(config, layout)
        if n < self.layer + COPIED:
            kind = _attention_kinds(config)[n]
            limit = f" with a window of {config.get_text_config().sliding_window} tokens" if kind == SLIDING else ""
            raise ValueError(
                f"decoder layer {n} has {kind}{limit}, and every layer up to {self.layer + COPIED - 1} must see all "
                f"that came before: {layout.tiling.tokens} tokens of an image and up to {LONGEST_QUESTION} of a "
                "question; read a lower layer, or choose another model"
            )

    def shorten(self, config: PreTrainedConfig) -> None:
        """Make the config that of a model without the layers that segmenting never runs."""
        text = config.get_text_config()
        text.num_hidden_layers = self.layer + COPIED
        if getattr(text, "layer_types", None) is not None:
            text.layer_types = text.layer_types[: self.layer + COPIED]

    def beyond(self, key: str) -> bool:
        """Is this a weight of one of those layers?"""
        match = re.search(r"^(?:model\.)?(?:language_model\.|text_model\.)?(?:model\.)?layers\.(\d+)\.", key)
        return match is not None and self.layer + COPIED <= int(match[1]) < self.whole


def unlimited_layers(config: PreTrainedConfig, layout: Layout) -> int:
    """How many decoder layers, counted from the first, attend to all that came before.

    A sliding window counts where an image and the longest question fit into it: it then hides nothing."""
    wide = _fits(config, layout)
    kinds = _attention_kinds(config)
    return next((n for n, kind in enumerate(kinds) if kind != FULL and not (wide and kind == SLIDING)), len(kinds))


def window_of(config: PreTrainedConfig, layout: Layout) -> int | None:
    """Tokens in the sliding window of the layers that count as unlimited; None where they have none."""
    kinds = _attention_kinds(config)[: unlimited_layers(config, layout)]
    return config.get_text_config().sliding_window if SLIDING in kinds else None


def _fits(config: PreTrainedConfig, layout: Layout) -> bool:
    window = getattr(config.get_text_config(), "sliding_window", None)
    return window is not None and window >= layout.tiling.tokens + LONGEST_QUESTION


def _attention_kinds(config: PreTrainedConfig) -> Sequence[str]:
    """The kind of attention of each decoder layer."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)  # Qwen2 and later list the kind of every layer
    if kinds is not None:
        return kinds
    return [FULL if getattr(text, "sliding_window", None) is None else SLIDING] * text.num_hidden_layers
