"""Whether a picture is of the kind that a model was made for, by the states of its vision tower.

A statistic that a model's folder may hold: a small reader of the tower's patch states, and a threshold. For models
without it the answer is not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seglens.core.geometry import Frame
from seglens.model_files.int8_weights import PackedError, load_packed, save_packed

FILE = "familiarity.safetensors"
MOST = 8.0  # standard deviations: one extreme number of a patch decides nothing


@dataclass(frozen=True, eq=False)
class Familiarity:
    """Reads the states of patches after some layers of the tower (0: its embeddings), side by side."""

    layers: Int[Tensor, " l"]
    mean: Float[Tensor, " d"]  # of the states of familiar pictures
    spread: Float[Tensor, " d"]
    look: Float[Tensor, "k d"]  # directions that are searched in a patch
    least: Float[Tensor, " k"]
    weight: Float[Tensor, " 2*k"]  # of its mean over the patches, and of its standard deviation
    threshold: Float[Tensor, ""]

    @classmethod
    def load(cls, folder: str | Path) -> Familiarity | None:
        """The statistic in a model's folder; None where there is none.

        Raises ValueError when the file is damaged, or holds something else."""
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        state = load_packed(path)
        if state.keys() != {field.name for field in fields(cls)}:
            raise PackedError(f"{path} holds {', '.join(sorted(state))}, which is no statistic of familiarity")
        return cls(**state)

    def save(self, folder: Path) -> None:
        save_packed(folder / FILE, self.state())

    def state(self) -> Mapping[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def is_familiar(self, tower: Sequence[Float[Tensor, "1 n d"]], frame: Frame) -> bool:
        """Whether the picture is familiar, by the tower's states of its canvas, layer by layer."""
        states = patches(tower, self.layers.tolist())
        return float(self.score(states, content(frame, self.side(tower))[None].to(states.device))) >= float(
            self.threshold
        )

    @staticmethod
    def side(tower: Sequence[Float[Tensor, "1 n d"]]) -> int:
        """Patches along a side; one state more than a square is that of the class token."""
        return int(tower[0].shape[1] ** 0.5)

    def score(self, states: Float[Tensor, "b f d"], visible: Bool[Tensor, "b f"]) -> Float[Tensor, " b"]:
        """The higher, the more familiar; of the patches that show the picture."""
        state = {name: tensor.to(states.device, torch.float32) for name, tensor in self.state().items()}
        rows = ((states.float() - state["mean"]) / state["spread"]).clamp(-MOST, MOST)
        return read(rows, visible, state["look"], state["least"], state["weight"])


def patches(tower: Sequence[Float[Tensor, "1 n v"]], layers: Sequence[int]) -> Float[Tensor, "1 f d"]:
    """The states of the patches after these layers, side by side."""
    count = Familiarity.side(tower) ** 2
    return torch.cat([tower[layer][:, -count:] for layer in layers], -1)


def read(
    rows: Float[Tensor, "b f d"],
    visible: Bool[Tensor, "b f"],
    look: Float[Tensor, "k d"],
    least: Float[Tensor, " k"],
    weight: Float[Tensor, " 2*k"],
) -> Float[Tensor, " b"]:
    """The score of normalised states: `weight` times mean and standard deviation of max(0, rows · look - least)."""
    share = visible / visible.sum(1, keepdim=True).clamp(min=1)
    matches = torch.relu(rows @ look.T - least)
    mean = (matches * share[..., None]).sum(1)
    variance = ((matches - mean[:, None]).square() * share[..., None]).sum(1)
    return torch.cat([mean, (variance + 1e-4).sqrt()], 1) @ weight


def content(frame: Frame, side: int) -> Bool[Tensor, " f"]:
    """Which patches of the canvas show the picture, and not its padding."""
    height, width = frame.content(side)
    visible = torch.zeros(side, side, dtype=torch.bool)
    visible[:height, :width] = True
    return visible.flatten()
