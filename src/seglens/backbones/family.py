"""The contract that a family of MLLMs fills: how its models see a canvas, and where the image stands in a prompt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig

from seglens.backbones.tile_rules import Tiler
from seglens.backbones.tiles import Tiling
from seglens.backbones.vision_layout import Layout, Patches, VisionOutput


class Family(ABC):
    """The family's side of one transformers model, which it wraps: `layout` is that of the canvas it is shown.

    All that is the same for every family is elsewhere: `MLLM` gives it images and questions, `Backbone` reads it."""

    tiler: ClassVar[Tiler | None] = None  # where it shows pictures in tiles arranged by their shape
    mutual: ClassVar[bool] = False  # whether the tokens of an image see each other in both directions
    final_norm: ClassVar[str] = "norm"  # the name of the norm after the last decoder layer, in the language model
    row_token: ClassVar[str | None] = None  # that of an image's rows, where it is not the one in chat templates

    def __init__(self, model: Any, layout: Layout):
        self.model, self.layout = model, layout

    def over(self, model: Any) -> Family:
        """The same for another model of the same config."""
        return type(self)(model, self.layout)

    # ---------------------------------------------------------------- before the weights are loaded

    @staticmethod
    @abstractmethod
    def layout_of(config: PreTrainedConfig, image_size: int | None) -> Layout:
        """The layout of a canvas of `image_size` pixels, by default the family's own choice.

        Raises ValueError when the model cannot see a canvas of that size."""

    @staticmethod
    @abstractmethod
    def image_text(processor: Any) -> str:
        """What the processor puts in place of an image, with a single image token for all of them."""

    # ---------------------------------------------------------------- the vision side

    @abstractmethod
    def encode(self, parts: Float[Tensor, "k 3 s s"], tiling: Tiling) -> VisionOutput:
        """The image tokens of the parts of a normalised canvas."""

    @abstractmethod
    def patches(self, pixels: Float[Tensor, "b 3 s s"]) -> Patches:
        """The vision tower's patches of normalised canvases of one tile, or of single tiles, of which `encode` makes
        image tokens."""

    @abstractmethod
    def project(self, merged: Float[Tensor, "b i sv"]) -> Float[Tensor, "b i d"]:
        """Image tokens of merged patches: of one tile, `project(patches(pixels).merged(grid, shuffle))` gives the rows
        of `encode`."""

    @property
    @abstractmethod
    def tower_layers(self) -> Sequence[nn.Module]:
        """The layers of the vision tower that `patches` come through."""

    @property
    @abstractmethod
    def projectors(self) -> Sequence[str]:
        """Names, in the model, of the parts between the vision tower and the language model."""

    # ---------------------------------------------------------------- positions

    @abstractmethod
    def prefix_positions(self, before: int, tiling: Tiling) -> Int[Tensor, "p ..."]:
        """Rotary positions of `before` tokens of text and of the image after them."""

    @abstractmethod
    def chat_positions(self, inputs: Mapping[str, Tensor]) -> Int[Tensor, "1 n ..."]:
        """Rotary positions of the inputs that the processor made of a chat."""
