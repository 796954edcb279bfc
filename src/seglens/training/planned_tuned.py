"""A method that tunes its MLLM, on tensors with a shape and no data: its real modules, for the account of a step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from seglens.backbones import Blueprint
from seglens.backbones.chat_template import Prompts
from seglens.backbones.families import FAMILIES
from seglens.backbones.mllm import MLLM
from seglens.backbones.tuned_model import TunedModel
from seglens.core.geometry import Canvas
from seglens.core.tuning_types import AnswerTemplates, Attention, Refill, TunedInputs, TunedReadout, Tuning
from seglens.core.types import Embedding, Totals, Truth
from seglens.decoders import MaskDecoder
from seglens.methods import build_method
from seglens.methods.base import BackboneSource
from seglens.methods.tuned import TunedMethod, TunedReader
from seglens.training.account import AllPrompts, pretend

ANSWER = 7  # tokens of an answer without its segmentation tokens: an assumption


class AllTrue(TorchDispatchMode):
    """Fake tensors have no data: where a computation picks by a mask, it picks all; `learnt` is
    the number of tokens that are learnt."""

    def __init__(self, learnt: int):
        super().__init__()
        self.learnt = learnt

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.ops.aten.nonzero.default:
            return args[0].new_zeros((self.learnt, args[0].ndim), dtype=torch.long)
        if func is torch.ops.aten.index.Tensor and getattr(args[1][0], "dtype", None) == torch.bool:
            (mask,) = args[1]
            return args[0].flatten(0, mask.ndim - 1).clone()
        return func(*args, **(kwargs or {}))


class _Before(Prompts):
    """A conversation of which only the number of tokens before the image is known."""

    def __init__(self, tokens: int):
        self.tokens = tokens

    def before(self, *_: Any) -> list[int]:
        return [0] * self.tokens


class _Reader(TunedReader):
    """It learns and does nothing else."""

    def __init__(self, mllm: MLLM, tuning: Tuning, attention: Attention, refill: Refill):
        self.model = TunedModel(mllm, tuning, attention, refill)
        self.adapter, layout = self.model.adapter, mllm.family.layout
        self.width, self.patch_width = mllm.model.config.get_text_config().hidden_size, layout.patch_width
        self.grid, self.shuffle = layout.grid, layout.shuffle

    def teach(self, shown: TunedInputs) -> TunedReadout:
        return self.model.teach(shown, spoken=False)


class _Backbone(BackboneSource):
    """One for methods that tune."""

    def __init__(self, mllm: MLLM):
        self.mllm, text = mllm, mllm.model.config.get_text_config()
        self.layer, self.width = mllm.depth.layer, text.hidden_size
        self.heads, self.feed_forward = text.num_attention_heads, text.intermediate_size

    def adapt(
        self, tuning: Tuning, templates: AnswerTemplates, attention: Attention = "causal", refill: Refill = "none"
    ) -> Any:
        return _Reader(self.mllm, tuning, attention, refill)  # type: ignore[abstract]


@dataclass(frozen=True)
class TunedShape:
    """A pass: images, questions about each, tokens before the image and of a question with its answer, and the
    segmentation tokens in an answer."""

    images: int
    questions: int
    before: int
    words: int
    places: int

    @property
    def learnt(self) -> int:
        """Trained tokens of all answers."""
        return self.images * self.questions * (ANSWER + self.places)


@dataclass(frozen=True)
class TunedPlan:
    """A method with the MLLM in which it trains, on the meta device, and its mask decoder if it has one."""

    method: TunedMethod
    mllm: Any
    decoder: MaskDecoder | None
    shape: TunedShape
    side: int  # of the canvas, in pixels

    @classmethod
    def draw(
        cls,
        config: Any,
        blueprint: Blueprint,
        decoder: MaskDecoder | None,
        dtype: torch.dtype,
        tokens: tuple[int, int],
        canvas: Canvas,
    ) -> TunedPlan:
        """`tokens` are those before the image and of a question, `dtype` that of the frozen weights. Its pass has one
        image with one question."""
        family = FAMILIES[blueprint.family](blueprint.module.to(dtype).requires_grad_(False).eval(), blueprint.layout)
        before = _Before(tokens[0])
        mllm = MLLM(family, None, blueprint.depth, before, before, canvas)
        prompts: Any = None if decoder is None else AllPrompts(decoder)
        with torch.device("meta"):
            method = build_method(config, _Backbone(mllm), prompts)  # type: ignore[abstract]
        assert isinstance(method, TunedMethod)
        if decoder is not None:
            decoder.module.vision_encoder = None
        places = len(config.templates().tokens)
        shape = TunedShape(1, 1, tokens[0], tokens[1] + ANSWER + places, places)
        return cls(method.train(), blueprint.module, decoder, shape, blueprint.layout.image_size)

    def recompute(self, on: bool) -> TunedPlan:
        """The same with gradient checkpointing, or without."""
        reader: Any = self.method.mllm
        reader.model.recompute(on)
        return self

    def of(self, images: int, questions: int) -> TunedPlan:
        """The same for a pass of that size."""
        return replace(self, shape=replace(self.shape, images=images, questions=questions))

    @property
    def beside(self) -> tuple[nn.Module, ...]:
        """What is in memory with the method: the MLLM, the copy with the adapter in it, which shares its weights, and
        the mask decoder."""
        reader: Any = self.method.mllm
        frozen = (self.mllm, reader.model.tuned.model)
        return frozen if self.decoder is None else (*frozen, self.decoder.module)

    @property
    def trained(self) -> int:
        return sum(p.numel() for p in self.method.parameters() if p.requires_grad)

    def pretend(self) -> None:
        """As `account.pretend`, of all modules."""
        pretend(self.method, *self.beside)

    def loss(self, device: str) -> Tensor:
        """Of a pass on random inputs, by the method's own `losses`. Call it within a FakeTensorMode."""
        shape, method = self.shape, self.method
        b, q, s = shape.images, shape.questions, method.mask_side
        reader: Any = method.mllm
        with torch.device(device):
            every = torch.ones(b, q, dtype=torch.bool)
            words = torch.zeros(b, q, shape.words, dtype=torch.long)
            inputs = TunedInputs(
                pixels=torch.randn(b, 3, self.side, self.side, dtype=self.mllm.dtype),
                words=words,
                mask=words.bool(),
                learnt=words.bool(),
                places=torch.zeros(b, q, shape.places, dtype=torch.long),
                spoken=~every,
            )
            cells = torch.rand(b, q, *reader.grid)
            tokens = torch.ones(b, q, dtype=torch.long)
            truth = Truth(torch.rand(b, q, s, s), cells, every, every, ~every, tokens)
            maps = () if self.decoder is None else tuple(torch.randn(b, *one) for one in self.decoder.shapes)
        embedding = Embedding(maps[0], maps[1:]) if maps else None
        with AllTrue(shape.learnt):
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                output = method(inputs, embedding)
            terms = method.losses(output, truth, Totals(float(b * q), float(b * q), float(b * q), float(shape.learnt)))
            return torch.stack(list(terms.values())).sum()
