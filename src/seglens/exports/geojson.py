"""GeoJSON (RFC 7946) in pixels, not degrees: for viewers of large images, as QuPath, and GIS tools."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Int

from seglens.exports.base import Files, OutputFile
from seglens.exports.outline import Region, regions_of
from seglens.exports.page import AnnotatedImage, ExportedObject, Title, things_of
from seglens.inference.prediction import Prediction


def to_geojson(predictions: Prediction | Iterable[Prediction]) -> dict[str, Any]:
    """A FeatureCollection with one feature per thing: a Polygon with its holes, or a MultiPolygon where it has
    several pieces.

    Coordinates are (x, y) in pixels from the top left, on the edges of pixels. The right-hand rule holds for these
    numbers: x to the right and y *up*, outer rings turn counter-clockwise."""
    things = things_of(predictions)
    return {"type": "FeatureCollection", "features": [_feature(number, one) for number, one in enumerate(things, 1)]}


def _feature(number: int, thing: ExportedObject) -> dict[str, Any]:
    shapes = [_shape(region) for region in regions_of(thing.instance.mask)]
    several = len(shapes) > 1
    return {
        "type": "Feature",
        "id": number,
        "geometry": {
            "type": "MultiPolygon" if several else "Polygon",
            "coordinates": shapes if several else shapes[0],
        },
        "properties": {
            "query": thing.query,
            "score": round(thing.instance.score, 4),
            "area": int(thing.instance.mask.sum()),
        },
    }


def _shape(region: Region) -> list[list[list[int]]]:
    return [_closed(ring) for ring in region.rings]


def _closed(ring: Int[np.ndarray, "_ 2"]) -> list[list[int]]:
    return np.concatenate([ring, ring[:1]]).tolist()


def geojson_paths(title: Title) -> dict[str, None]:
    return {f"{title.name}.geojson": None}


def geojson(page: AnnotatedImage) -> Files:
    """`NAME.geojson`."""
    text = json.dumps(to_geojson(page.predictions), ensure_ascii=False, allow_nan=False)
    (name,) = geojson_paths(page.title)
    return Files([OutputFile(name, text.encode("utf-8", "backslashreplace"))], [name] * len(page.predictions))
