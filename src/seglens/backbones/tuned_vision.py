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

    tiling: Tiling
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
    refill: Refill
    changed: bool

    def encode(self, pixels: Float[Tensor, "b 3 h w"]) -> VisionRows:
        layout, mllm, tiling = self.mllm.family.layout, self.mllm, self._tiling(pixels)
        patches = self.patches(pixels)
        merged = patches.merged(tiling.grid, layout.shuffle)
        parts = [merged]
        if self.refill != "none":
            parts.append(patches.refilled(tiling.grid, layout.shuffle, self.refill))
        given, *refilled = mllm.family.project(torch.cat(parts, 1)).split([part.shape[1] for part in parts], 1)
        before = torch.tensor([mllm.reading.before()], dtype=torch.long, device=mllm.device)
        words = mllm.model.get_input_embeddings()(before).expand(len(pixels), -1, -1)
        image = given[:, tiling.places.argsort().to(given.device)]  # in the order of the prompt
        rows = torch.cat([words, image.to(words)], 1)
        positions = mllm.family.prefix_positions(before.shape[1], tiling)[None]
        return VisionRows(
            tiling,
            patches.rows,
            given,
            refilled[0] if refilled else None,
            patches.later,
            rows,
            positions.to(mllm.device).expand(len(pixels), *positions.shape[1:]),
            patches.tower,
        )

    def is_familiar(self, pixels: Float[Tensor, "1 3 h w"], vision: VisionRows, frame: Frame) -> bool | None:
        """As `MLLM.is_familiar`; None where the vision tower has an adapter, because the statistic was made without.
        Tiles are no whole picture: it is given to the tower for this alone."""
        if self.changed or self.mllm.familiarity is None:
            return None
        if vision.tiling.tiles == 1:
            return self.mllm.is_familiar(vision.tower, frame)
        overview = replace(vision.tiling, overview=True).cut(pixels)[:, -1]
        return self.mllm.is_familiar(self.mllm.family.patches(overview).tower, frame)

    def patches(self, pixels: Float[Tensor, "b 3 h w"]) -> Patches:
        """The patches of canvases, tile by tile."""
        tiling = self._tiling(pixels)
        if tiling.tiles == 1:
            return self.mllm.family.patches(pixels)
        return Patches(tiling.plane(self.mllm.family.patches(tiling.cut(pixels).flatten(0, 1)).rows))

    def _tiling(self, pixels: Float[Tensor, "b 3 h w"]) -> Tiling:
        """The canvas states its tiles by its size."""
        layout = self.mllm.family.layout
        return replace(layout.tiling, overview=False).over(pixels, layout.tile)
