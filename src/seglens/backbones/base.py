"""What every backbone is: a frozen MLLM that can be read at one layer, and that still talks as before."""

from __future__ import annotations

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor, nn
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, PreTrainedConfig

from seglens.backbones.chat_prefix import ChatPrefix, continuations, hear
from seglens.backbones.familiarity import Familiarity
from seglens.backbones.generation import GeneratedText, GenerationOptions, StreamingCriterion, before_stop
from seglens.backbones.layers import DecoderLayers, clone_layers
from seglens.backbones.positions import after
from seglens.backbones.processors import load_processor, processor_hash, text_hash
from seglens.backbones.prompts import PROBES, Prompts, QuestionError
from seglens.backbones.read_layer import COPIED, Depth, whole_sight
from seglens.backbones.transformers_cache import Pair
from seglens.backbones.uncropped import crops, squared
from seglens.backbones.vision_layout import Layout, Patches, Seen
from seglens.core.geometry import LETTERBOX, Canvas, Frame
from seglens.core.interruption import safe_point
from seglens.core.types import AnswerTemplates, Attention, Readout, Refill, Tuning
from seglens.model_files.strict_loading import HUB, checked_options, load_strict

if TYPE_CHECKING:
    from seglens.backbones.attention_maps import HeadReader
    from seglens.backbones.tuned_reader import TunedBackbone

Images = Sequence[UInt8[np.ndarray, "_ _ 3"]]  # each of its own size
ATTENTION = ("eager", "sdpa")  # the kinds that take a mask of who sees whom


@dataclass(frozen=True)
class ImageRows:
    """An image as the first decoder layer is given it, behind the text before it; `later` as in `Seen`."""

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


@dataclass(frozen=True)
class OpenImage:
    """An image the backbone has seen: its prefix at the read layer, and the keys and values below it."""

    frame: Frame
    prefix: Float[Tensor, "1 p d"]
    positions: Int[Tensor, "1 p ..."]
    memory: Sequence[Pair]
    familiar: bool | None = None  # whether the picture is of the kind that the model was made for; None: it cannot say


class Backbone(ABC):
    """A frozen multimodal LLM. Opening an image costs one partial pass; each question costs only its own tokens.

    Wraps a transformers model and its processor. A family says how it renders the canvas, what it sees there, where the
    image's tokens stand and what the processor writes around them; all else is the same for every family."""

    # ---------------------------------------------------------------- what a family says

    @staticmethod
    @abstractmethod
    def layout(config: PreTrainedConfig, image_size: int | None) -> Layout:
        """Of a canvas of `image_size` pixels, by default the family's own choice.

        Raises ValueError when the model cannot see a canvas of that size."""

    @abstractmethod
    def see(self, pixels: Float[Tensor, "3 s s"]) -> Seen:
        """What the vision side says of the normalised canvas."""

    @abstractmethod
    def prefix_positions(self, before: int) -> Int[Tensor, "p ..."]:
        """Rotary positions of `before` tokens of text and of the image behind them."""

    @staticmethod
    @abstractmethod
    def image_text(processor: Any) -> str:
        """What the processor puts in place of an image, with a single image token for all of them."""

    @abstractmethod
    def patches(self, pixels: Float[Tensor, "b 3 s s"]) -> Patches:
        """What the vision tower says of normalised canvases of one tile, or of single tiles, where `see` goes on to the
        image tokens."""

    @abstractmethod
    def project(self, merged: Float[Tensor, "b i sv"]) -> Float[Tensor, "b i d"]:
        """Image tokens of merged patches: of one tile, `project(patches(pixels).merged(grid, shuffle))` is what `see`
        says."""

    @property
    @abstractmethod
    def tower_layers(self) -> Sequence[nn.Module]:
        """The layers of the vision tower that `patches` come through."""

    @property
    @abstractmethod
    def projectors(self) -> Sequence[str]:
        """Names, in the model, of what stands between the vision tower and the language model."""

    # ---------------------------------------------------------------- loading

    def __init__(
        self,
        model: Any,
        processor: Any,
        depth: Depth,
        image_size: int | None = None,
        name: str = "",
        revision: str | None = None,
        canvas: Canvas = LETTERBOX,
    ):
        self.model, self.processor, self.canvas = model.requires_grad_(False).eval(), processor, canvas
        self.name, self.revision = name, revision  # where it was loaded from
        self.as_is = False  # chat shows the processor every picture as it came, even where it crops
        self.layer, self.depth = depth.layer, depth.whole  # hidden_states[layer] is what it reads
        layout, text = self.layout(model.config, image_size), model.config.get_text_config()
        self.image_size, self.grid, self._first_layer = layout.image_size, layout.grid, layout.first_layer
        self.patch_width, self.shuffle, self.tiling = layout.patch_width, layout.shuffle, layout.tiling
        self.width, self.feed_forward, self.heads = text.hidden_size, text.intermediate_size, text.num_attention_heads
        self._below = DecoderLayers(self._language.layers[: self.layer], self._language.rotary_emb)
        self.familiarity = Familiarity.load(name) if name else None
        self.prompts = Prompts(processor, self.image_text(processor), name)
        self.reading = self.prompts  # the conversation in which it is read to segment; see `told`

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        layer: int | None = None,
        image_size: int | None = None,
        segmentation_only: bool = False,
        revision: str | None = None,
        as_is: bool = False,
        canvas: Canvas = LETTERBOX,
        **loading: Any,
    ) -> Backbone:
        """Load from a folder or a hub id; safetensors only, no remote code. `loading` goes to transformers
        (`dtype`, `device_map`, `quantization_config`, `attn_implementation`, `local_files_only`, ...).

        `image_size` is the canvas's side in pixels, for families that see images of any size; `canvas` says how
        pictures come to it, except in chat. `segmentation_only` leaves out every layer that segmenting never runs: the
        model can then not chat. `as_is` shows pictures in the chat to a processor that crops as they came (see `pads`).
        Raises ValueError when the layer, the size or the weights do not fit the model."""
        loading = checked_options(loading)
        where = {"revision": revision, **{key: loading[key] for key in HUB if key in loading}}
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **where)
        layout = cls.layout(config, image_size)  # a wrong size is told before the weights are read
        depth = Depth.of(config, layer, layout.first_layer)
        if segmentation_only:
            depth.shorten(config)
        model = load_strict(
            MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)],
            name,
            config=config,
            revision=revision,
            needless=depth.beyond if segmentation_only else lambda key: False,
            trust_remote_code=False,
            **loading,
        )
        attention = model.config.get_text_config()._attn_implementation
        if attention not in ATTENTION:
            raise ValueError(
                f"attn_implementation={attention!r} takes no mask of who sees whom; choose {' or '.join(ATTENTION)}"
            )
        made = cls(model, load_processor(name, config, **where), depth, image_size, str(name), revision, canvas)
        made.as_is = as_is
        return made

    @property
    def module(self) -> nn.Module:
        """The transformers model itself, frozen."""
        return self.model

    @property
    def device(self) -> torch.device:
        """Where inputs go: where the embedding of words is."""
        return self.model.get_input_embeddings().weight.device

    @property
    def can_chat(self) -> bool:
        return self.model.config.get_text_config().num_hidden_layers == self.depth

    @property
    def family(self) -> str:
        """By its config: "llava", "internvl", ..."""
        return self.model.config.model_type

    def told(self, system: str | None) -> Backbone:
        """The same model, which is told a system text before every image that it reads to segment; itself for None.
        The chat is not told.

        Raises ValueError when its chat template leaves system texts out."""
        if system is None:
            return self
        made = copy.copy(self)
        made.reading = self.prompts.told(system)
        return made

    @property
    def readable(self) -> range:
        """The layers k at which a head can read hidden_states[k] and copy what follows."""
        return range(self._first_layer, whole_sight(self.model.config) - COPIED + 1)

    @property
    def _language(self) -> Any:
        return self.model.get_decoder()

    def signature(self) -> dict[str, str | int]:
        """All that decides the numbers of a reading, other than the weights: the same in every process."""
        return {
            "family": self.family,
            "layer": self.layer,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "image_size": self.image_size,
            "grid": "x".join(map(str, self.grid)),
            "frame": self.canvas.name,
            "packing": self._packing(),
            "processor": processor_hash(self.processor),
            "template": text_hash(self.reading.text(PROBES[0])),
        }

    def _packing(self) -> str:
        """What the weights were packed with, if anything."""
        packed = getattr(self.model.config, "quantization_config", None)
        said = packed if packed is None or isinstance(packed, dict) else packed.to_dict()
        return "none" if said is None else text_hash(json.dumps(said, sort_keys=True, default=str))

    # ---------------------------------------------------------------- reading

    @torch.no_grad()
    def open(self, image: UInt8[np.ndarray, "h w 3"]) -> OpenImage:
        """See an image once."""
        given = self.embed_image(image)
        prefix, memory = self._below.prefix(given.rows, given.positions, given.later)
        return OpenImage(given.frame, prefix.to(self.device), given.positions, memory, given.familiar)

    @torch.no_grad()
    def embed_image(self, image: UInt8[np.ndarray, "h w 3"]) -> ImageRows:
        """See an image, and stop before the first decoder layer."""
        frame, seen = self.canvas.frame(image), self.see(self.pixels(image))
        words = torch.tensor([self.reading.before()], dtype=torch.long, device=self.device)
        embedded = self.model.get_input_embeddings()(words)
        embedded = torch.cat([embedded, seen.rows.to(embedded)], 1)  # the image ends the prefix
        positions = self.prefix_positions(words.shape[1])[None].to(self.device)
        return ImageRows(frame, embedded, positions, seen.later, self.knows(seen.tower, frame))

    def knows(self, tower: Sequence[Float[Tensor, "1 n v"]], frame: Frame) -> bool | None:
        """Whether a picture is of the kind that the model was made for, by what the tower says of its canvas; None for
        a model whose folder holds no statistic of that."""
        return None if self.familiarity is None else self.familiarity.knows(tower, frame)

    @torch.no_grad()
    def familiar(self, image: UInt8[np.ndarray, "h w 3"]) -> bool | None:
        """As `knows`, of a picture that was not opened."""
        if self.familiarity is None:
            return None
        return self.knows(self.see(self.pixels(image)).tower, self.canvas.frame(image))

    def pixels(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "3 s s"]:
        """The normalised canvas. Both encoders see one frame; by default padding is of the mean colour that CLIP's
        had."""
        images = self.processor.image_processor
        mean, std = (255 * torch.tensor(v) for v in (images.image_mean, images.image_std))
        pixels = self.canvas.render(image, self.image_size, tuple(mean.tolist()), images.resample)
        # in this order padding is 0 and not a rounding error, which norms behind a layer without bias would blow up
        return ((pixels - mean[:, None, None]) / std[:, None, None]).to(self.device, self.model.dtype)

    @torch.no_grad()
    def read(self, image: OpenImage, questions: Sequence[str]) -> Readout:
        """Hidden states of all questions about an open image, in one pass.

        Raises QuestionError as `Prompts.to_read` does."""
        given = self.embed_questions(questions, image.positions)
        hidden = self._below.questions(given.rows, given.positions, given.mask, image.memory)
        end = image.prefix.shape[1]
        places = end - self.tiling.tokens + self.tiling.places
        return Readout(
            prefix=image.prefix,
            prefix_positions=image.positions,
            question=hidden.to(self.device),
            question_positions=given.positions,
            question_mask=given.mask,
            image_tokens=places.to(self.device),
            grid=self.grid,
        )

    def read_tokens(self, question: str) -> int:
        """Tokens of a question with its image, as `read` reads them. Raises QuestionError as `Prompts.after` does."""
        return len(self.reading.before()) + self.tiling.tokens + len(self.reading.after(question))

    @torch.no_grad()
    def embed_questions(self, questions: Sequence[str], prefix_positions: Int[Tensor, "1 p ..."]) -> QuestionRows:
        """Questions behind the prefix of an image, padded on the right. Raises QuestionError as `read` does."""
        asked = self.reading.to_read(questions)
        longest = max(map(len, asked))
        pad = self.processor.tokenizer.pad_token_id or 0
        ids = torch.tensor([[*a, *[pad] * (longest - len(a))] for a in asked], device=self.device)
        mask = torch.tensor([[k < len(a) for k in range(longest)] for a in asked], device=self.device)[None]
        positions = after(prefix_positions, len(asked), longest)
        return QuestionRows(self.model.get_input_embeddings()(ids)[None], positions, mask)

    # ---------------------------------------------------------------- chatting

    @property
    def pads(self) -> bool:
        """Whether the chat pads pictures to squares, because the processor would cut off the ends of long ones. All
        that is said to other processors, and to any with `as_is`, is what the bare model is told, bit for bit."""
        return not self.as_is and self._crops

    @cached_property
    def _crops(self) -> bool:
        return crops(self.processor.image_processor)

    @torch.no_grad()
    def generate(self, image: UInt8[np.ndarray, "h w 3"], question: str, max_new_tokens: int = 128) -> str:
        """The untouched MLLM's own answer, through its own processor, greedy."""
        return self.speak([image], question, GenerationOptions(max_new_tokens)).text

    @torch.no_grad()
    def speak(self, images: Images, question: str, manner: GenerationOptions) -> GeneratedText:
        """`generate` about one image, several, or none: through the processor, which sees all of each (`pads`).

        Raises as `shown_inputs` does, and ValueError for a model without the layers that talk."""
        self.check_can_chat()
        inputs = self.shown_inputs(images, question)
        read = inputs["input_ids"].shape[1]
        listener = StreamingCriterion(manner, self._words, read)
        said = self.model.generate(
            **inputs, max_new_tokens=manner.max_new_tokens, do_sample=False, stopping_criteria=[listener]
        )[0, read:].tolist()
        text = before_stop(self._words(said), manner.stop)
        listener.finish(text)
        ended = [token for token in said if token in self._ends]
        whole = bool(ended) or len(said) < manner.max_new_tokens or text != self._words(said)
        return GeneratedText(text, read, len(said) - len(ended), whole)

    @torch.no_grad()
    def say(self, image: UInt8[np.ndarray, "h w 3"], question: str, max_new_tokens: int = 128) -> Int[Tensor, " n"]:
        """The token ids of `generate`."""
        self.check_can_chat()
        inputs = self.chat_inputs(image, question)
        said = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        return said[0, inputs["input_ids"].shape[1] :]

    def _words(self, ids: list[int]) -> str:
        return self.processor.decode(ids, skip_special_tokens=True).strip()

    @property
    def _ends(self) -> set[int]:
        """Tokens that end an answer."""
        ends = self.model.generation_config.eos_token_id
        return {*(ends if isinstance(ends, list) else [] if ends is None else [ends])}

    def chat_inputs(self, image: UInt8[np.ndarray, "h w 3"], question: str) -> dict[str, Tensor]:
        """What the model's own processor makes of an image and a question; none of the image is cropped (`pads`).
        Raises as `shown_inputs` does."""
        return self.shown_inputs([image], question)

    def shown_inputs(self, images: Images, question: str) -> dict[str, Tensor]:
        """The same for any number of images: the chat path adds nothing to it but the padding that `pads` tells of.

        Raises QuestionError as `Prompts.after` does, and for more tokens than the model was made for."""
        self.prompts.after(question)
        whole = [squared(image, self.processor.image_processor) for image in images] if self.pads else images
        shown = [Image.fromarray(image) for image in whole] or None
        inputs = self.processor(images=shown, text=self.prompts.text(question, len(images)), return_tensors="pt")
        tokens, most = inputs["input_ids"].shape[1], self.model.config.get_text_config().max_position_embeddings
        if tokens > most:
            raise QuestionError(
                f"got a question of {tokens} tokens with its image; the model takes {most}; shorten it"
                + (f", or show it fewer than {len(images)} images" if len(images) > 1 else "")
            )
        return dict(inputs.to(self.device, self.model.dtype))

    def check_can_chat(self) -> None:
        """Raises ValueError for a model without the layers that talk."""
        if not self.can_chat:
            raise ValueError(
                "this backbone was loaded with segmentation_only=True, without the layers that talk; "
                "load it again without"
            )

    # ---------------------------------------------------------------- judging answers

    @torch.no_grad()
    def hear(self, image: UInt8[np.ndarray, "h w 3"], question: str) -> ChatPrefix:
        """A question in the chat, up to where the answer begins: what follows, and other questions that begin alike,
        then costs only its own words. Raises as `say` does, and for a model with a sliding window."""
        safe_point()
        self.check_can_chat()
        if whole_sight(self.model.config) < self.depth:
            raise ValueError(
                f"decoder layer {whole_sight(self.model.config)} has a sliding window, and every layer must see all "
                "that came before; choose another model"
            )
        inputs = self.chat_inputs(image, question)
        return hear(self.model, inputs, self.chat_positions(inputs), self.prompts.after(question))

    @torch.no_grad()
    def likelihoods(
        self, image: UInt8[np.ndarray, "h w 3"] | ChatPrefix, question: str, answers: Sequence[str]
    ) -> Float[Tensor, " a"]:
        """Log-likelihood of each answer to a question in the chat: the sum over its tokens, given those before.

        All answers take one pass. The image may be one in which another question was heard: how it began is then not
        run again. Raises as `hear` does, and QuestionError for no answer and for an empty one."""
        safe_point()
        said = [self.prompts.said(answer) for answer in answers]
        if not said or not all(said):
            raise QuestionError(f"got the answers {list(answers)}; give at least one, none of them empty")
        heard = image if isinstance(image, ChatPrefix) else self.hear(image, question)
        asked = self.prompts.after(question)
        begun = heard.shared(asked)
        left = asked[begun:]
        rows = list(dict.fromkeys((*left, *answer[:-1]) for answer in said))
        positions, memory = heard.cut(begun)
        chances = continuations(
            DecoderLayers(self._language.layers, self._language.rotary_emb),
            self._language.norm,
            self.model.get_input_embeddings(),
            self.model.get_output_embeddings(),
            rows,
            after(positions, 1, max(map(len, rows)))[0],
            memory,
        )
        row = [rows.index((*left, *answer[:-1])) for answer in said]
        return torch.stack(
            [chances[r, len(left) - 1 + torch.arange(len(a)), a].sum() for r, a in zip(row, said, strict=True)]
        )

    def chat_positions(self, inputs: dict[str, Tensor]) -> Int[Tensor, "1 n ..."]:
        """Rotary positions of `chat_inputs`."""
        return torch.arange(inputs["input_ids"].shape[1], device=self.device)[None]

    # ---------------------------------------------------------------- copying and tuning

    def watch(self, layers: int | None = None) -> HeadReader:
        """A reader of the attention heads of the first `layers` decoder layers, by default of all that a head on this
        backbone reads or copies. Raises ValueError as `HeadReader` does."""
        from seglens.backbones.attention_maps import HeadReader

        return HeadReader(self, self.layer + COPIED if layers is None else layers)

    def clone_layers(self, count: int = 2) -> list[DecoderLayers]:
        """Trainable fp32 copies of decoder layers `layer`, `layer + 1`, ...: they continue what `read` gives."""
        return clone_layers(self._language.layers[self.layer : self.layer + count], self._language.rotary_emb)

    def adapt(
        self, tuning: Tuning, speech: AnswerTemplates, attention: Attention = "causal", refill: Refill = "none"
    ) -> TunedBackbone:
        """This MLLM with a new adapter, in a copy that shares every weight: nothing here is touched, or slower.

        Raises ImportError without peft, and ValueError when the model cannot be tuned so."""
        from seglens.backbones.tuned_reader import TunedBackbone

        return TunedBackbone(self, tuning, speech, attention, refill)
