"""UFO: fine-grained perception through an open-ended language interface (arXiv 2503.01342), its segmentation.

No mask decoder: the MLLM answers with a run of <MASK> tokens, and each of them, multiplied with the image tokens, gives
the map of one sub-pixel of every cell. Details are those of the authors' code. There the question comes before the
image; here the image comes first, so that no question changes its states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from seglens.core.tuning_types import AnswerTemplates, TunedReadout, Tuning
from seglens.core.types import Embedding, MethodOutput, Totals, Truth
from seglens.methods.base import BackboneSource, check_choices, mean_over
from seglens.methods.losses import focal, smooth_dice
from seglens.methods.preset import TILE, VICUNA, Preset
from seglens.methods.tuned import Absent, TextMean, TunedMethod, TunedReader, answers_with, check_words, tuning_of

TOKEN = "<MASK>"
SMOOTH = 1e-3  # of its dice


@dataclass(frozen=True)
class UfoConfig:
    """Every choice of UFO; the values are those of its released code unless a comment states another source.

    `request` is LISA's: it completes a bare query, or one in the templates of `prompt=lens`, which then are UFO's own;
    for data of whole requests (`prompt=lisa`) it is "{}"."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    vocabulary: bool = False  # also train word embedding and output layer (UFO does), not just the row of <MASK>
    final_norm: bool = False  # also train the norm after the last layer (UFO does)
    attention: Literal["causal", "images"] = "images"  # whether image tokens see all others of the image
    scale: int = 4  # sub-pixels of a cell along each side, one <MASK> each
    mask_side: int = 128  # at which masks are compared and drawn; UFO compares at the size of its input
    request: str = "{} Please output segmentation mask."
    answers: tuple[str, ...] = answers_with(TOKEN)  # <MASK> stands for the run of them
    absent: Absent = "skip"
    text_weight: float = 1.0
    text_mean: TextMean = "answers"  # over answers, or over all tokens of them alike (authors)
    focal_weight: float = 1.0
    dice_weight: float = 1.0

    def __post_init__(self) -> None:
        check_choices(self, "UFO")
        check_words(self, "UFO", TOKEN)
        for name in ("scale", "mask_side"):
            if getattr(self, name) < 1:
                raise ValueError(f"UFO got {name}={getattr(self, name)}; it must be 1 or more")

    def tuning(self) -> Tuning:
        """What of the MLLM is trained."""
        return tuning_of(self, (TOKEN,))

    def templates(self) -> AnswerTemplates:
        """The texts of request and answer: an answer has one new word, `scale` x `scale` times."""
        run = self.scale**2
        return AnswerTemplates((TOKEN,) * run, self.request, tuple(a.replace(TOKEN, TOKEN * run) for a in self.answers))


class Ufo(TunedMethod):
    """The MLLM's adapter; nothing else is trained."""

    def __init__(self, config: UfoConfig, mllm: TunedReader):
        super().__init__(mllm)
        self.config = config

    @property
    def mask_side(self) -> int:
        return self.config.mask_side

    def decode(self, read: TunedReadout, embedding: Embedding | None, precomputed: Any = None) -> MethodOutput:
        """map_k = h_k F_img^T / √d for each <MASK> k, where h_k is the state that predicts it; map k has the k-th
        sub-pixel of every cell."""
        with torch.autocast(read.segment.device.type, enabled=False):  # half precision would draw steps
            segment, image = read.segment.float(), read.image.float()
            maps: Float[Tensor, "b q k i"] = segment @ image.mT / segment.shape[-1] ** 0.5
            fine = rearrange(
                maps, "b q (y x) (h w) -> b q (h y) (w x)", y=self.config.scale, x=self.config.scale, h=read.grid[0]
            )
            return MethodOutput(F.interpolate(fine, (self.mask_side,) * 2, mode="bilinear"), text_loss=read.text_loss)

    def losses(self, output: MethodOutput, truth: Truth, totals: Totals | None = None) -> dict[str, Tensor]:
        """CE, focal and dice as named, weighted terms: the first is averaged over answers, the others over masks."""
        config, totals = self.config, totals or truth.totals()
        taught, count = self.with_mask(truth, totals)
        logits, target = output.mask_logits[taught], truth.masks[taught]
        return {
            "text": self.text_loss(output, truth, totals),
            "focal": config.focal_weight * mean_over(focal(logits, target), count),
            "dice": config.dice_weight * mean_over(smooth_dice(logits, target, SMOOTH), count),
        }


def build_ufo(config: UfoConfig, backbone: BackboneSource, decoder: None = None) -> Ufo:
    """A fresh UFO on an MLLM that does not change; it needs no mask decoder."""
    return Ufo(config, backbone.adapt(config.tuning(), config.templates(), config.attention))


PRESETS: dict[str, Preset[UfoConfig]] = {
    "default": Preset(UfoConfig(), {"lr": 2e-4}),
    "authors": Preset(
        UfoConfig(vocabulary=True, final_norm=True, text_mean="tokens"),
        # 20,000 passes of 4 images, 16 to a step, a twentieth of them warm-up; the number of devices is not published:
        # 8 here
        {
            "steps": 1250,
            "images": 512,
            "micro": 4,
            "lr": 2e-4,
            "betas": (0.9, 0.999),
            "weight_decay": 0.01,
            "schedule": "cosine",
            "warmup": 62,
        },
        prompt="ufo",
        # ufo_llava_referseg_head.py has LISA's; the head for InternVL that of InternVL 2
        system={
            "llava": VICUNA.format("human"),
            "internvl": "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，"
            "英文名叫InternVL, 是一个有用无害的人工智能助手。",
        },
        canvas=TILE,
    ),
}
