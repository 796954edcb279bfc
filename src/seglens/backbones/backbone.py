"""The reader that is the same for every family: a frozen MLLM, read at one layer, that still chats as before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from seglens.backbones.chat import Images, MLLMChat
from seglens.backbones.chat_prefix import ChatPrefix, chat_prefix, likelihoods, tokens_of_answers
from seglens.backbones.chat_template import Prompts
from seglens.backbones.generation import GeneratedText, GenerationOptions
from seglens.backbones.head_reader import HeadReader
from seglens.backbones.layers import DecoderLayers, clone_layers
from seglens.backbones.mllm import MLLM, ImageRows
from seglens.backbones.positions import after
from seglens.backbones.read_layer import readable_depths
from seglens.backbones.signature import signature
from seglens.backbones.transformers_cache import Memory
from seglens.backbones.tuned_reader import TunedBackbone
from seglens.core.batched_parts import joined, of_image
from seglens.core.geometry import Canvas, Frame
from seglens.core.interruption import safe_point
from seglens.core.tuning_types import AnswerTemplates, Attention, Refill, Tuning
from seglens.core.types import Readout


@dataclass(frozen=True)
class EncodedPrefix:
    """An image after the layers that are read: its prefix at the read layer, and what the layers below it keep."""

    frame: Frame
    prefix: Float[Tensor, "1 p d"]
    positions: Int[Tensor, "1 p ..."]
    memory: Sequence[Memory]
    familiar: bool | None = None  # whether the picture is of the kind that the model was made for; None: not known


@final
class Backbone:
    """A frozen multimodal LLM. Opening an image costs one partial pass; each question costs only its own tokens.

    It holds an `MLLM`, whose `Family` knows what differs between models, and whether its chat shows pictures `as_is`.
    Nothing that runs layers is kept here: each call takes them from the MLLM."""

    def __init__(self, mllm: MLLM, as_is: bool = False):
        self.mllm, self.as_is = mllm, as_is
        layout, text = mllm.family.layout, mllm.model.config.get_text_config()
        self.layer, self.depth = mllm.depth.layer, mllm.depth.whole  # hidden_states[layer] is what it reads
        self.copied = mllm.depth.copied  # the layers whose attention `clone_layers` copies
        self.image_size, self.grid, self.tiling = layout.image_size, layout.grid, layout.tiling
        self.width, self.feed_forward, self.heads = text.hidden_size, text.intermediate_size, text.num_attention_heads

    # ---------------------------------------------------------------- the MLLM

    @property
    def name(self) -> str:
        """The folder or hub id that it was loaded from."""
        return self.mllm.name

    @property
    def revision(self) -> str | None:
        return self.mllm.revision

    @property
    def family(self) -> str:
        """By its config: "llava", "internvl", ..."""
        return self.mllm.model.config.model_type

    @property
    def module(self) -> nn.Module:
        """The transformers model itself, frozen."""
        return self.mllm.model

    @property
    def processor(self) -> Any:
        return self.mllm.processor

    @property
    def device(self) -> torch.device:
        """Where inputs go: where the embedding of words is."""
        return self.mllm.device

    @property
    def canvas(self) -> Canvas:
        return self.mllm.canvas

    @property
    def prompts(self) -> Prompts:
        """The conversation of the chat."""
        return self.mllm.prompts

    @property
    def reading(self) -> Prompts:
        """The conversation in which it is read to segment; see `with_system_text`."""
        return self.mllm.reading

    def with_system_text(self, system: str | None) -> Backbone:
        """The same model with a system text before every image that it reads to segment; itself for None. The chat
        stays without.

        Raises ValueError when its chat template leaves system texts out."""
        if system is None:
            return self
        return Backbone(replace(self.mllm, reading=self.prompts.with_system_text(system)), self.as_is)

    @property
    def readable(self) -> tuple[int, ...]:
        """The layers k at which a head can read hidden_states[k] and copy what follows."""
        return readable_depths(self.mllm.model.config, self.mllm.family.layout)

    def signature(self) -> dict[str, str | int]:
        """All that decides the numbers of a reading, other than the weights: the same in every process."""
        return signature(self.mllm)

    # ---------------------------------------------------------------- reading

    def layers_below(self) -> DecoderLayers:
        """The decoder layers below the one that it reads."""
        return self.mllm.layers(self.layer)

    def pixels(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "3 n m"]:
        """The normalised canvas."""
        return self.mllm.pixels(image)

    def familiar(self, image: UInt8[np.ndarray, "h w 3"]) -> bool | None:
        """Whether a picture that was not opened is of the kind that the model was made for; None where its folder holds
        no statistic of that."""
        return self.mllm.familiar(image)

    def open(self, image: UInt8[np.ndarray, "h w 3"]) -> EncodedPrefix:
        """See an image once."""
        return self.open_many([image])[0]

    @property
    def batches(self) -> bool:
        """As `MLLM.batches`."""
        return self.mllm.batches

    @torch.no_grad()
    def open_many(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[EncodedPrefix]:
        """`open` of each, to rounding, in one pass where the model `batches`."""
        inputs = self.mllm.embed_images(images)
        passes = [inputs] if self.batches else [[one] for one in inputs]
        return [encoded for some in passes for encoded in self._encoded(some)]

    def _encoded(self, inputs: Sequence[ImageRows]) -> list[EncodedPrefix]:
        """Images with prefixes of one length, in one pass."""
        rows, positions = (torch.cat(list(each)) for each in zip(*((x.rows, x.positions) for x in inputs), strict=True))
        later = [torch.cat(list(each)) for each in zip(*(x.later for x in inputs), strict=True)]
        prefix, memory = self.layers_below().prefix(rows, positions, later)
        return [
            EncodedPrefix(x.frame, row[None], x.positions, of_image(memory, n), x.familiar)
            for n, (x, row) in enumerate(zip(inputs, prefix.to(self.device), strict=True))
        ]

    def read(self, image: EncodedPrefix, questions: Sequence[str]) -> Readout:
        """Hidden states of all questions about an open image, in one pass.

        Raises QuestionError as `Prompts.question_tokens` does."""
        return self.read_many([image], [questions])

    @torch.no_grad()
    def read_many(self, images: Sequence[EncodedPrefix], questions: Sequence[Sequence[str]]) -> Readout:
        """`read` of several images with prefixes of one length, and as many questions about each.

        Raises QuestionError as `Prompts.question_tokens` does."""
        image, b = images[0], len(images)
        inputs = self.mllm.embed_questions([q for each in questions for q in each], image.positions)
        rows, mask = (rearrange(x, "1 (b q) ... -> b q ...", b=b) for x in (inputs.rows, inputs.mask))
        positions = after(joined([one.positions for one in images]), *mask.shape[1:])
        hidden = self.layers_below().questions(rows, positions, mask, joined([one.memory for one in images]))
        end = image.prefix.shape[1]
        tiling = self.mllm.tiling_of(image.frame)
        places = end - tiling.tokens + tiling.places
        return Readout(
            prefix=joined([one.prefix for one in images]),
            prefix_positions=joined([one.positions for one in images]),
            question=hidden.to(self.device),
            question_positions=positions,
            question_mask=mask,
            image_tokens=places.to(self.device),
            grid=tiling.grid,
        )

    def read_tokens(self, question: str, frame: Frame) -> int:
        """Tokens of a question with its image, as `read` reads them. Raises QuestionError as `Prompts.after` does."""
        return self.mllm.read_tokens(question, frame)

    # ---------------------------------------------------------------- chatting

    @property
    def chat(self) -> MLLMChat:
        """The chat of the untouched MLLM."""
        return MLLMChat(self.mllm, self.as_is)

    @property
    def can_chat(self) -> bool:
        return self.mllm.can_chat

    @property
    def pads(self) -> bool:
        """As `MLLMChat.pads`."""
        return self.chat.pads

    def check_can_chat(self) -> None:
        """Raises ValueError for a model without the layers of the chat."""
        self.chat.check()

    def generate(self, image: UInt8[np.ndarray, "h w 3"], question: str, max_new_tokens: int = 128) -> str:
        """The untouched MLLM's own answer, through its own processor, greedy."""
        return self.generate_text([image], question, GenerationOptions(max_new_tokens)).text

    def generate_text(self, images: Images, question: str, options: GenerationOptions) -> GeneratedText:
        """`generate` about one image, several, or none. Raises as `MLLMChat.generate_text` does."""
        return self.chat.generate_text(images, question, options)

    def chat_inputs(self, image: UInt8[np.ndarray, "h w 3"], question: str) -> dict[str, Tensor]:
        """The model's inputs in a chat about an image. Raises as `MLLMChat.inputs` does."""
        return self.chat.inputs([image], question)

    def chat_prefix(self, image: UInt8[np.ndarray, "h w 3"], question: str) -> ChatPrefix:
        """A question in the chat, up to where the answer begins: what follows, and other questions that begin alike,
        then cost only their own tokens. Raises as `chat_prefix` does."""
        safe_point()
        return chat_prefix(self.chat, image, question)

    def likelihoods(
        self, image: UInt8[np.ndarray, "h w 3"] | ChatPrefix, question: str, answers: Sequence[str]
    ) -> Float[Tensor, " a"]:
        """Log-likelihood of each answer to a question in the chat: the sum over its tokens, given those before.

        All answers take one pass. The image may be one with the prefix of another question: the tokens that both begin
        with are not run again. Raises as `chat_prefix` does, and QuestionError for no answer and for an empty one."""
        safe_point()
        tokens = tokens_of_answers(self.mllm, answers)
        prefix = image if isinstance(image, ChatPrefix) else self.chat_prefix(image, question)
        return likelihoods(self.mllm, prefix, question, tokens)

    # ---------------------------------------------------------------- copying and tuning

    def head_reader(self, layers: int | None = None) -> HeadReader:
        """A reader of the attention heads of the first `layers` decoder layers, by default of all that a head on this
        backbone reads or copies. Raises ValueError as `HeadReader` does."""
        return HeadReader(self.mllm, self.mllm.depth.end if layers is None else layers)

    def clone_layers(self, count: int = 2) -> list[DecoderLayers]:
        """Trainable fp32 copies of decoder layers `layer`, `layer + 1`, ...: they continue what `read` gives. A copy of
        a layer with attention begins with the convolutions below it."""
        language = self.mllm.language
        runs = self.mllm.depth.runs(language.layers)[:count]
        return clone_layers(runs, language.rotary_emb, self.mllm.mutual)

    def adapt(
        self, tuning: Tuning, templates: AnswerTemplates, attention: Attention = "causal", refill: Refill = "none"
    ) -> TunedBackbone:
        """This MLLM with a new adapter, in a copy that shares every weight: nothing here is touched, or slower.

        Raises ImportError without peft, and ValueError when the model cannot be tuned so."""
        return TunedBackbone(self.chat, tuning, templates, attention, refill)
