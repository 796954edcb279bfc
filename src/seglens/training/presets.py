"""Named ways to train a method: the presets of the methods, collected, and the data that they are trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from seglens.checkpoints.origin import Origin
from seglens.core.geometry import LETTERBOX, Canvas
from seglens.core.names import check_name
from seglens.data.negatives import USUAL
from seglens.data.spec import typed_value
from seglens.inference.frozen_models import Parts, chosen_heads
from seglens.methods import METHODS, name_of
from seglens.methods.lens import LensConfig
from seglens.methods.preset import Preset
from seglens.training.config import TrainConfig


@dataclass(frozen=True)
class Recipe:
    """A method with its settings, its training and, where a publication states it, its data: `rates` are the shares of
    LISA's mixture, and `prompt` the templates of its queries. The prompt of a head follows from `prompt` and `system`,
    and is written into its config."""

    method: Any  # a config of seglens.methods
    training: TrainConfig
    backbone: str | None = None
    decoder: str | None = None
    layer: int | None = None
    rates: str = "paper"
    prompt: str | None = None  # templates of queries, unless the data names some; None: as the data has them
    system: Mapping[str, str] = field(default_factory=dict)  # text before each image, by family of MLLM
    canvas: Canvas = LETTERBOX  # how pictures are fitted to the MLLM's canvas
    # share of queries for what an image does not show, unless the data names one: no paper has any
    negatives: float = USUAL

    @property
    def floors(self) -> int | None:
        """As in `Parts`."""
        return self.method.floors if isinstance(self.method, LensConfig) else None

    def with_system(self, parts: Parts) -> Parts:
        """The parts, whose MLLM gets the system text of its family. One whose tokenizer does not know its words (the
        embedded ones) gets none."""
        system = self.system.get(parts.backbone.family)
        return parts.with_system_text(None if system is None or parts.backbone.prompts.unknown(system) else system)


OURS = ("default", "quick")  # presets that are no publication's
KNOWN = "known"  # in place of a file of heads: those that the package brings
ADJUSTABLE = ("method", "training", "canvas")
# shares of LISA's mixture in the released code of a method, where they are not those of the papers
# no paper has those of a quick training: phrases and reasoning alone
RATES = {("lens", "quick"): "0-3-0-1", ("lens", "authors"): "authors", ("lisa", "authors"): "lisa"}


def _collected(method: str, name: str, preset: Preset[Any]) -> Recipe:
    parts: dict[str, Any] = {key: getattr(preset, key) for key in ("backbone", "decoder", "layer", "prompt", "system")}
    rates = RATES.get((method, name), "paper")
    return Recipe(preset.config, TrainConfig(**preset.training), rates=rates, canvas=preset.canvas, **parts)


# every preset is in its method's file; a method without any has nothing to train
RECIPES: dict[str, dict[str, Recipe]] = {
    method: {name: _collected(method, name, preset) for name, preset in kind.presets.items()}
    for method, kind in METHODS.items()
    if kind.trained
}


def recipe(name: str, method: str = "lens") -> Recipe:
    """The preset of that name for a method. Raises ValueError with the nearest name on a typo."""
    check_name(method, RECIPES, "method")
    check_name(name, RECIPES[method], f"preset of {method}")
    preset = RECIPES[method][name]
    return preset if name in OURS else replace(preset, negatives=0.0)  # a publication's own data alone


def adjusted(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """The recipe with settings "name=value" of its head, its training or its canvas changed.

    Raises ValueError on a name that none of them has, with the nearest, and on a value of another kind."""
    for text in settings:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise ValueError(f"got the setting {text!r}; write name=value, as in lr=1e-4")
        parts = {field.name: part for part in ADJUSTABLE for field in fields(getattr(recipe, part))}
        check_name(name, parts, "setting")
        config: Any = getattr(recipe, parts[name])
        typed = typed_value(get_type_hints(type(config))[name], name, value)
        recipe = replace(recipe, **{parts[name]: replace(config, **{name: typed})})
    return recipe


def starting_from_heads(recipe: Recipe, heads: str) -> Recipe:
    """The recipe of LENS with learned weights of attention heads that start from those of a file, or from those that
    the package brings for the MLLM (KNOWN). Raises ValueError for another method, for heads of another MLLM, and when
    the package brings none."""
    if not isinstance(recipe.method, LensConfig):
        raise ValueError(
            f"got --heads for {name_of(recipe.method)}; only lens starts from attention heads, leave it out"
        )
    if recipe.backbone is None:
        raise ValueError("got --heads and no MLLM whose heads they are; give --backbone")
    choice = chosen_heads(None if heads == KNOWN else Path(heads), Origin.of(recipe.backbone))
    if choice is None:
        raise ValueError(
            f"the package brings no heads for {recipe.backbone}; measure them with `seglens probe --heads` and "
            "give the file, or leave --heads out and set head_weights=learned, which starts from all heads equally"
        )
    return replace(recipe, method=replace(recipe.method, head_weights="learned", heads=choice.heads))
