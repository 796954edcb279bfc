"""The tensors of an MLLM with an adapter: canvases and tokens in, states after its last layer out."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from seglens.backbones.lora import attach
from seglens.backbones.mllm import MLLM
from seglens.backbones.recomputing import recompute_layers
from seglens.backbones.tuned_language import AnsweredQuestions, PrefixStates, TunedLanguage
from seglens.backbones.tuned_vision import TunedVision, VisionRows
from seglens.core.tuning_types import Attention, Refill, TunedInputs, TunedReadout, Tuning


@final
class TunedModel:
    """`tuned` is the MLLM over a copy of its model that shares every weight and has the adapter in it.

    Raises ValueError when `tuning` does not fit the model; ImportError without peft."""

    def __init__(self, mllm: MLLM, tuning: Tuning, attention: Attention, refill: Refill):
        self.tuned, adapter = attach(mllm, tuning)
        self.adapter: nn.Module = adapter
        self.vision = TunedVision(self.tuned, refill, tuning.vision_rank > 0)
        self.language = TunedLanguage(self.tuned, attention)
        self.shuffle = mllm.family.layout.shuffle

    def recompute(self, on: bool) -> None:
        """Gradient checkpointing, in every layer that gradients pass: those of the language model and, where it has an
        adapter, those of the vision tower."""
        self.language = replace(self.language, recompute=on)
        if self.vision.changed:
            recompute_layers(self.tuned.family.tower_layers, on)

    def shared(self, vision: VisionRows, spoken: bool) -> PrefixStates | None:
        """The prefix, run once for all questions; None where each changes it. Questions answered in words alone
        (`spoken`: there is one) are read causally, whatever the attention."""
        attention = self.language.attention
        once = attention == "causal" or (attention == "images" and not spoken)
        return self.language.prefix(vision) if once else None

    def teach(self, shown: TunedInputs, spoken: bool) -> TunedReadout:
        """With gradients, and with `text_loss`; `shown` is on the model's device. `spoken` as in `shared`."""
        vision = self.vision.encode(shown.pixels)
        questions = AnsweredQuestions(shown.words, shown.mask, shown.places, shown.spoken)
        return self.read(vision, self.shared(vision, spoken), questions, shown.learnt)

    def read(
        self,
        vision: VisionRows,
        prefix: PrefixStates | None,
        questions: AnsweredQuestions,
        learnt: Tensor | None = None,
    ) -> TunedReadout:
        """Questions about images; `learnt`, "b q t", states which tokens of theirs the text loss is of."""
        states = self.language.states(vision, prefix, questions)
        segment = _pick(states.words, (questions.places - 1).clamp(min=0))
        return TunedReadout(
            patches=vision.patches,
            given=vision.given,
            refilled=vision.refilled,
            image=states.image,
            segment=segment,
            grid=vision.tiling.grid,
            shuffle=self.shuffle,
            choice=self.language.logits(segment[:, :, 0]),
            text_loss=None if learnt is None else self.language.text_loss(states.words, questions.words, learnt),
            before=states.before,
        )


def _pick(states: Float[Tensor, "b q t d"], places: Int[Tensor, "b q k"]) -> Float[Tensor, "b q k d"]:
    return states.gather(2, places[..., None].expand(-1, -1, -1, states.shape[-1]))


def tensors_on(shown: TunedInputs, device: torch.device, dtype: torch.dtype) -> TunedInputs:
    """The inputs on a device, with pixels of that type."""
    moved = {name: tensor.to(device) for name, tensor in vars(shown).items()}
    return replace(shown, **moved | {"pixels": shown.pixels.to(device, dtype)})
