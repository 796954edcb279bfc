"""Outlines as polygons without holes, for formats that have none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from seglens.exports.outline import Bridge, Region


def bridged(region: Region) -> Int[np.ndarray, "n 2"]:
    """One polygon that enters every hole over its bridge and leaves it over the same one.

    A bridge has no width: filling by the even-odd rule, as COCO does, gives the region's pixels exactly. It is within
    the mask, so that drawing the line of the polygon too, as OpenCV does, adds no pixels along it."""
    leaving = defaultdict[int, list[Bridge]](list)
    for bridge in region.bridges:
        leaving[bridge.ring].append(bridge)
    walks: dict[int, np.ndarray] = {}
    for ring in reversed(range(len(region.rings))):  # a bridge starts from an earlier ring than it leads to
        walks[ring] = _walk(region.rings[ring], leaving[ring], walks)
    return walks[0]


def _walk(ring: Int[np.ndarray, "_ 2"], bridges: list[Bridge], walks: dict[int, np.ndarray]) -> Int[np.ndarray, "n 2"]:
    """The ring with the walks of all holes that are reached from it."""
    pieces, done = [], 0
    for bridge in sorted(bridges, key=lambda one: (one.after, _way(ring, one, walks))):
        hole = walks.pop(bridge.hole)
        foot = np.array([[bridge.x, hole[0, 1]]])
        pieces += [ring[done : bridge.after + 1], foot, hole, hole[:1], foot]
        done = bridge.after + 1
    return np.concatenate([*pieces, ring[done:]])


def _way(ring: Int[np.ndarray, "_ 2"], bridge: Bridge, walks: dict[int, np.ndarray]) -> int:
    """How far along its edge a bridge leaves."""
    return abs(int(walks[bridge.hole][0, 1] - ring[bridge.after, 1]))


def joined(regions: Sequence[Region]) -> Int[np.ndarray, "n 2"]:
    """One polygon for all regions: from each to the next over a line of no width, and back over the same ones.

    Exact by the even-odd rule; drawing the line of the polygon too adds these lines to the background."""
    walks = [bridged(region) for region in regions]
    there = [np.concatenate([walk, walk[:1]]) for walk in walks]
    back = [walk[:1] for walk in walks[-2::-1]] if len(walks) > 1 else []
    return np.concatenate([*there, *back])[: None if len(walks) > 1 else -1]
