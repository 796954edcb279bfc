"""LISA: reasoning segmentation via a large language model (arXiv 2308.00692), the baseline of the later methods.

The MLLM answers with [SEG]; the state that predicts it, projected, is the one prompt of SAM's mask decoder. Adapters of
the MLLM, the projection and the mask decoder are trained. LISA draws a mask for every query, also where the target is
not in the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from seglens.core.geometry import Canvas
from seglens.core.tuning_types import AnswerTemplates, TunedReadout, Tuning
from seglens.core.types import Embedding, MethodOutput, Totals, Truth
from seglens.methods.base import BackboneSource, PromptDecoder, PromptingMethod, check_choices, mean_over
from seglens.methods.losses import mask_terms
from seglens.methods.preset import LLAVA_SAM, VICUNA, Preset
from seglens.methods.tuned import Absent, TextMean, TunedMethod, TunedReader, answers_with, check_words, tuning_of

TOKEN = "[SEG]"


@dataclass(frozen=True)
class LisaConfig:
    """Every choice of LISA; the values are those of its released code unless a comment states another source.

    `request` completes a query; data in templates must not be completed twice. The default suits bare queries, and
    `prompt=lens` and `prompt=lens-eval`, which are LISA's templates without their last sentence: the result in
    evaluation is LISA's own wording, for phrases and for sentences. For `prompt=lisa` and `prompt=lisa-eval`, which are
    whole requests, it is "{}" (the preset "authors")."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    vocabulary: bool = False  # also train word embedding and output layer (LISA does), not just the row of [SEG]
    train_mask_decoder: bool = True
    request: str = "{} Please output segmentation mask."
    answers: tuple[str, ...] = answers_with(TOKEN)
    absent: Absent = "skip"
    text_weight: float = 1.0
    text_mean: TextMean = "answers"  # over answers, or over all tokens of them alike (authors)
    bce_weight: float = 2.0
    dice_weight: float = 0.5

    def __post_init__(self) -> None:
        check_choices(self, "LISA")
        check_words(self, "LISA", TOKEN)

    def tuning(self) -> Tuning:
        """What of the MLLM is trained."""
        return tuning_of(self, (TOKEN,))

    def templates(self) -> AnswerTemplates:
        """The texts of request and answer."""
        return AnswerTemplates((TOKEN,), self.request, self.answers)


class Lisa(PromptingMethod, TunedMethod):
    """The adapter, the projection γ and a trained copy of the mask decoder, unless that stays frozen."""

    def __init__(self, config: LisaConfig, mllm: TunedReader, decoder: PromptDecoder):
        super().__init__(mllm)
        self.config, self._decoder = config, (decoder,)
        d = mllm.width
        self.project = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, decoder.width))  # γ
        self.mask_decoder = decoder.trainable_decoder() if config.train_mask_decoder else None

    def decode(self, read: TunedReadout, embedding: Embedding | None, precomputed: Any = None) -> MethodOutput:
        """h_seg = γ(h),   M̂ = F_dec(h_seg, f),   of the state h that predicts [SEG], and f, SAM's image features."""
        assert embedding is not None
        prompts: Float[Tensor, "b q 1 c"] = self.project(read.segment.float())
        logits = self.decoder.decode(embedding, prompts, None, self.mask_decoder)
        return MethodOutput(logits, text_loss=read.text_loss)

    def losses(self, output: MethodOutput, truth: Truth, totals: Totals | None = None) -> dict[str, Tensor]:
        """L = λ_txt CE(ŷ, y) + λ_bce BCE(M̂, M) + λ_dice DICE(M̂, M), as named, weighted terms: the text term is
        averaged over answers, the others over masks."""
        config, totals = self.config, totals or truth.totals()
        taught, count = self.with_mask(truth, totals)
        mask = mask_terms(output.mask_logits[taught], truth.masks[taught])
        return {
            "text": self.text_loss(output, truth, totals),
            "bce": config.bce_weight * mean_over(mask["bce"], count),
            "dice": config.dice_weight * mean_over(mask["dice"], count),
        }


def build_lisa(config: LisaConfig, backbone: BackboneSource, decoder: PromptDecoder) -> Lisa:
    """A fresh LISA on an MLLM that does not change."""
    return Lisa(config, backbone.adapt(config.tuning(), config.templates()), decoder)


PRESETS: dict[str, Preset[LisaConfig]] = {
    "default": Preset(LisaConfig(), {"lr": 3e-4}),
    # the released code; train and evaluate with prompt=lisa and prompt=lisa-eval, and ask in whole requests.
    # train_ds.py: 10 x 500 steps of 160 images, and Vicuna's system text as llava_v1 has it
    "authors": Preset(
        LisaConfig(vocabulary=True, text_mean="tokens", request="{}"),
        {"steps": 5000, "images": 160, "micro": 2, "lr": 3e-4},
        prompt="lisa",
        system={"llava": VICUNA.format("human")},
        canvas=Canvas(resample="processor"),
        **LLAVA_SAM,
    ),
}
