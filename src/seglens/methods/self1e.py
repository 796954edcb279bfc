"""SELF1E: an MLLM that segments by itself, with one token and no mask decoder (arXiv 2603.19026).

A mask is the dot product of the [SEG] token's state with image features: the vision tower's own, at their full
resolution, refilled with what the language model made of the compressed ones. Symbols and equation numbers are the
paper's.
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
ALPHA = 2  # a side of the block of pixels that a feature is un-shuffled to

# Table 6: whose MLP f_PUS amplifies F_V1^HQ, F_V1, F_IMG (and F_SEG with it) and the residual. What is not named stays
# as it is, so that Eq. 4 to 6 become Eq. 2 and 3.
SHARING: dict[str, dict[str, str]] = {
    "none": {},
    "residual": {"residual": "residual"},
    "shared": {"refilled": "image", "given": "image", "image": "image"},
    "two": {"refilled": "given", "given": "given", "image": "image"},
    "three": {"refilled": "refilled", "given": "given", "image": "image"},
}
# Table 5: which of these a mask is made of
USED = {"image": ("image",), "refilled": ("refilled", "image"), "fused": ("refilled", "given", "image", "residual")}

LIMITS = {"dropout": 1, "coarse_weight": 1e6, "text_weight": 1e6, "bce_weight": 1e6, "dice_weight": 1e6}


@dataclass(frozen=True)
class Self1eConfig:
    """Every choice of SELF1E that the paper, its ablations or the authors' code makes.

    `request` completes a bare query: a name or a phrase. Data in templates that are whole requests (`prompt=lisa`, also
    SELF1E's own, and `prompt=lisa-eval`) goes with "{}", as in the presets "authors" and "paper"."""

    features: Literal["image", "refilled", "fused"] = "fused"  # F'_IMG: F_IMG (Eq. 1), F_V1^HQ, or both (Table 5)
    amplifiers: Literal["none", "residual", "shared", "two", "three"] = "two"  # MLPs with pixel-unshuffle (Table 6)
    attention: Attention = "dual"  # Table 7
    refill_by: Literal["replicate", "scan"] = "replicate"  # Table 11
    combine: bool = True  # authors: a third MLP on the fused map and on F'_SEG
    coarse_weight: float = 1.0  # authors: the mask by f'_PUS(F_IMG) alone is taught too, at this share; 0 leaves it out
    # which F'_SEG the coarse mask is made with: before the third MLP, or as that leaves it (authors)
    coarse_token: Literal["before", "combined"] = "before"
    mask_side: int = 128  # where masks are compared
    # how masks get to the image's size: over mask_side, or in one step from the grid where they are drawn (authors)
    upsampling: Literal["twice", "once"] = "twice"
    absent: Absent = "empty"
    # what the sum over masks is divided by: masks, or all answers, those in words alone included (authors)
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
    # the blank is the authors' own, behind the line break of the chat template
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

    def speech(self) -> AnswerTemplates:
        return AnswerTemplates(tokens=(TOKEN,), request=self.request, answers=self.answers)


@dataclass(frozen=True)
class AmplifiedFeatures:
    """What of a mask no question changes: F_V1^HQ and F_V1, amplified; None where a mask is not made of them."""

    refilled: Float[Tensor, "b 1 h w d"] | None
    given: Float[Tensor, "b 1 _ _ d"] | None


class Amplifier(nn.Module):
    """f_PUS: an MLP whose output is un-shuffled, so that a feature becomes a block of as wide ones."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = mlp(width, ALPHA**2 * width)

    def forward(self, x: Float[Tensor, "*b h w d"]) -> Float[Tensor, "*b _ _ d"]:
        return pixel_unshuffle(self.mlp(x), ALPHA)


class Combine(nn.Module):
    """The authors' third MLP, W_2 GELU(W_1 x + b_1) + b_2, and what becomes of Eq. 1 behind it."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, segment: Float[Tensor, "b q d"]) -> Float[Tensor, "b q d"]:
        return self.second(F.gelu(self.first(segment)))

    def dot(self, hidden: Float[Tensor, "b r h w d"], segment: Float[Tensor, "b q d"]) -> Float[Tensor, "b q h w"]:
        """Eq. 1 of W_2 hidden + b_2 and the token, with W_2 on the side of the token, which is one."""
        product = dot(hidden, segment @ self.second.weight)
        return product + (segment @ self.second.bias / segment.shape[-1] ** 0.5)[..., None, None]


class Self1e(TunedMethod):
    """What SELF1E adds to the adapter of an MLLM: two MLPs, or three. `mllm` must give `TunedReadout.refilled` where
    F_V1^HQ is used, and one segmentation token."""

    config: Self1eConfig

    def __init__(self, config: Self1eConfig, mllm: TunedReader):
        super().__init__(mllm)
        self.config = config
        sharing = SHARING[config.amplifiers]
        self._by = {name: sharing[name] for name in USED[config.features] if name in sharing}
        self.amplifiers = nn.ModuleDict({name: Amplifier(mllm.width) for name in dict.fromkeys(self._by.values())})
        self.combine = Combine(mllm.width) if config.combine else None

    @property
    def mask_side(self) -> int:
        return self.config.mask_side

    # ---------------------------------------------------------------- forward

    def precompute(self, read: TunedReadout) -> AmplifiedFeatures:
        """F_V1^HQ and F_V1 come from the vision tower, before any word."""
        if self.config.features == "image":
            return AmplifiedFeatures(None, None)
        if read.refilled is None:
            raise ValueError("SELF1E got a reading without refilled patches; adapt the MLLM with refill='replicate'")
        refilled = self._enter(self._amplify("refilled", as_map(read.refilled[:, None], read.fine_grid)))
        if self.config.features == "refilled":
            return AmplifiedFeatures(refilled, None)
        return AmplifiedFeatures(refilled, self._amplify("given", as_map(read.given[:, None], read.grid)))

    def decode(
        self, read: TunedReadout, embedding: Embedding | None = None, precomputed: AmplifiedFeatures | None = None
    ) -> MethodOutput:
        image = self._amplify("image", as_map(read.image, read.grid))
        # Eq. 6; without f'_PUS a mean over one
        states = self._amplify("image", as_map(read.segment[:, :, :1], (1, 1)))
        segment = reduce(states, "b q h w d -> b q d", "mean")
        vision = self.precompute(read) if precomputed is None else precomputed
        logits = self._dot(self._parts(vision, image), segment)
        if self.config.upsampling == "twice" or logits.shape[-2] != logits.shape[-1]:  # a canvas is square
            logits = self._compared(logits)
        coarse = dot(image, self._coarse_token(segment)) if self.config.coarse else None
        return MethodOutput(logits, coarse_logits=coarse, text_loss=read.text_loss)

    def _compared(self, logits: Float[Tensor, "b q _ _"]) -> Float[Tensor, "b q s s"]:
        side = (self.mask_side, self.mask_side)
        return logits if logits.shape[-2:] == side else resize(logits, side)

    def _coarse_token(self, segment: Float[Tensor, "b q d"]) -> Float[Tensor, "b q d"]:
        if self.combine is None or self.config.coarse_token == "before":
            return segment
        return self.combine(segment)

    def _parts(self, vision: AmplifiedFeatures, image: Float[Tensor, "b r h w d"]) -> list[Tensor]:
        """The terms of F'_IMG in Eq. 3 or 5, before up-sampling."""
        if vision.refilled is None:
            return [self._enter(image)]
        if vision.given is None:
            return [vision.refilled]
        residual = self._amplify("residual", image - vision.given)  # Eq. 2, or 4
        return [vision.refilled, self._enter(residual, bias=False)]

    def _dot(self, parts: list[Tensor], segment: Float[Tensor, "b q d"]) -> Float[Tensor, "b q _ _"]:
        """Eq. 3 or 5, and Eq. 1. What is linear changes places with up-sampling: fewer pixels, or a plane for d."""
        size = max((part.shape[2], part.shape[3]) for part in parts)  # one is a multiple of the other
        if self.combine is None:
            return functools.reduce(torch.add, (resize(dot(part, segment), size) for part in parts))
        fused = functools.reduce(torch.add, (enlarge(part, size) for part in parts))
        return self.combine.dot(F.gelu(fused), self.combine(segment))

    def _enter(self, x: Float[Tensor, "b r h w d"], bias: bool = True) -> Float[Tensor, "b r h w d"]:
        """W_1 of the third MLP, whose bias goes to one term only."""
        if self.combine is None:
            return x
        return F.linear(x, self.combine.first.weight, self.combine.first.bias if bias else None)

    def _amplify(self, name: str, x: Float[Tensor, "b r h w d"]) -> Float[Tensor, "b r _ _ d"]:
        return self.amplifiers[self._by[name]](x) if name in self._by else x

    # ---------------------------------------------------------------- loss

    def losses(self, output: MethodOutput, truth: Truth, totals: Totals | None = None) -> dict[str, Tensor]:
        """Section 3.6 as named, weighted terms, averaged over the masks and answers of this batch, or over `totals`."""
        totals = totals or truth.totals()
        asked, total = self.with_mask(truth, totals)
        total = total if self.config.mask_mean == "masks" else totals.answered
        terms = self._mask_terms(self._compared(output.mask_logits)[asked], truth.masks[asked], total)
        if output.coarse_logits is not None:
            coarse = self._mask_terms(self._compared(output.coarse_logits)[asked], truth.masks[asked], total)
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


def mlp(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, out))


def precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def as_map(tokens: Float[Tensor, "b r i d"], grid: tuple[int, int]) -> Float[Tensor, "b r h w d"]:
    return precise(rearrange(tokens, "b r (h w) d -> b r h w d", h=grid[0]))


def dot(image: Float[Tensor, "b r h w d"], segment: Float[Tensor, "b q d"]) -> Float[Tensor, "b q h w"]:
    """Eq. 1; r is q or 1. Autocast would round the logits to half precision."""
    with torch.autocast(image.device.type, enabled=False):
        product = einsum(precise(image), precise(segment), "b q h w d, b q d -> b q h w")
    return product / image.shape[-1] ** 0.5


def resize(maps: Float[Tensor, "b c _ _"], size: tuple[int, int]) -> Float[Tensor, "b c _ _"]:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def enlarge(features: Float[Tensor, "b r _ _ d"], size: tuple[int, int]) -> Float[Tensor, "b r _ _ d"]:
    if features.shape[2:4] == size:
        return features
    planes = resize(rearrange(features, "b r h w d -> b (r d) h w"), size)
    return rearrange(planes, "b (r d) h w -> b r h w d", d=features.shape[-1])


def build_self1e(config: Self1eConfig, backbone: BackboneSource, decoder: None = None) -> Self1e:
    """A fresh SELF1E on a fresh adapter of the backbone. It needs no mask decoder."""
    return Self1e(config, backbone.adapt(config.tuning(), config.speech(), config.attention, config.refill))


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
