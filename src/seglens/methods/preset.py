"""A named way to set a method up and to train it: what its paper prints, or what its released code runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypedDict, TypeVar

from seglens.core.geometry import LETTERBOX, Canvas
from seglens.methods.groups import Decay

Config = TypeVar("Config")

# The square that the authors of MLLMSeg, SELF1E and UFO make of an image: InternVL's one tile
TILE = Canvas(lay="squash", resample="processor")
LLAVA_SAM: dict[str, Any] = {"backbone": "llava-hf/llava-1.5-7b-hf", "decoder": "facebook/sam-vit-huge", "layer": 14}
# Vicuna's system text, with the name that it has for the person
VICUNA = (
    "A chat between a curious {0} and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
    "polite answers to the {0}'s questions."
)


class TrainingNumbers(TypedDict, total=False):
    """Settings of `seglens.training.config.TrainConfig`; those left out keep its defaults."""

    steps: int
    images: int
    micro: int
    lr: float
    language_lr: float
    betas: tuple[float, float]
    weight_decay: float
    decay: Decay
    schedule: Literal["linear", "cosine", "constant"]
    warmup: int
    clip: float | None


@dataclass(frozen=True)
class Preset(Generic[Config]):
    """A method's config with the numbers it is trained with and, where a publication names them, the models, the
    templates and system texts, and the way an image is laid on the canvas."""

    config: Config
    training: TrainingNumbers = field(default_factory=TrainingNumbers)
    backbone: str | None = None
    decoder: str | None = None
    layer: int | None = None
    prompt: str | None = None  # the templates that queries are put in, unless the data names others; None: the data's
    system: Mapping[str, str] = field(default_factory=dict)  # the text before each image, by family of MLLM
    canvas: Canvas = LETTERBOX
