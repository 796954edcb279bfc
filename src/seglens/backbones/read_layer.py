"""Where a language model is read, and which of its layers that takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig

from seglens.backbones.chat_template import LONGEST_QUESTION
from seglens.backbones.vision_layout import Layout

COPIED = 2  # attentions from the layer that is read on: a head copies them
# By config.model_type, as a share of the layers: LENS section 4.1 (14 of 32) and the authors' other configurations
# (14 of 28, 20 of 28). Elsewhere half; `seglens probe` measures better ones.
READ_SHARE = {"llava": 14 / 32, "llava_onevision": 14 / 28, "qwen2_vl": 20 / 28}
FULL, SLIDING = "full_attention", "sliding_attention"  # among config.layer_types
CONVOLUTION = "conv"  # of LFM2: short, along the tokens; all that came before reaches it through the layers below


@dataclass(frozen=True)
class Depth:
    """`layer`: hidden_states[layer] is read; `whole`: the layers of the whole model; `copied`: the layers from there on
    whose attention a head copies, with the convolutions between them."""

    layer: int
    whole: int
    copied: tuple[int, ...]

    @property
    def end(self) -> int:
        """The layers up to the last that is copied: segmenting never runs those above."""
        return self.copied[-1] + 1

    def runs(self, layers: nn.ModuleList) -> list[list[nn.Module]]:
        """Of all decoder layers those that a head copies: a run for each attention, which ends with it."""
        starts = (self.layer, *(n + 1 for n in self.copied[:-1]))
        return [list(layers)[start : n + 1] for start, n in zip(starts, self.copied, strict=True)]

    @classmethod
    def of(cls, config: PreTrainedConfig, layout: Layout, layer: int | None = None) -> Depth:
        """The depth asked for, by default the family's. Raises ValueError where reading or copying would be wrong."""
        lowest, whole = layout.first_layer, config.get_text_config().num_hidden_layers
        attention = attention_layers(config)
        choices = [n for n in attention[: -COPIED + 1] if n >= lowest]
        if not choices:
            raise ValueError(
                f"the model has {whole} layers, too few to read one and copy {COPIED} above it; "
                f"choose a model of at least {lowest + COPIED}"
            )
        if layer is None:
            wanted = READ_SHARE.get(config.model_type, 0.5) * whole
            layer = min(choices, key=lambda n: abs(n - round(wanted)))
        if layer not in choices:
            raise ValueError(
                f"layer {layer} cannot be read: the model has {whole} layers and LENS copies two above it; "
                f"choose {_spelled(choices)}"
            )
        above = attention.index(layer)
        depth = cls(layer, whole, tuple(attention[above : above + COPIED]))
        depth._check_attention(config, layout)
        return depth

    def reaching(self, deepest: int, config: PreTrainedConfig) -> int:
        """The first layer, from this one on, so that what is read and copied includes the decoder layer `deepest`."""
        attention = attention_layers(config)
        above = attention[attention.index(self.layer) :]
        pairs = zip(above, above[COPIED - 1 :], strict=False)
        return next((layer for layer, last in pairs if last >= deepest), self.whole)

    def _check_attention(self, config: PreTrainedConfig, layout: Layout) -> None:
        n = unlimited_layers(config, layout)
        if n < self.end:
            kind = _attention_kinds(config)[n]
            limit = f" with a window of {config.get_text_config().sliding_window} tokens" if kind == SLIDING else ""
            raise ValueError(
                f"decoder layer {n} has {kind}{limit}, and every layer up to {self.end - 1} must see all "
                f"that came before: {layout.tiling.tokens} tokens of an image and up to {LONGEST_QUESTION} of a "
                "question; read a lower layer, or choose another model"
            )

    def shorten(self, config: PreTrainedConfig) -> None:
        """Make the config that of a model without the layers that segmenting never runs."""
        text = config.get_text_config()
        text.num_hidden_layers = self.end
        if getattr(text, "layer_types", None) is not None:
            text.layer_types = text.layer_types[: self.end]

    def beyond(self, key: str) -> bool:
        """Is this a weight of one of those layers?"""
        match = re.search(r"^(?:model\.)?(?:language_model\.|text_model\.)?(?:model\.)?layers\.(\d+)\.", key)
        return match is not None and self.end <= int(match[1]) < self.whole


def unlimited_layers(config: PreTrainedConfig, layout: Layout) -> int:
    """How many decoder layers, counted from the first, attend to all that came before.

    A sliding window counts where an image and the longest question fit into it: it then hides nothing. A short
    convolution counts, too: it hides nothing from the attention after it."""
    unlimited = {FULL, CONVOLUTION, *([SLIDING] if _fits(config, layout) else [])}
    kinds = _attention_kinds(config)
    return next((n for n, kind in enumerate(kinds) if kind not in unlimited), len(kinds))


def attention_layers(config: PreTrainedConfig) -> list[int]:
    """The decoder layers that give a map from words to image, whatever they see: all but convolutions."""
    return [n for n, kind in enumerate(_attention_kinds(config)) if kind != CONVOLUTION]


def readable_depths(config: PreTrainedConfig, layout: Layout) -> tuple[int, ...]:
    """The layers that a head can read."""
    attention = [n for n in attention_layers(config) if n < unlimited_layers(config, layout)]
    return tuple(n for n in attention[: -COPIED + 1] if n >= layout.first_layer)


def _spelled(layers: Sequence[int]) -> str:
    """ "1 to 6", or "2, 5 or 8"."""
    if list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]} to {layers[-1]}"
    return f"{', '.join(map(str, layers[:-1]))} or {layers[-1]}"


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
