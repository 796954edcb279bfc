"""A trained head that a training starts from: MLLMSeg's GRES stage and UFO's last stages start so."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from seglens.checkpoints.config import read_config, weights_sum
from seglens.checkpoints.head import MisfitError, few, load_state
from seglens.checkpoints.origin import Origin
from seglens.convert.published import head_folder
from seglens.methods import Method, method_settings, name_of
from seglens.training.presets import Recipe
from seglens.training.run_folder import step_of


@dataclass(frozen=True)
class InitialHead:
    """The head in `folder`, which the user called `name`, for a training by `recipe`."""

    name: str
    folder: Path
    recipe: Recipe

    @classmethod
    def of(cls, name: str | Path, recipe: Recipe) -> InitialHead:
        """Raises ValueError for a head of another method, or of other frozen parts."""
        folder = head_folder(name)
        config, method = read_config(folder), name_of(recipe.method)
        if config.method != method:
            raise ValueError(
                f"{name} is a head of {config.method}, and {method} is trained here; give a head of {method} to start "
                "from"
            )
        parts = {"MLLM": (config.backbone, recipe.backbone), "mask decoder": (config.decoder, recipe.decoder)}
        for what, (theirs, ours) in parts.items():
            if theirs is None or ours is None:  # a method that has no mask decoder
                continue
            if theirs.resolve(folder) != Origin.of(ours).resolve():
                raise ValueError(
                    f"{name} is a head for the {what} {theirs.name}, and {ours} is given here; train on the same one, "
                    "or start from another head"
                )
        return cls(str(name), folder, recipe)

    def load_into(self, head: Method, layer: int | None) -> None:
        """Its weights, adapter included. Raises ValueError for another shape or layer."""
        theirs = read_config(self.folder).layer
        if theirs != layer:
            raise ValueError(
                f"{self.name} reads the MLLM at layer {theirs}, and layer {layer} is given here; give --layer {theirs}"
            )
        try:
            load_state(self.folder, head)
        except MisfitError as error:
            raise ValueError(
                f"{self.name} cannot start this training, whose head has another shape ({few(error.faults)}); take the "
                f"settings that it was trained with: {self._differing() or 'the same image size'}"
            ) from error

    def _differing(self) -> str:
        """Its settings that differ from those here, as a user would give them: numbers and choices first, a few of
        them."""
        config = read_config(self.folder)
        settings: Any = method_settings(config.method, config.settings)
        pairs: list[tuple[Any, Any]] = [(settings, self.recipe.method), (config.canvas, self.recipe.canvas)]
        other = {
            field.name: getattr(theirs, field.name)
            for theirs, ours in pairs
            for field in fields(theirs)
            if getattr(theirs, field.name) != getattr(ours, field.name)
        }
        texts = sorted(f"{name}={value}" for name, value in other.items())
        return few(sorted(texts, key=lambda text: " " in text))  # sentences last

    def note(self) -> dict[str, str]:
        """For the config of the new head."""
        return {"head": self.name, "weights": weights_sum(self.folder)}

    def notice(self, out: Path) -> str:
        """What a person should know before the training begins."""
        if newest := max(map(step_of, out.glob("step_*")), default=0):
            return f"the run in {out} goes on from its step {newest}; {self.name} is what it started from, no more"
        other = self._differing()
        return f"starting from the weights of {self.name}" + (f", trained with {other}" if other else "")
