"""Scenes that several tests read; a scene is never changed by its reader."""

from __future__ import annotations

import pytest

from seglens.world.world import Scene, World

SCENES = 150  # per split
WORLDS = (World("train", 0), World("test", 1))


@pytest.fixture(scope="session")
def drawn() -> list[tuple[World, int, Scene]]:
    """The first scenes of a train world and of a test world."""
    return [(world, index, world.scene(index)) for world in WORLDS for index in range(SCENES)]
