"""A scene as a grid of symbols, what each cell shows: target of the vision stage, input of the language stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from seglens.embedded.stage import as_tensor
from seglens.world.concepts import CONCEPTS, PART_NAMES
from seglens.world.draw import PALETTE
from seglens.world.world import SIZE, Scene

SUB = 8  # samples per cell and axis
LEAST_COVER = 0.25  # a cell shows an object when it covers this share of it
LEAST_PART = 0.45  # ... and a part when it is this share of what the object shows there

CONCEPT_INDEX = {c.name: i + 1 for i, c in enumerate(CONCEPTS)}
COLOUR_INDEX = {c: i + 1 for i, c in enumerate(PALETTE)}
PART_INDEX = {p: i + 1 for i, p in enumerate(PART_NAMES)}


@dataclass(frozen=True)
class Symbols:
    """Per cell; index 0 means none. `geometry` is (centre - cell centre, size) of its object, in image widths."""

    concept: Int[Tensor, "b g g"]
    colour: Int[Tensor, "b g g"]
    part: Int[Tensor, "b g g"]
    geometry: Float[Tensor, "b g g 4"]


def _cells(scene: Scene, grid: int) -> tuple[np.ndarray, ...]:
    at = ((np.arange(grid * SUB) + 0.5) * SIZE / (grid * SUB)).astype(int)
    ids, parts = scene.ids[np.ix_(at, at)], scene.parts[np.ix_(at, at)]
    split = (grid, SUB, grid, SUB)
    cover = np.stack([(ids == t.index).reshape(split).sum((1, 3)) for t in scene.things]) / SUB**2
    owner = np.where(cover.max(0) > LEAST_COVER, cover.argmax(0) + 1, 0)
    concept, colour, part = (np.zeros((grid, grid), np.int64) for _ in range(3))
    geometry = np.zeros((grid, grid, 4), np.float32)
    centres = (np.arange(grid) + 0.5) / grid
    for thing in scene.things:
        own = owner == thing.index
        concept[own], colour[own] = CONCEPT_INDEX[thing.name], COLOUR_INDEX[thing.colour]
        x0, y0, x1, y1 = thing.box
        cx, cy = thing.centre[0] / SIZE, thing.centre[1] / SIZE
        size = (x1 - x0) / SIZE, (y1 - y0) / SIZE
        offset = np.stack(np.broadcast_arrays(cx - centres[None, :], cy - centres[:, None], *size), -1)
        geometry[own] = offset[own]
        for k, name in enumerate(thing.concept.parts):
            share = ((ids == thing.index) & (parts == 2 + k)).reshape(split).sum((1, 3)) / SUB**2
            part[own & (share > LEAST_PART * cover[thing.index - 1])] = PART_INDEX[name]
    return concept, colour, part, geometry


def symbols(scenes: list[Scene], grid: int) -> Symbols:
    """The symbols of a batch of scenes on a `grid` x `grid` raster."""
    fields = zip(*(_cells(s, grid) for s in scenes), strict=True)
    return Symbols(*(as_tensor(np.stack(field)) for field in fields))
