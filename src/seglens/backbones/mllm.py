"""One loaded MLLM with its processor: how it is given images and questions, up to its first decoder layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from seglens.backbones.chat_template import Prompts, QuestionError
from seglens.backbones.familiarity import Familiarity
from seglens.backbones.family import Family
from seglens.backbones.layers import DecoderLayers
from seglens.backbones.positions import after
from seglens.backbones.read_layer import Depth, unlimited_layers, window_of
from seglens.backbones.tiles import Tiling
from seglens.backbones.uncropped import crops
from seglens.backbones.vision_layout import VisionOutput
from seglens.core.batched_parts import of_image
from seglens.core.geometry import LETTERBOX, Canvas, Frame


@dataclass(frozen=True)
class ImageRows:
    """An image as the first decoder layer is given it, after the text before it; `later` as in `VisionOutput`."""

    frame: Frame
    rows: Float[Tensor, "1 p d"]
    positions: Int[Tensor, "1 p ..."]
    later: tuple[Float[Tensor, "1 i d"], ...]
    familiar: bool | None


@dataclass(frozen=True)
class QuestionRows:
    """Questions about an image as the first decoder layer is given them."""

    rows: Float[Tensor, "1 q t d"]
    positions: Int[Tensor, "1 q t ..."]
    mask: Bool[Tensor, "1 q t"]


@final
@dataclass(frozen=True, eq=False)
class MLLM:
    """The transformers model (in `family`), its processor and the conversations in which it is asked.

    It keeps nothing that was made of the model's layers: what runs them takes those of `layers`. So a copy `over`
    another model, one with an adapter, runs the layers of that model and no others."""

    family: Family
    processor: Any
    depth: Depth
    prompts: Prompts  # of the chat
    reading: Prompts  # the conversation in which it is read to segment, perhaps with a system text
    canvas: Canvas = LETTERBOX
    familiarity: Familiarity | None = None
    name: str = ""  # where it was loaded from
    revision: str | None = None

    @classmethod
    def of(
        cls,
        family: Family,
        processor: Any,
        depth: Depth,
        *,
        canvas: Canvas = LETTERBOX,
        name: str = "",
        revision: str | None = None,
    ) -> MLLM:
        """Frozen, with what its folder `name` holds beside the weights."""
        family.model.requires_grad_(False).eval()
        prompts = Prompts(processor, family.image_text(processor), name, family.row_token)
        familiarity = Familiarity.load(name) if name else None
        return cls(family, processor, depth, prompts, prompts, canvas, familiarity, name, revision)

    def over(self, model: Any) -> MLLM:
        """The same with another model of the same config."""
        return replace(self, family=self.family.over(model))

    # ---------------------------------------------------------------- the model

    @property
    def model(self) -> Any:
        """The transformers model."""
        return self.family.model

    @property
    def device(self) -> torch.device:
        """Where inputs go: where the embedding of words is."""
        return self.model.get_input_embeddings().weight.device

    @property
    def tiling(self) -> Tiling:
        return self.family.layout.tiling

    @property
    def can_chat(self) -> bool:
        return self.model.config.get_text_config().num_hidden_layers == self.depth.whole

    @property
    def unlimited_layers(self) -> int:
        """How many decoder layers, from the first, attend to all that came before."""
        return unlimited_layers(self.model.config, self.family.layout)

    @property
    def mutual(self) -> int:
        """How many rows at the end of a prefix see each other in both directions: those of the image, or none."""
        return self.tiling.tokens if self.family.mutual else 0

    @property
    def language(self) -> Any:
        """The language model: its decoder layers, their rotary positions and the norm after the last of them."""
        return self.model.get_decoder()

    @property
    def final_norm(self) -> nn.Module:
        """The norm after the last decoder layer."""
        return self.language.get_submodule(self.family.final_norm)

    def layers(self, count: int | None = None, recompute: bool = False) -> DecoderLayers:
        """The first `count` decoder layers, by default all; `recompute` as in `DecoderLayers`."""
        return DecoderLayers(self.language.layers[:count], self.language.rotary_emb, self.mutual, recompute)

    @cached_property
    def crops(self) -> bool:
        """Whether the processor cuts off the ends of long pictures."""
        return crops(self.processor.image_processor)

    # ---------------------------------------------------------------- images

    def frame(self, image: UInt8[np.ndarray, "h w 3"]) -> Frame:
        """Where an image lies on the canvas."""
        return self.canvas.frame(image)

    @property
    def needed_side(self) -> int | None:
        """Pixels along a side of a picture beyond which the canvas shows no more of it; None where tiles are arranged
        by its size."""
        return self.canvas.needed_side(self.family.layout.image_size)

    def tiling_of(self, frame: Frame) -> Tiling:
        """The tiles of an image's canvas, and the grid of its tokens."""
        tiler, tiles = self.family.tiler, self.canvas.tiles
        if tiler is None or tiles is None:
            return self.tiling
        return tiler.arrange(self.model.config, frame.height, frame.width, tiles)

    def parts(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "k 3 s s"]:
        """The normalised canvas as the vision tower sees it: in one piece, or in tiles with an overview."""
        tiler, tiles = self.family.tiler, self.canvas.tiles
        if tiler is None or tiles is None:
            return self.tiling.cut(self.pixels(image)[None])[0]
        return tiler.cut(self.model.config, self.processor, image, tiles).to(self.device, self.model.dtype)

    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> VisionOutput:
        """The image tokens of an image."""
        return self.family.encode(self.parts(image), self.tiling_of(self.frame(image)))

    def pixels(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "3 n m"]:
        """The normalised canvas. Both encoders see one frame; by default padding is of the mean colour that CLIP's
        had."""
        if self.canvas.tiles is not None:
            return self.tiling_of(self.frame(image)).joined(self.parts(image))
        images = self.processor.image_processor
        mean, std = (255 * torch.tensor(v) for v in (images.image_mean, images.image_std))
        pixels = self.canvas.render(image, self.family.layout.image_size, tuple(mean.tolist()), images.resample)
        # in this order padding is 0 and not a rounding error, which norms after a layer without bias would blow up
        return ((pixels - mean[:, None, None]) / std[:, None, None]).to(self.device, self.model.dtype)

    @torch.no_grad()
    def embed_image(self, image: UInt8[np.ndarray, "h w 3"]) -> ImageRows:
        """The prefix: the text before an image and the image itself."""
        return self._prefix(self.frame(image), self.encode(image))

    def _prefix(self, frame: Frame, vision: VisionOutput) -> ImageRows:
        words = torch.tensor([self.reading.before()], dtype=torch.long, device=self.device)
        embedded = self.model.get_input_embeddings()(words)
        rows = torch.cat([embedded, vision.rows.to(embedded)], 1)  # the image ends the prefix
        positions = self.family.prefix_positions(words.shape[1], self.tiling_of(frame))[None].to(self.device)
        return ImageRows(frame, rows, positions, vision.later, self.is_familiar(vision.tower, frame))

    @property
    def batches(self) -> bool:
        """Whether images share a pass: the tokens of all are the cells of one tile, so that their prefixes are of one
        length."""
        by_shape = self.family.tiler is not None and self.canvas.tiles is not None
        return not by_shape and self.tiling.tokens == self.tiling.cells**2

    @torch.no_grad()
    def embed_images(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[ImageRows]:
        """`embed_image` of each, to rounding, with one pass of the vision tower where the model `batches`."""
        if not self.batches or len(images) == 1:
            return [self.embed_image(image) for image in images]
        patches = self.family.patches(torch.stack([self.pixels(image) for image in images]))
        layout = self.family.layout
        rows = self.family.project(patches.merged(layout.grid, layout.shuffle))
        return [
            self._prefix(
                self.frame(image),
                VisionOutput(rows[k : k + 1], of_image(patches.later, k), of_image(patches.tower, k)),
            )
            for k, image in enumerate(images)
        ]

    def is_familiar(self, tower: Sequence[Float[Tensor, "1 n v"]], frame: Frame) -> bool | None:
        """Whether a picture is of the kind that the model was made for, by the tower's states of its canvas; None for
        a model whose folder holds no statistic of that."""
        return None if self.familiarity is None else self.familiarity.is_familiar(tower, frame)

    @torch.no_grad()
    def familiar(self, image: UInt8[np.ndarray, "h w 3"]) -> bool | None:
        """As `is_familiar`, of a picture that was not opened."""
        if self.familiarity is None:
            return None
        return self.is_familiar(self.encode(image).tower, self.frame(image))

    # ---------------------------------------------------------------- questions

    @torch.no_grad()
    def embed_questions(self, questions: Sequence[str], prefix_positions: Int[Tensor, "1 p ..."]) -> QuestionRows:
        """Questions after the prefix of an image, padded on the right.

        Raises QuestionError as `Prompts.question_tokens` does."""
        tokens = self.reading.question_tokens(questions)
        longest = max(map(len, tokens))
        self.check_window(prefix_positions.shape[1] + longest)
        pad = self.processor.tokenizer.pad_token_id or 0
        ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in tokens], device=self.device)
        mask = torch.tensor([[k < len(row) for k in range(longest)] for row in tokens], device=self.device)[None]
        positions = after(prefix_positions, len(tokens), longest)
        return QuestionRows(self.model.get_input_embeddings()(ids)[None], positions, mask)

    def check_window(self, tokens: int) -> None:
        """Raises QuestionError for more tokens, with those of the image, than a sliding window of its layers holds."""
        window = window_of(self.model.config, self.family.layout)
        if window is not None and tokens > window:
            raise QuestionError(
                f"got {tokens} tokens with those of the image, and the sliding windows of the model's layers hold "
                f"{window}; shorten the question, its answer or the system text"
            )

    def read_tokens(self, question: str, frame: Frame) -> int:
        """Tokens of a question with its image, as they are read. Raises QuestionError as `Prompts.after` does."""
        return len(self.reading.before()) + self.tiling_of(frame).tokens + len(self.reading.after(question))
