"""GeoJSON by RFC 7946: closed rings, holes, the right-hand rule, and the same pixels."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from jaxtyping import Bool

from exports.predictions import MASKS, prediction_of, two_cups
from seglens.exports import AnnotatedImage, to_geojson, write_results


def polygons(feature: dict[str, Any]) -> list[list[list[list[int]]]]:
    geometry = feature["geometry"]
    return geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]


def inside(ring: list[list[int]], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Pixels whose centres are in the ring, by the winding number of its edges around them."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    winding = np.zeros(size, int)
    for (x0, y0), (_, y1) in pairwise(ring):
        winding += ((x0 < x) & (y0 <= y) & (y < y1)).astype(int) - ((x0 < x) & (y1 <= y) & (y < y0)).astype(int)
    return winding != 0


def turn(ring: list[list[int]]) -> int:
    """Twice the area, positive when the ring turns counter-clockwise with y up."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(ring))


@settings(max_examples=40, deadline=None)
@given(MASKS)
def test_any_mask(mask: np.ndarray) -> None:
    features = to_geojson(prediction_of("cat", mask))["features"]
    assert len(features) == mask.any()
    drawn = np.zeros(mask.shape, bool)
    for feature in features:
        for outer, *holes in polygons(feature):
            assert turn(outer) > 0
            assert all(turn(hole) < 0 for hole in holes)
            assert all(ring[0] == ring[-1] and len(ring) >= 5 for ring in (outer, *holes))
            piece = inside(outer, mask.shape)
            for hole in holes:
                assert (inside(hole, mask.shape) <= piece).all()
                piece &= ~inside(hole, mask.shape)
            assert not (drawn & piece).any()
            drawn |= piece
    np.testing.assert_array_equal(drawn, mask)


def test_the_file(tmp_path: Path) -> None:
    write_results([AnnotatedImage("A", [two_cups()])], tmp_path, ["geojson"])
    record = json.loads((tmp_path / "a.geojson").read_text())
    assert record["type"] == "FeatureCollection"
    ring, square = record["features"]
    assert (ring["type"], ring["id"], ring["geometry"]["type"]) == ("Feature", 1, "Polygon")
    assert ring["properties"] == {"query": "each of the cups", "score": 0.9, "area": 20 * 26 - 100}
    outer, hole = ring["geometry"]["coordinates"]
    assert sorted(map(tuple, outer[1:])) == [(4, 5), (4, 25), (30, 5), (30, 25)]
    assert sorted(map(tuple, hole[1:])) == [(10, 10), (10, 20), (20, 10), (20, 20)]
    assert len(square["geometry"]["coordinates"]) == 1
