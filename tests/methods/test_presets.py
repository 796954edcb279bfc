"""Presets stand beside their methods; training collects them and invents none."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from seglens.methods import METHODS
from seglens.training.config import TrainConfig
from seglens.training.presets import RECIPES, recipe


def test_every_preset_of_a_method_is_collected_under_its_name() -> None:
    assert {method: [*kind.presets] for method, kind in METHODS.items() if kind.trained} == {
        method: [*presets] for method, presets in RECIPES.items()
    }
    assert [method for method, kind in METHODS.items() if not kind.trained] == ["localization"]
    assert all("default" in presets for presets in RECIPES.values())


@pytest.mark.parametrize(("method", "name"), [(method, name) for method in RECIPES for name in RECIPES[method]])
def test_a_collected_preset_has_the_numbers_of_its_method(method: str, name: str) -> None:
    preset, collected = METHODS[method].presets[name], recipe(name, method)
    assert (collected.method, collected.canvas, collected.system) == (preset.config, preset.canvas, preset.system)
    assert (collected.backbone, collected.decoder, collected.layer) == (preset.backbone, preset.decoder, preset.layer)
    assert collected.prompt == preset.prompt
    assert asdict(collected.training) == {**asdict(TrainConfig()), **preset.training}


@pytest.mark.parametrize(
    ("method", "name", "steps", "images", "lr", "warmup", "rates"),
    [
        ("mllmseg", "authors", 50_000, 32, 4e-5, 1500, "paper"),
        ("mllmseg", "authors-gres", 20_000, 32, 4e-5, 600, "paper"),
        ("self1e", "paper", 15_000, 160, 1e-4, 100, "paper"),
        ("lisa", "authors", 5000, 160, 3e-4, 100, "lisa"),
        ("ufo", "authors", 1250, 512, 2e-4, 62, "paper"),
    ],
)
def test_published_training_numbers(
    method: str, name: str, steps: int, images: int, lr: float, warmup: int, rates: str
) -> None:
    collected = recipe(name, method)
    training = collected.training
    assert (training.steps, training.images, training.lr, training.warmup) == (steps, images, lr, warmup)
    assert collected.rates == rates
    assert collected.negatives == 0.0  # no publication trains on queries for what an image does not show
