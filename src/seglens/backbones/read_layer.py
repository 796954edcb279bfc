"""Where a language model is read, and which of its layers that takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedConfig

COPIED = 2  # layers above the one that is read: a head copies them
# By config.model_type, as a share of the layers: LENS section 4.1 (14 of 32) and the authors' other configurations
# (14 of 28, 20 of 28). Elsewhere half; `seglens probe` measures better ones.
READ_SHARE = {"llava": 14 / 32, "llava_onevision": 14 / 28, "qwen2_vl": 20 / 28}
FULL = "full_attention"  # among config.layer_types


@dataclass(frozen=True)
class Depth:
    """`layer`: hidden_states[layer] is read; `whole`: the layers of the whole model."""

    layer: int
    whole: int

    @classmethod
    def of(cls, config: PreTrainedConfig, layer: int | None = None, lowest: int = 1) -> Depth:
        """The depth asked for, by default the family's. Raises ValueError where reading or copying would be wrong."""
        whole = config.get_text_config().num_hidden_layers
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
        depth._check_attention(config)
        return depth

    def _check_attention(self, config: PreTrainedConfig) -> None:
        kinds = _attention_kinds(config)
        for n, kind in enumerate(kinds[: self.layer + COPIED]):
            if kind != FULL:
                raise ValueError(
                    f"decoder layer {n} has {kind}, and every layer up to {self.layer + COPIED - 1} must see all "
                    "that came before; read a lower layer, or choose another model"
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


def unlimited_layers(config: PreTrainedConfig) -> int:
    """How many decoder layers, counted from the first, attend to all that came before."""
    kinds = _attention_kinds(config)
    return next((n for n, kind in enumerate(kinds) if kind != FULL), len(kinds))


def _attention_kinds(config: PreTrainedConfig) -> Sequence[str]:
    """The kind of attention of each decoder layer."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)  # Qwen2 and later list the kind of every layer
    if kinds is not None:
        return kinds
    window = getattr(text, "sliding_window", None)
    return [FULL if window is None else f"a sliding window of {window}"] * text.num_hidden_layers
