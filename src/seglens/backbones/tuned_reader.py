"""An MLLM with an adapter: it answers in segmentation tokens, and is read after its last layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from seglens.backbones.answer_templates import AnswerTokens
from seglens.backbones.chat import MLLMChat
from seglens.backbones.mllm import MLLM
from seglens.backbones.tuned_language import AnsweredQuestions, PrefixStates
from seglens.backbones.tuned_model import TunedModel, tensors_on
from seglens.backbones.tuned_vision import VisionRows
from seglens.core.geometry import Frame
from seglens.core.tuning_types import (
    AnswerTemplates,
    Attention,
    Refill,
    TokenizedAnswer,
    TunedInputs,
    TunedReadout,
    Tuning,
)


@dataclass(frozen=True)
class TunedImage:
    """An image after the vision tower; with `prefix` where no question changes it."""

    frame: Frame
    vision: VisionRows
    prefix: PrefixStates | None
    familiar: bool | None = None  # as in `EncodedPrefix`


@final
class TunedBackbone:
    """A `TunedReader`: the MLLM of a chat, read in full through an adapter that is trained.

    Raises ValueError when the MLLM was loaded without the layers of the chat, with a layer left on disk or with one
    that does not attend to all, or when `tuning` and `templates` do not fit it; ImportError without peft."""

    def __init__(
        self,
        chat: MLLMChat,
        tuning: Tuning,
        templates: AnswerTemplates,
        attention: Attention = "causal",
        refill: Refill = "none",
    ):
        mllm, layout, model = chat.mllm, chat.mllm.family.layout, chat.mllm.model
        _check(mllm)
        self.model = TunedModel(mllm, tuning, attention, refill)
        self.tuned, self.adapter = self.model.tuned, self.model.adapter
        self.attention, self.refill = attention, refill
        self.width, self.patch_width = model.config.get_text_config().hidden_size, layout.patch_width
        self.grid, self.shuffle, self.image_size = _largest_square(mllm), layout.shuffle, layout.image_size
        self._chat = replace(chat, mllm=self.tuned)
        self._packed = any(type(part).__name__ == "Linear4bit" for part in model.modules())
        self._first = model.get_output_embeddings().weight.shape[0]  # the id of the first new token
        self._names = tuning.tokens
        names = {name: self._first + n for n, name in enumerate(tuning.tokens)}
        self.answer_tokens = AnswerTokens(mllm.reading, templates, names, _end(mllm))

    @property
    def device(self) -> torch.device:
        return self.tuned.device

    # ---------------------------------------------------------------- inputs

    def pixels(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "3 n m"]:
        """The normalised canvas."""
        return self.tuned.pixels(image)

    def frame(self, image: UInt8[np.ndarray, "h w 3"]) -> Frame:
        """Where an image lies on the canvas."""
        return self.tuned.frame(image)

    def words(
        self, query: str, answer: str | None = None, present: bool = True, why: str | None = None
    ) -> TokenizedAnswer:
        """As `AnswerTokens.example`."""
        return self.answer_tokens.example(query, answer, present, why)

    def conversation(self, request: str, opening: str, items: Sequence[tuple[str, str]]) -> list[TokenizedAnswer]:
        """As `AnswerTokens.conversation`."""
        return self.answer_tokens.conversation(request, opening, items)

    # ---------------------------------------------------------------- reading

    @torch.no_grad()
    def open(self, image: UInt8[np.ndarray, "h w 3"]) -> TunedImage:
        """See an image once."""
        pixels, frame = self.pixels(image)[None], self.frame(image)
        vision = self.model.vision.encode(pixels)
        familiar = self.model.vision.is_familiar(pixels, vision, frame)
        return TunedImage(frame, replace(vision, tower=()), self.model.shared(vision, spoken=False), familiar)

    @torch.no_grad()
    def read(self, image: TunedImage, questions: Sequence[str]) -> TunedReadout:
        """All questions about an opened image in one pass. Raises QuestionError as `Prompts.question_tokens` does."""
        self.answer_tokens.prompts.refuse_none(questions)
        words = [self.answer_tokens.question(question) for question in questions]
        return self.model.read(image.vision, image.prefix, AnsweredQuestions.padded(words, self.device))

    def teach(self, shown: TunedInputs) -> TunedReadout:
        """With gradients, and with `text_loss`. Raises ValueError for a model whose packing keeps no gradients."""
        if self._packed and self.device.type == "cpu":
            raise ValueError(
                "a model that bitsandbytes packed in 4 bits passes no gradients on a CPU; "
                "tune it on a GPU, or load it without quantisation"
            )
        here = tensors_on(shown, self.device, self.tuned.model.dtype)
        return self.model.teach(here, spoken=self.attention == "images" and bool(here.spoken.any()))

    def recompute(self, on: bool) -> None:
        """As `TunedModel.recompute`."""
        self.model.recompute(on)

    # ---------------------------------------------------------------- chatting

    @torch.no_grad()
    def generate(self, image: UInt8[np.ndarray, "h w 3"], question: str, max_new_tokens: int = 128) -> str:
        """The answer of the MLLM with its adapter, through its own processor, greedy; new tokens by their names."""
        tokens = self._chat.generate_tokens(image, question, max_new_tokens).tolist()
        pieces = []
        for new, ids in groupby(tokens, lambda token: token >= self._first):
            if new:
                pieces += [self._names[token - self._first] for token in ids]
            else:
                pieces.append(self.tuned.processor.decode([*ids], skip_special_tokens=True))
        return "".join(pieces).strip()


def _largest_square(mllm: MLLM) -> tuple[int, int]:
    """The grid of every picture or, where tiles are arranged by its shape, that of a square one of most tiles."""
    layout, tiles = mllm.family.layout, mllm.canvas.tiles
    across = layout.across if tiles is None else math.isqrt(tiles)
    return across * layout.tiling.cells, across * layout.tiling.cells


def _end(mllm: MLLM) -> int | None:
    """The id that ends an answer: the tokenizer's own, if the model stops there."""
    stops = mllm.model.generation_config.eos_token_id
    stops = [stops] if isinstance(stops, int) else stops or []
    own = mllm.processor.tokenizer.eos_token_id
    return own if own in stops or not stops else stops[0]


def _check(mllm: MLLM) -> None:
    if not mllm.can_chat:
        raise ValueError(
            "this backbone was loaded with segmentation_only=True, without the layers that answer; "
            "load it again without"
        )
    if any(mllm.tiling.around):
        raise ValueError(
            f"a {mllm.model.config.model_type!r} model is read by LENS only: methods that tune their MLLM show it no "
            "overview beside overlapping crops; choose another model"
        )
    tiler, option = mllm.family.tiler, "image_size" if mllm.canvas.tiles is None else "tiles"
    if mllm.tiling.newlines or (option == "tiles" and tiler is not None and tiler.newlines):
        raise ValueError(
            f"a {mllm.model.config.model_type!r} model in tiles is read by LENS only: methods that tune their MLLM "
            f"take the tiles of an InternVL; choose one, or leave {option} out"
        )
    if any(parameter.is_meta for parameter in mllm.model.parameters()):
        raise ValueError("layers that were left on disk cannot be tuned; give every layer a device in device_map")
    if mllm.unlimited_layers < mllm.depth.whole:
        raise ValueError(
            f"decoder layer {mllm.unlimited_layers} has a sliding window, and every layer must see all that came "
            "before; choose another model"
        )
