"""What the page shows of a picture and the masks in it, ready for the browser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from seglens.page.layers import colour_of, data_uri, heat_layer, mask_layer, picture
from seglens.prediction import Prediction
from seglens.schema import Box, Click


@dataclass(frozen=True)
class Dot:
    """A keypoint."""

    x: float
    y: float
    on_target: bool


@dataclass(frozen=True)
class Mark:
    """A click, drawn as a plus or a minus."""

    path: str  # SVG, in pixels of the image
    label: int


@dataclass(frozen=True)
class Rectangle:
    """A box that was drawn, as SVG has it."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Entry:
    """One line of the legend."""

    colour: str | None  # as CSS
    says: str


@dataclass(frozen=True)
class View:
    """The picture and its layers; images are data URIs, coordinates are pixels of the whole image."""

    width: int
    height: int
    picture: str
    radius: float  # of a keypoint
    mask: str | None = None
    heat: str | None = None
    keypoints: tuple[Dot, ...] = ()
    clicks: tuple[Mark, ...] = ()
    box: Rectangle | None = None
    things: tuple[Entry, ...] = ()


def view_of(image: UInt8[np.ndarray, "h w 3"], predictions: Sequence[Prediction], side: int) -> View:
    """The image with all that `predictions` say of it; heat map, keypoints and clicks are the last one's."""
    height, width = image.shape[:2]
    radius = max(2.0, max(height, width) / 90)
    view = View(width, height, data_uri(picture(image, side)), radius)
    return view if not predictions else _with(view, predictions, side)


def _with(view: View, predictions: Sequence[Prediction], side: int) -> View:
    last = predictions[-1]
    layers = (mask_layer([one.mask for p in predictions for one in p.things], side), heat_layer(last, side))
    mask, heat = (None if layer is None else data_uri(layer) for layer in layers)
    return View(
        view.width, view.height, view.picture, view.radius, mask, heat, _dots(last),
        tuple(_mark(click, view.radius) for click in last.corrections.clicks), _frame(last.corrections.box),
        _legend(predictions),
    )  # fmt: skip


def _dots(prediction: Prediction) -> tuple[Dot, ...]:
    rows = zip(prediction.keypoints, prediction.keypoint_labels, strict=True)
    return tuple(Dot(round(float(x), 1), round(float(y), 1), bool(on)) for (x, y), on in rows)


def _mark(click: Click, radius: float) -> Mark:
    x, y, r = (round(value, 1) for value in (click.x, click.y, 1.6 * radius))
    upright = f" M{x} {y - r}V{y + r}" if click.label else ""
    return Mark(f"M{x - r} {y}H{x + r}{upright}", click.label)


def _frame(box: Box | None) -> Rectangle | None:
    return None if box is None else Rectangle(box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0)


def _legend(predictions: Sequence[Prediction]) -> tuple[Entry, ...]:
    """A line per thing, numbered when there are several; words where nothing was found."""
    things = [one for p in predictions for one in p.things]
    if not things:
        return (Entry(None, predictions[-1].reason or "Nothing was found."),)
    names = [""] if len(things) == 1 else [f"{number}: " for number in range(1, len(things) + 1)]
    return tuple(
        Entry(f"rgb{colour_of(number)}", f"{name}score {one.score:.2f}, {int(one.mask.sum()):,} pixels")
        for number, (name, one) in enumerate(zip(names, things, strict=True))
    )
