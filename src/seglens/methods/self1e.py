"""SELF1E: an MLLM that segments by itself, with one token and no mask decoder (arXiv 2603.19026).

A mask is the dot product of the [SEG] token's state with image features (Eq. 1): those of the vision tower at their
full resolution, plus the change that the language model made to the compressed ones (Eq. 2 and 3). Both are amplified
by MLPs with pixel-unshuffle (Eq. 4 and 5), and so is the token (Eq. 6). Symbols and numbers are the paper's.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn

from seglens.core.pixel_shuffle import pixel_unshuffle
from seglens.core.tuning_types import AnswerTemplates, Attention, Refill, TunedReadout, Tuning
from seglens.core.types import Embedding, MethodOutput, Totals, Truth
from seglens.methods.base import BackboneSource, check_choices, mean_over
from seglens.methods.losses import mask_terms
from seglens.methods.preset import TILE, Preset, TrainingNumbers
from seglens.methods.tuned import Absent, TextMean, TunedMethod, TunedReader, answers_with, check_words, tuning_of

TOKEN = "[SEG]"
ALPHA = 2  # α, a side of the block of pixels that a feature is un-shuffled to

# Table 6: which MLP amplifies F_V1^HQ ("refilled"), F_V1 ("given" to the language model), F_IMG ("image", and F_SEG
# with it) and the residual. What is not named stays as it is: without any, Eq. 4 and 5 become Eq. 2 and 3.
SHARING: dict[str, dict[str, str]] = {
    "none": {},
    "residual": {"residual": "residual"},
    "shared": {"refilled": "image", "given": "image", "image": "image"},
    "two": {"refilled": "given", "given": "given", "image": "image"},
    "three": {"refilled": "refilled", "given": "given", "image": "image"},
}
# Table 5: which of these F'_IMG consists of
USED = {"image": ("image",), "refilled": ("refilled", "image"), "fused": ("refilled", "given", "image", "residual")}

LIMITS = {"dropout": 1, "coarse_weight": 1e6, "text_weight": 1e6, "bce_weight": 1e6, "dice_weight": 1e6}


@dataclass(frozen=True)
class Self1eConfig:
    """Every choice of SELF1E that the paper, its ablations or the authors' code makes.

    `request` completes a bare query: a name or a phrase. For data in templates that are whole requests (`prompt=lisa`,
    also SELF1E's own, and `prompt=lisa-eval`) it is "{}", as in the presets "authors" and "paper"."""

    features: Literal["image", "refilled", "fused"] = "fused"  # F'_IMG: F_IMG (Eq. 1), F_V1^HQ, or both (Table 5)
    amplifiers: Literal["none", "residual", "shared", "two", "three"] = "two"  # MLPs with pixel-unshuffle (Table 6)
    attention: Attention = "dual"  # Table 7
    refill_by: Literal["replicate", "scan"] = "replicate"  # Table 11
    combine: bool = True  # authors: a third MLP on F'_IMG and F'_SEG
    coarse_weight: float = 1.0  # authors: of the loss of a coarse mask, by f'_PUS(F_IMG) alone; 0 leaves it out
    # the coarse mask takes F'_SEG before the third MLP, or after it (authors)
    coarse_token: Literal["before", "combined"] = "before"
    mask_side: int = 128  # where masks are compared
    # masks are up-sampled to the image's size by way of mask_side, or once, from the grid of F'_IMG (authors)
    upsampling: Literal["twice", "once"] = "twice"
    absent: Absent = "empty"
    # the sum over masks is divided by the number of masks, or of all answers, those in words included (authors)
    mask_mean: Literal["masks", "answers"] = "masks"
    text_weight: float = 1.0
    text_mean: TextMean = "answers"  # over answers, or over all tokens of them alike (authors)
    bce_weight: float = 2.0
    dice_weight: float = 0.5
    rank: int = 128
    alpha: float | None = None  # None is twice the rank
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    vision_rank: int | None = None  # None is the rank
    projector: bool = True
    vocabulary: bool = True
    # the blank at the start is the authors', after the line break of the chat template
    request: str = " What is {} in this image? Please output segmentation mask."
    answers: tuple[str, ...] = answers_with(TOKEN)

    def __post_init__(self) -> None:
        check_choices(self, "SELF1E")
        for name in ("targets", "answers"):  # a list, where it was read from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.amplifiers == "residual" and self.features != "fused":
            raise ValueError(
                f"SELF1E got amplifiers='residual' with features={self.features!r}, which have no residual; "
                "choose features='fused', or other amplifiers"
            )
        self._check_numbers()
        check_words(self, "SELF1E", TOKEN)

    def _check_numbers(self) -> None:
        ranks = {"rank": 0} if self.vision_rank is None else {"rank": 0, "vision_rank": 0}
        for name, least in {"mask_side": 1, **ranks}.items():
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= least):
                raise ValueError(
                    f"SELF1E got {name}={getattr(self, name)!r}; it must be a whole number from {least} up"
                )
        for name, most in LIMITS.items():
            if not (isinstance(getattr(self, name), int | float) and 0 <= getattr(self, name) <= most):
                raise ValueError(f"SELF1E got {name}={getattr(self, name)!r}; it must be a number from 0 to {most:g}")

    @property
    def coarse(self) -> bool:
        """Whether there is a coarse mask: F_IMG alone has no other."""
        return self.coarse_weight > 0 and self.features != "image"

    @property
    def refill(self) -> Refill:
        return "none" if self.features == "image" else self.refill_by

    def tuning(self) -> Tuning:
        alpha = 2.0 * self.rank if self.alpha is None else self.alpha
        vision_rank = self.rank if self.vision_rank is None else self.vision_rank
        return tuning_of(self, (TOKEN,), alpha=alpha, vision_rank=vision_rank)

    def templates(self) -> AnswerTemplates:
        return AnswerTemplates(tokens=(TOKEN,), request=self.request, answers=self.answers)


def mlp(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, out))


def dot(image: Float[Tensor, "b r h w d"], segment: Float[Tensor, "b q d"]) -> Float[Tensor, "b q h w"]:
    """Eq. 1:  ŷ = F'_IMG F'_SEG^T / √d.  r is q or 1. Autocast would round the logits to half precision."""
    with torch.autocast(image.device.type, enabled=False):
        product = einsum(precise(image), precise(segment), "b q h w d, b q d -> b q h w")
    return product / image.shape[-1] ** 0.5


class Amplifier(nn.Module):
    """f_PUS and f'_PUS (section 3.4): an MLP with pixel-unshuffle, so that a feature becomes a block of features of the
    same width."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = mlp(width, ALPHA**2 * width)

    def forward(self, x: Float[Tensor, "*b h w d"]) -> Float[Tensor, "*b _ _ d"]:
        return pixel_unshuffle(self.mlp(x), ALPHA)


class Combine(nn.Module):
    """Not in the paper: the authors' third MLP, W_2 GELU(W_1 x + b_1) + b_2, on F'_IMG and F'_SEG, with Eq. 1."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, segment: Float[Tensor, "b q d"]) -> Float[Tensor, "b q d"]:
        return self.second(F.gelu(self.first(segment)))

    def dot(self, hidden: Float[Tensor, "b r h w d"], segment: Float[Tensor, "b q d"]) -> Float[Tensor, "b q h w"]:
        """Eq. 1 of W_2 hidden + b_2 and the token, with W_2 applied to the token: one vector instead of all pixels."""
        product = dot(hidden, segment @ self.second.weight)
        return product + (segment @ self.second.bias / segment.shape[-1] ** 0.5)[..., None, None]


@dataclass(frozen=True)
class AmplifiedFeatures:
    """The parts of F'_IMG that no question changes: f_PUS(F_V1^HQ), after W_1 where there is a third MLP, and
    f_PUS(F_V1); None where F'_IMG has no such part."""

    refilled: Float[Tensor, "b 1 h w d"] | None
    given: Float[Tensor, "b 1 _ _ d"] | None


class Self1e(TunedMethod):
    """Two MLPs, or three, and the adapter of an MLLM. `mllm` must give `TunedReadout.refilled` where F_V1^HQ is used,
    and one segmentation token."""

    config: Self1eConfig

    def __init__(self, config: Self1eConfig, mllm: TunedReader):
        super().__init__(mllm)
        self.config = config
        sharing = SHARING[config.amplifiers]
        self._mlps = {name: sharing[name] for name in USED[config.features] if name in sharing}
        self.amplifiers = nn.ModuleDict({name: Amplifier(mllm.width) for name in dict.fromkeys(self._mlps.values())})
        self.combine = Combine(mllm.width) if config.combine else None

    @property
    def mask_side(self) -> int:
        return self.config.mask_side

    # ---------------------------------------------------------------- forward

    def decode(
        self, read: TunedReadout, embedding: Embedding | None = None, precomputed: AmplifiedFeatures | None = None
    ) -> MethodOutput:
        """Masks for all questions of all images. `precomputed` is a result of `precompute`."""
        vision = self.precompute(read) if precomputed is None else precomputed
        image = self._amplify("image", as_map(read.image, read.grid))
        segment = self._segment(read)
        logits = self._mask(self._parts(vision, image), segment)
        if self.config.upsampling == "twice" or logits.shape[-2] != logits.shape[-1]:  # a canvas is square
            logits = self._at_mask_side(logits)
        coarse = dot(image, self._coarse_token(segment)) if self.config.coarse else None
        return MethodOutput(logits, coarse_logits=coarse, text_loss=read.text_loss)

    def precompute(self, read: TunedReadout) -> AmplifiedFeatures:
        """F_V1^HQ and F_V1 come from the vision tower: no question changes them. Once per image."""
        if self.config.features == "image":
            return AmplifiedFeatures(None, None)
        if read.refilled is None:
            raise ValueError("SELF1E got a reading without refilled patches; adapt the MLLM with refill='replicate'")
        refilled = self._first_layer(self._amplify("refilled", as_map(read.refilled[:, None], read.fine_grid)))
        if self.config.features == "refilled":
            return AmplifiedFeatures(refilled, None)
        return AmplifiedFeatures(refilled, self._amplify("given", as_map(read.given[:, None], read.grid)))

    def _parts(self, vision: AmplifiedFeatures, image: Float[Tensor, "b r h w d"]) -> list[Tensor]:
        """The terms of F'_IMG, before up-sampling: F_V1^HQ and the residual, each amplified or not (Table 6).

        Eq. 2:  F_R = F_IMG - F_V1,   or   Eq. 4:  F_RFA = f'_PUS(F_IMG) - f_PUS(F_V1)."""
        if vision.refilled is None:
            return [self._first_layer(image)]
        if vision.given is None:
            return [vision.refilled]
        residual = self._amplify("residual", image - vision.given)
        return [vision.refilled, self._first_layer(residual, bias=False)]

    def _mask(self, parts: list[Tensor], segment: Float[Tensor, "b q d"]) -> Float[Tensor, "b q _ _"]:
        """Eq. 3:  F'_IMG = F_V1^HQ + I(F_R),   or   Eq. 5:  F'_IMG = f_PUS(F_V1^HQ) + I(F_RFA);   and Eq. 1.

        I is bilinear up-sampling. It is linear, as is Eq. 1, so the two change places: fewer pixels, or a plane
        instead of d."""
        size = max((part.shape[2], part.shape[3]) for part in parts)  # one is a multiple of the other
        if self.combine is None:
            return functools.reduce(torch.add, (resize(dot(part, segment), size) for part in parts))
        fused = functools.reduce(torch.add, (enlarge(part, size) for part in parts))
        return self.combine.dot(F.gelu(fused), self.combine(segment))

    def _segment(self, read: TunedReadout) -> Float[Tensor, "b q d"]:
        """Eq. 6:  F'_SEG = mean(f'_PUS(F_SEG)); without f'_PUS a mean over one."""
        states = self._amplify("image", as_map(read.segment[:, :, :1], (1, 1)))
        return reduce(states, "b q h w d -> b q d", "mean")

    def _coarse_token(self, segment: Float[Tensor, "b q d"]) -> Float[Tensor, "b q d"]:
        if self.combine is None or self.config.coarse_token == "before":
            return segment
        return self.combine(segment)

    def _amplify(self, name: str, x: Float[Tensor, "b r h w d"]) -> Float[Tensor, "b r _ _ d"]:
        """f_PUS or f'_PUS, by the name of what it is applied to."""
        return self.amplifiers[self._mlps[name]](x) if name in self._mlps else x

    def _first_layer(self, x: Float[Tensor, "b r h w d"], bias: bool = True) -> Float[Tensor, "b r h w d"]:
        """W_1 of the third MLP; its bias is added to one of the terms only."""
        if self.combine is None:
            return x
        return F.linear(x, self.combine.first.weight, self.combine.first.bias if bias else None)

    def _at_mask_side(self, logits: Float[Tensor, "b q _ _"]) -> Float[Tensor, "b q s s"]:
        side = (self.mask_side, self.mask_side)
        return logits if logits.shape[-2:] == side else resize(logits, side)

    # ---------------------------------------------------------------- loss

    def losses(self, output: MethodOutput, truth: Truth, totals: Totals | None = None) -> dict[str, Tensor]:
        """Section 3.6 as named, weighted terms, averaged over the masks and answers of this batch, or over `totals`."""
        totals = totals or truth.totals()
        taught, total = self.with_mask(truth, totals)
        total = total if self.config.mask_mean == "masks" else totals.answered
        terms = self._mask_terms(self._at_mask_side(output.mask_logits)[taught], truth.masks[taught], total)
        if output.coarse_logits is not None:
            coarse = self._mask_terms(self._at_mask_side(output.coarse_logits)[taught], truth.masks[taught], total)
            terms |= {f"coarse_{name}": self.config.coarse_weight * term for name, term in coarse.items()}
        if output.text_loss is not None:
            terms["text"] = self.text_loss(output, truth, totals)
        return terms

    def _mask_terms(
        self, logits: Float[Tensor, "n s s"], masks: Float[Tensor, "n s s"], total: float
    ) -> dict[str, Tensor]:
        terms = mask_terms(logits, masks)
        weights = {"bce": self.config.bce_weight, "dice": self.config.dice_weight}
        return {name: weight * mean_over(terms[name], total) for name, weight in weights.items()}


def precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def as_map(tokens: Float[Tensor, "b r i d"], grid: tuple[int, int]) -> Float[Tensor, "b r h w d"]:
    return precise(rearrange(tokens, "b r (h w) d -> b r h w d", h=grid[0]))


def resize(maps: Float[Tensor, "b c _ _"], size: tuple[int, int]) -> Float[Tensor, "b c _ _"]:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def enlarge(features: Float[Tensor, "b r _ _ d"], size: tuple[int, int]) -> Float[Tensor, "b r _ _ d"]:
    if features.shape[2:4] == size:
        return features
    planes = resize(rearrange(features, "b r h w d -> b (r d) h w"), size)
    return rearrange(planes, "b (r d) h w -> b r h w d", d=features.shape[-1])


def build_self1e(config: Self1eConfig, backbone: BackboneSource, decoder: None = None) -> Self1e:
    """A fresh SELF1E on a fresh adapter of the backbone. It needs no mask decoder."""
    return Self1e(config, backbone.adapt(config.tuning(), config.templates(), config.attention, config.refill))


WHOLE = "{}"  # the request, for data that comes in whole requests
AUTHORS = Self1eConfig(
    request=WHOLE, coarse_token="combined", text_mean="tokens", mask_mean="answers", upsampling="once"
)
# 2.4 million samples in steps of 160: one epoch of the data preset "self1e-seg". One of "self1e", 561 thousand, is
# steps=3500
TRAINING: TrainingNumbers = {"steps": 15_000, "images": 160, "micro": 5, "lr": 1e-4, "schedule": "cosine"}
SYSTEM = {"internvl": "You are an helpful assistant."}  # model/internvl3/conversation.py, in place of InternVL 3's own
SMALL, LARGE = "OpenGVLab/InternVL3-2B-hf", "OpenGVLab/InternVL3-8B-hf"
PRESETS: dict[str, Preset[Self1eConfig]] = {
    "default": Preset(Self1eConfig(), {"lr": 1e-4, "schedule": "cosine"}, prompt="none"),
    # the text: Eq. 1 to 6, and a plain sum of three losses
    "paper": Preset(
        Self1eConfig(request=WHOLE, combine=False, coarse_weight=0.0, bce_weight=1.0, dice_weight=1.0),
        TRAINING,
        SMALL,
        prompt="lisa",
    ),
    # the released code, for InternVL3-2B and for InternVL3-8B; trained with prompt=lisa, asked with prompt=lisa-eval
    "authors": Preset(AUTHORS, TRAINING, SMALL, prompt="lisa", system=SYSTEM, canvas=TILE),
    # the vision side and the MLPs of 8B at 1e-4, the language model at 6e-5
    "authors-8b": Preset(
        replace(AUTHORS, rank=64), {**TRAINING, "language_lr": 6e-5}, LARGE, prompt="lisa", system=SYSTEM, canvas=TILE
    ),
}
