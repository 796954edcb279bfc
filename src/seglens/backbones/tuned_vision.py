"""The vision side of an MLLM with an adapter: canvases in, image tokens and the prefix of the language model out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from seglens.backbones.mllm import MLLM
from seglens.backbones.tiles import Tiling
from seglens.backbones.vision_layout import Patches
from seglens.core.geometry import Frame
from seglens.core.tuning_types import Refill


@dataclass(frozen=True)
class VisionRows:
    """The patches of canvases, and the prefix as the first decoder layer is given it; `given` and `refilled` are the
    image tokens, as in `TunedReadout`."""

    patches: Float[Tensor, "b f v"]
    given: Float[Tensor, "b i d"]
    refilled: Float[Tensor, "b f d"] | None
    later: tuple[Float[Tensor, "b i d"], ...]
    rows: Float[Tensor, "b p d"]
    positions: Int[Tensor, "b p ..."]
    tower: tuple[Float[Tensor, "b n v"], ...] = ()  # as in `Patches`


@final
@dataclass(frozen=True, eq=False)
class TunedVision:
    """Shows canvases to `mllm`, in tiles without an overview; `changed`: its vision tower has an adapter too."""

    mllm: MLLM
    tiling: Tiling
    refill: Refill
    changed: bool

    def encode(self, pixels: Float[Tensor, "b 3 n n"]) -> VisionRows:
        layout, mllm = self.mllm.family.layout, self.mllm
        patches = self.patches(pixels)
        merged = patches.merged(layout.grid, layout.shuffle)
        parts = [merged]
        if self.refill != "none":
            parts.append(patches.refilled(layout.grid, layout.shuffle, self.refill))
        given, *refilled = mllm.family.project(torch.cat(parts, 1)).split([part.shape[1] for part in parts], 1)
        before = torch.tensor([mllm.reading.before()], dtype=torch.long, device=mllm.device)
        words = mllm.model.get_input_embeddings()(before).expand(len(pixels), -1, -1)
        image = given[:, self.tiling.places.argsort().to(given.device)]  # in the order of the prompt
        rows = torch.cat([words, image.to(words)], 1)
        positions = mllm.family.prefix_positions(before.shape[1])[: rows.shape[1]][None]  # fewer without an overview
        return VisionRows(
            patches.rows,
            given,
            refilled[0] if refilled else None,
            patches.later,
            rows,
            positions.to(mllm.device).expand(len(pixels), *positions.shape[1:]),
            patches.tower,
        )

    def is_familiar(self, pixels: Float[Tensor, "1 3 n n"], vision: VisionRows, frame: Frame) -> bool | None:
        """As `MLLM.is_familiar`; None where the vision tower has an adapter, because the statistic was made without.
        Tiles are no whole picture: it is given to the tower for this alone."""
        if self.changed or self.mllm.familiarity is None:
            return None
        if self.tiling.across == 1:
            return self.mllm.is_familiar(vision.tower, frame)
        overview = replace(self.tiling, overview=True).cut(pixels)[:, -1]
        return self.mllm.is_familiar(self.mllm.family.patches(overview).tower, frame)

    def patches(self, pixels: Float[Tensor, "b 3 n n"]) -> Patches:
        """The patches of canvases, tile by tile where there are tiles."""
        if self.tiling.across == 1:
            return self.mllm.family.patches(pixels)
        return Patches(self.tiling.plane(self.mllm.family.patches(self.tiling.cut(pixels).flatten(0, 1)).rows))
