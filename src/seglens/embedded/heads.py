"""Every method at the embedded models' sizes: its settings, and its learning rate there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from seglens.methods import kind_of
from seglens.methods.lens import LensConfig
from seglens.training.config import TrainConfig
from seglens.training.presets import recipe

DESCRIPTOR_WIDTH, ENCODER_WIDTH = 128, 256  # narrow, so that all weights stay under 25 MB
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# The vocabulary is one of words, few of which the templates of the papers would find there: a query is asked as it is
# and answered by the token alone. Only the rows of the new tokens are trained.
SPOKEN: dict[str, Any] = {"request": "{}", "answers": ("[SEG].",), "rank": 8, "alpha": 16.0, "vocabulary": False}
# A method that knows no other refusal learns an empty mask for what is not there: all learn from all questions.
EMPTY: dict[str, Any] = {"absent": "empty"}
SIZES: dict[str, dict[str, Any]] = {
    "lens": {"descriptor_width": DESCRIPTOR_WIDTH, "encoder_width": ENCODER_WIDTH},
    "mllmseg": {
        **SPOKEN,
        "refusal": "[REJ].",
        "targets": LINEAR,
        "width": 128,
        "heads": 4,
        "feed_forward": 128,
        "subpixels": 8,
    },
    # at a rate that suits fresh parts, training what feeds the language model breaks it (docs/log.md)
    "self1e": {**SPOKEN, **EMPTY, "targets": LINEAR, "vision_rank": 0, "projector": False},
    "lisa": {**SPOKEN, **EMPTY},  # on q_proj and v_proj, as in its paper
    "ufo": {**SPOKEN, **EMPTY, "answers": ("<MASK>.",), "targets": LINEAR},
    "localization": {},
}
# Short searches of 120 steps of 4 images with 4 queries, all new; mean IoU of the targets of the last 30 steps: mllmseg
# 1e-3 0.232, 3e-3 0.008; self1e, with vision tower and projector trained too, 1e-3 0.000, and 2e-3 with a dice weight
# of 2 0.157.
RATES = {"lens": 1e-3, "mllmseg": 1.5e-3, "self1e": 1e-3, "lisa": 1e-3, "ufo": 1e-3}


def lens_config(preset: str = "default") -> LensConfig:
    """A preset of LENS at the embedded models' sizes."""
    return replace(recipe(preset).method, **SIZES["lens"])


def embedded_config(method: str, **changes: Any) -> Any:
    """The settings of a method at the embedded models' sizes, with `changes`.

    Raises ValueError with the nearest name on a typo."""
    return kind_of(method).config(**{**SIZES[method], **changes})


def embedded_training(method: str, steps: int, images: int, seed: int = 0) -> TrainConfig:
    """The training of a method on the embedded models within a budget of `steps` of `images`."""
    return TrainConfig(
        steps=steps,
        images=images,
        lr=RATES[method],
        weight_decay=0.02,
        warmup=max(1, steps // 15),
        seed=seed,
        save_every=steps,
        log_every=steps,
        trackers=(),
        keep=1,
    )
