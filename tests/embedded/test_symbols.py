"""The symbol grid agrees with the masks."""

from __future__ import annotations

import numpy as np
import torch

from seglens.embedded.symbols import COLOUR_INDEX, CONCEPT_INDEX, PART_INDEX, symbols
from seglens.world.concepts import PART_NAMES
from seglens.world.world import SIZE, Scene, World

GRID = 16  # 16 px a cell: every pixel belongs to one cell


def test_symbols_agree_with_the_masks(world_scenes: list[tuple[World, int, Scene]]) -> None:
    scenes = [scene for _, _, scene in world_scenes[::10]]
    grid = symbols(scenes, GRID)
    filled = 0
    for b, scene in enumerate(scenes):
        cover = np.stack([scene.mask(t).reshape(GRID, 16, GRID, 16).mean((1, 3)) for t in scene.things])
        for y, x in np.ndindex(GRID, GRID):
            # every second pixel is sampled: leave the cells out that the sampling may tip over
            first, *rest = np.sort(cover[:, y, x])[::-1]
            if first < 0.15:
                assert grid.concept[b, y, x] == grid.colour[b, y, x] == grid.part[b, y, x] == 0
                assert not grid.geometry[b, y, x].any()
            elif first > 0.35 and first - rest[0] > 0.1:
                filled += 1
                thing = scene.things[int(cover[:, y, x].argmax())]
                assert grid.concept[b, y, x] == CONCEPT_INDEX[thing.name]
                assert grid.colour[b, y, x] == COLOUR_INDEX[thing.colour]
                here = np.array([x + 0.5, y + 0.5]) / GRID
                offset, size = grid.geometry[b, y, x].double().numpy().reshape(2, 2)
                np.testing.assert_allclose(here + offset, np.array(thing.centre) / SIZE, atol=1e-6)
                x0, y0, x1, y1 = thing.box
                np.testing.assert_allclose(size, np.array([x1 - x0, y1 - y0]) / SIZE, atol=1e-6)
    assert filled > 300


def test_part_symbols_lie_on_their_parts(world_scenes: list[tuple[World, int, Scene]]) -> None:
    scenes = [scene for _, _, scene in world_scenes[::10]]
    grid = symbols(scenes, GRID)
    assert int((grid.part > 0).sum()) > 300
    for b, y, x in (grid.part > 0).nonzero().tolist():
        part = PART_NAMES[int(grid.part[b, y, x]) - 1]
        assert PART_INDEX[part] == grid.part[b, y, x]
        cell = np.s_[16 * y : 16 * (y + 1), 16 * x : 16 * (x + 1)]
        owners = [t for t in scenes[b].things if CONCEPT_INDEX[t.name] == grid.concept[b, y, x] and part in t.parts]
        assert any(scenes[b].mask(t, part)[cell].mean() > 0.05 for t in owners)


def test_a_batch_holds_the_symbols_of_its_scenes(world_scenes: list[tuple[World, int, Scene]]) -> None:
    scenes = [scene for _, _, scene in world_scenes[:3]]
    together = symbols(scenes, 12)
    for b, scene in enumerate(scenes):
        alone = symbols([scene], 12)
        assert torch.equal(alone.concept[0], together.concept[b])
        assert torch.equal(alone.part[0], together.part[b])
        assert torch.equal(alone.geometry[0], together.geometry[b])
