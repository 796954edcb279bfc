"""Scenes: reproducible, exact to the pixel, and never shared between the splits."""

from __future__ import annotations

import numpy as np

from seglens.world.concepts import HELD_OUT_COLOURS
from seglens.world.world import SIZE, SMALL, Scene, World

WorldScenes = list[tuple[World, int, Scene]]


def _same(one: Scene, other: Scene) -> bool:
    arrays = zip((one.image, one.ids, one.parts), (other.image, other.ids, other.parts), strict=True)
    return one.things == other.things and all(np.array_equal(a, b) for a, b in arrays)


def test_a_scene_does_not_depend_on_order(world_scenes: WorldScenes) -> None:
    for world, index, scene in reversed(world_scenes[::29]):
        assert _same(World(world.split, world.seed).scene(index), scene)


def test_splits_and_seeds_share_no_scene() -> None:
    worlds = [World(split, seed) for split in ("train", "test") for seed in (0, 1, 2)]
    images = {world.scene(index).image.tobytes() for world in worlds for index in range(3)}
    assert len(images) == 18


def test_held_out_colours_are_shown_in_test_only(world_scenes: WorldScenes) -> None:
    held_out = {"train": set(), "test": set()}
    for world, _, scene in world_scenes:
        held_out[world.split] |= {(t.name, t.colour) for t in scene.things} & HELD_OUT_COLOURS
    assert not held_out["train"]
    assert len(held_out["test"]) > len(HELD_OUT_COLOURS) / 2


def test_boxes_areas_and_centres_are_exact(world_scenes: WorldScenes) -> None:
    for _, _, scene in world_scenes:
        assert scene.image.shape == (SIZE, SIZE, 3)
        assert set(np.unique(scene.ids)) - {0} == {t.index for t in scene.things}  # disjoint, and none is missing
        for t in scene.things:
            mask = scene.mask(t)
            rows, columns = np.nonzero(mask)
            assert t.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert t.area == mask.sum()
            np.testing.assert_allclose(t.centre, (columns.mean() + 0.5, rows.mean() + 0.5))


def test_parts_lie_inside_their_objects(world_scenes: WorldScenes) -> None:
    for _, _, scene in world_scenes:
        assert np.array_equal(scene.parts > 0, scene.ids > 0)
        for t in scene.things:
            pieces = {part: scene.mask(t, part) for part in t.parts}
            assert {part: mask.sum() for part, mask in pieces.items()} == t.parts
            assert sum(t.parts.values()) <= t.area
            assert all((mask <= scene.mask(t)).all() for mask in pieces.values())


def test_two_to_seven_objects_and_little_is_hidden(world_scenes: WorldScenes) -> None:
    counts = {len(scene.things) for _, _, scene in world_scenes}
    assert counts == {2, 3, 4, 5, 6, 7}
    visible = [t.visible for _, _, scene in world_scenes for t in scene.things]
    assert 0.75 <= min(visible) < 1 == max(visible)


def test_most_bounds_the_objects() -> None:
    assert max(len(World("train", 4).scene(index, most=3).things) for index in range(20)) == 3


def test_clones_and_small_targets_occur(world_scenes: WorldScenes) -> None:
    crowds = [len(scene.things) - len({t.name for t in scene.things}) for _, _, scene in world_scenes]
    assert sum(c > 0 for c in crowds) > 0.3 * len(world_scenes)
    small = [t.area < SMALL * SIZE**2 for _, _, scene in world_scenes for t in scene.things]
    assert 0.1 < np.mean(small) < 0.5
