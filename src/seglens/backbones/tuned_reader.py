"""An MLLM with an adapter: it answers in segmentation tokens, and is read behind its last layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from seglens.backbones.answer_templates import AnswerTokens
from seglens.backbones.base import Backbone
from seglens.backbones.layers import DecoderLayers, sight_mask
from seglens.backbones.lora import attach
from seglens.backbones.positions import after
from seglens.backbones.read_layer import whole_sight
from seglens.backbones.transformers_cache import Pair
from seglens.backbones.vision_layout import Patches
from seglens.core.geometry import Frame
from seglens.core.types import AnswerTemplates, Attention, Reading, Refill, Shown, Tuning, Words


@dataclass(frozen=True)
class Vision:
    """What the vision side says of canvases, and the prefix as the first decoder layer is given it."""

    patches: Float[Tensor, "b f v"]
    given: Float[Tensor, "b i d"]
    refilled: Float[Tensor, "b f d"] | None
    later: tuple[Float[Tensor, "b i d"], ...]
    rows: Float[Tensor, "b p d"]
    positions: Int[Tensor, "b p ..."]
    tower: tuple[Float[Tensor, "b n v"], ...] = ()  # as in `Patches`


@dataclass(frozen=True)
class Begun:
    """A prefix that no question changes, read once for all of them: its image tokens behind the last layer and the
    token in front of them, and the keys and values of every layer."""

    image: Float[Tensor, "b i d"]
    before: Float[Tensor, "b d"] | None
    memory: Sequence[Pair]


@dataclass(frozen=True)
class TunedImage:
    """An image that was seen once; `begun` where no question changes the prefix."""

    frame: Frame
    seen: Vision
    begun: Begun | None
    familiar: bool | None = None  # as in `OpenImage`


@dataclass(frozen=True)
class TunedQuestions:
    """Questions with their answers, as in `Shown`."""

    words: Int[Tensor, "b q t"]
    mask: Bool[Tensor, "b q t"]
    places: Int[Tensor, "b q k"]
    spoken: Bool[Tensor, "b q"]


class TunedBackbone:
    """A `TunedReader`: a backbone's MLLM, read in full through an adapter of its own.

    Raises ValueError when the backbone was loaded without the layers that talk, with a layer left on disk or with one
    that does not see all, or when `tuning` and `speech` do not fit it; ImportError without peft."""

    def __init__(
        self,
        backbone: Backbone,
        tuning: Tuning,
        speech: AnswerTemplates,
        attention: Attention = "causal",
        refill: Refill = "none",
    ):
        _check(backbone)
        self._tuned, adapter = attach(backbone, tuning)
        self._sees_anew = tuning.vision_rank > 0
        self.adapter: nn.Module = adapter
        self.attention, self.refill = attention, refill
        self.width, self.patch_width = backbone.width, backbone.patch_width
        self.grid, self.shuffle, self.image_size = backbone.grid, backbone.shuffle, backbone.image_size
        self.tiling = replace(backbone.tiling, overview=False)
        self._dtype = backbone.model.dtype
        self._packed = any(type(part).__name__ == "Linear4bit" for part in backbone.model.modules())
        self._first = backbone.model.get_output_embeddings().weight.shape[0]  # the id of the first new token
        self._names = tuning.tokens
        language = self._tuned.model.get_decoder()
        self._layers, self._norm = DecoderLayers(language.layers, language.rotary_emb), language.norm
        names = {name: self._first + n for n, name in enumerate(tuning.tokens)}
        self.script = AnswerTokens(backbone.reading, speech, names, _end(backbone))

    @property
    def device(self) -> torch.device:
        return self._tuned.device

    # ---------------------------------------------------------------- what it is shown

    def pixels(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "3 n n"]:
        """The normalised canvas."""
        return self._tuned.pixels(image)

    def frame(self, image: UInt8[np.ndarray, "h w 3"]) -> Frame:
        """Where an image lies on the canvas."""
        return self._tuned.canvas.frame(image)

    def words(self, query: str, answer: str | None = None, present: bool = True, why: str | None = None) -> Words:
        """As `AnswerTokens.lesson`."""
        return self.script.lesson(query, answer, present, why)

    def conversation(self, request: str, opening: str, items: Sequence[tuple[str, str]]) -> list[Words]:
        """As `AnswerTokens.conversation`."""
        return self.script.conversation(request, opening, items)

    # ---------------------------------------------------------------- reading

    @torch.no_grad()
    def open(self, image: UInt8[np.ndarray, "h w 3"]) -> TunedImage:
        """See an image once."""
        pixels, frame = self.pixels(image)[None], self.frame(image)
        seen = self._see(pixels)
        begun = self._begin(seen) if self.attention in ("causal", "images") else None
        return TunedImage(frame, replace(seen, tower=()), begun, self._knows(pixels, seen, frame))

    @torch.no_grad()
    def read(self, image: TunedImage, questions: Sequence[str]) -> Reading:
        """All questions about an opened image in one pass. Raises QuestionError as `Prompts.to_read` does."""
        self.script.prompts.refuse_none(questions)
        said = [self.script.question(question) for question in questions]
        return self._read(image.seen, image.begun, _asked(said, self.device))

    def _knows(self, pixels: Float[Tensor, "1 3 n n"], seen: Vision, frame: Frame) -> bool | None:
        """An adapter of the vision tower changes what a statistic of it was made of; tiles are no whole picture."""
        if self._sees_anew or self._tuned.familiarity is None:
            return None
        if self.tiling.across == 1:
            return self._tuned.knows(seen.tower, frame)
        overview = replace(self.tiling, overview=True).cut(pixels)[:, -1]
        return self._tuned.knows(self._tuned.patches(overview).tower, frame)

    def teach(self, shown: Shown) -> Reading:
        """With gradients, and with `text_loss`. Raises ValueError for a model whose packing keeps no gradients."""
        if self._packed and self.device.type == "cpu":
            raise ValueError(
                "a model that bitsandbytes packed in 4 bits passes no gradients on a CPU; "
                "tune it on a GPU, or load it without quantisation"
            )
        seen = self._see(shown.pixels.to(self.device, self._dtype))
        words, mask, places, spoken, learnt = (
            v.to(self.device) for v in (shown.words, shown.mask, shown.places, shown.spoken, shown.learnt)
        )
        # spoken questions are read causally, whatever the attention
        alone = self.attention == "causal" or (self.attention == "images" and not bool(spoken.any()))
        begun = self._begin(seen) if alone else None
        return self._read(seen, begun, TunedQuestions(words, mask, places, spoken), learnt)

    def _see(self, pixels: Float[Tensor, "b 3 n n"]) -> Vision:
        patches = self._look(pixels)
        merged = patches.merged(self.grid, self.shuffle)
        given = [merged] if self.refill == "none" else [merged, patches.refilled(self.grid, self.shuffle, self.refill)]
        given, *refilled = self._tuned.project(torch.cat(given, 1)).split([part.shape[1] for part in given], 1)
        before = torch.tensor([self._tuned.reading.before()], dtype=torch.long, device=self.device)
        words = self._tuned.model.get_input_embeddings()(before).expand(len(pixels), -1, -1)
        image = given[:, self.tiling.places.argsort().to(given.device)]  # in the order of the prompt
        rows = torch.cat([words, image.to(words)], 1)
        positions = self._tuned.prefix_positions(before.shape[1])[: rows.shape[1]][None]  # fewer without an overview
        return Vision(
            patches.rows,
            given,
            refilled[0] if refilled else None,
            patches.later,
            rows,
            positions.to(self.device).expand(len(pixels), *positions.shape[1:]),
            patches.tower,
        )

    def _look(self, pixels: Float[Tensor, "b 3 n n"]) -> Patches:
        """The patches of canvases, seen tile by tile."""
        if self.tiling.across == 1:
            return self._tuned.patches(pixels)
        return Patches(self.tiling.plane(self._tuned.patches(self.tiling.cut(pixels).flatten(0, 1)).rows))

    def _begin(self, seen: Vision) -> Begun:
        image = seen.given.shape[1] if self.attention == "images" else 0
        rows, memory = self._layers.prefix(seen.rows, seen.positions, seen.later, image)
        return Begun(*self._image(self._norm(rows).to(self.device), rows.shape[1]), memory)

    def _image(
        self, states: Float[Tensor, "b l d"], end: int
    ) -> tuple[Float[Tensor, "b i d"], Float[Tensor, "b d"] | None]:
        """The image tokens of a prefix of `end` rows in raster order, and the token in front of the first; tiles, whose
        tokens stand in another order, have none."""
        first = end - self.tiling.tokens
        before = states[:, first - 1] if first and self.tiling.across == 1 else None
        return states[:, first + self.tiling.places.to(states.device)], before

    def _read(self, seen: Vision, begun: Begun | None, asked: TunedQuestions, learnt: Tensor | None = None) -> Reading:
        words = self._tuned.model.get_input_embeddings()(asked.words)
        positions = after(seen.positions, *asked.words.shape[1:])
        if begun is not None:
            states = self._norm(self._layers.questions(words, positions, asked.mask, begun.memory)).to(self.device)
            image, before = begun.image[:, None], begun.before
        else:
            image, states, before = self._run_whole(seen, words, positions, asked)
        segment = _pick(states, (asked.places - 1).clamp(min=0))
        head = self._tuned.model.get_output_embeddings()
        return Reading(
            patches=seen.patches,
            given=seen.given,
            refilled=seen.refilled,
            image=image,
            segment=segment,
            grid=self.grid,
            shuffle=self.shuffle,
            choice=head(segment[:, :, 0]).to(self.device),
            text_loss=None if learnt is None else _text_loss(states, head, asked.words, learnt),
            before=before,
        )

    def _run_whole(
        self, seen: Vision, words: Float[Tensor, "b q t d"], positions: Int[Tensor, "b q t ..."], asked: TunedQuestions
    ) -> tuple[Float[Tensor, "b q i d"], Float[Tensor, "b q t d"], Float[Tensor, "b d"] | None]:
        """Every question behind a prefix of its own, which it changes."""
        (_, p, _), i, q = seen.rows.shape, seen.given.shape[1], words.shape[1]
        rows = torch.cat([repeat(seen.rows, "b p d -> b q p d", q=q), words], 2).flatten(0, 1)
        places = torch.cat([repeat(seen.positions, "b p ... -> b q p ...", q=q), positions], 2).flatten(0, 1)
        sees = sight_mask(self.attention, p, i, asked.mask, asked.places, asked.spoken)
        later = [repeat(added, "b i d -> (b q) i d", q=q) for added in seen.later]
        states = self._norm(self._layers.whole(rows, places, sees, later, p)).to(self.device)
        image, before = self._image(states, p)
        image, words = (rearrange(x, "(b q) l d -> b q l d", q=q) for x in (image, states[:, p:]))
        return image, words, None if before is None else before[::q]  # no question changes what comes before the image

    # ---------------------------------------------------------------- chatting

    @torch.no_grad()
    def generate(self, image: UInt8[np.ndarray, "h w 3"], question: str, max_new_tokens: int = 128) -> str:
        """The answer of the MLLM with its adapter, through its own processor, greedy; new tokens by their names."""
        said = self._tuned.say(image, question, max_new_tokens).tolist()
        pieces = []
        for new, ids in groupby(said, lambda token: token >= self._first):
            if new:
                pieces += [self._names[token - self._first] for token in ids]
            else:
                pieces.append(self._tuned.processor.decode([*ids], skip_special_tokens=True))
        return "".join(pieces).strip()


def _asked(said: Sequence[Words], device: torch.device) -> TunedQuestions:
    """Questions about one image, padded on the right."""
    rows = [torch.tensor(words.ids, device=device) for words in said]
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).bool()
    places = torch.tensor([words.places for words in said], device=device)
    spoken = torch.tensor([words.spoken for words in said], device=device)
    return TunedQuestions(pad_sequence(rows, batch_first=True)[None], mask[None], places[None], spoken[None])


def _pick(states: Float[Tensor, "b q t d"], places: Int[Tensor, "b q k"]) -> Float[Tensor, "b q k d"]:
    return states.gather(2, places[..., None].expand(-1, -1, -1, states.shape[-1]))


def _text_loss(
    states: Float[Tensor, "b q t d"], head: nn.Module, words: Int[Tensor, "b q t"], learnt: Bool[Tensor, "b q t"]
) -> Float[Tensor, "b q"]:
    """Cross-entropy of each learnt token in the state before it, mean over those of a question; 0 where none is."""
    b, q, t = (learnt[:, :, 1:]).nonzero(as_tuple=True)  # words over all of the vocabulary only where they are learnt
    logits = head(states[b, q, t]).to(states.device)
    losses = F.cross_entropy(logits.float(), words[b, q, t + 1], reduction="none")
    total = losses.new_zeros(learnt.shape[:2]).index_put((b, q), losses, accumulate=True)
    return total / learnt[:, :, 1:].sum(-1).clamp(min=1)


def _end(backbone: Backbone) -> int | None:
    """The id that ends an answer: the tokenizer's own, if the model stops there."""
    stops = backbone.model.generation_config.eos_token_id
    stops = [stops] if isinstance(stops, int) else stops or []
    own = backbone.processor.tokenizer.eos_token_id
    return own if own in stops or not stops else stops[0]


def _check(backbone: Backbone) -> None:
    model = backbone.model
    if not backbone.can_chat:
        raise ValueError(
            "this backbone was loaded with segmentation_only=True, without the layers that answer; "
            "load it again without"
        )
    if backbone.tiling.newlines:
        raise ValueError(
            f"a {model.config.model_type!r} model in tiles is read by LENS only: methods that tune their MLLM take the "
            "tiles of an InternVL; choose one, or leave image_size out"
        )
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError("layers that were left on disk cannot be tuned; give every layer a device in device_map")
    if whole_sight(model.config) < backbone.depth:
        raise ValueError(
            f"decoder layer {whole_sight(model.config)} has a sliding window, and every layer must see all that came "
            "before; choose another model"
        )
