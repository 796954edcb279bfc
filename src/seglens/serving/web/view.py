"""What the page shows of a picture and its masks, ready for the browser."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from PIL import Image

from seglens.core.png_files import png_bytes
from seglens.core.schema import Box, Click
from seglens.inference.prediction import Prediction
from seglens.serving.web.findings import Finding
from seglens.serving.web.layers import colour_of, data_uri, embed, heat_layer, mask_layer, picture
from seglens.serving.web.visit_state import State


@dataclass(frozen=True)
class Dot:
    """A keypoint as it is drawn."""

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
    """A box that the visitor drew, in the form of SVG."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class LegendEntry:
    """One of several things of a query, in the legend."""

    colour: str  # as CSS
    text: str


@dataclass(frozen=True)
class Layer:
    """A query in the legend, with its mask over the picture."""

    id: int
    query: str  # as HTML
    result: str  # how much was found, or why nothing was; as HTML
    colour: str | None = None  # as CSS; None where nothing was found
    mask: str | None = None
    file: str | None = None  # the mask alone, to download
    things: tuple[LegendEntry, ...] = ()  # when there are several
    shown: bool = True
    chosen: bool = False
    doubted: bool = False  # no mask is shown because the picture or a word is unfamiliar to the model


@dataclass(frozen=True)
class View:
    """The picture and its layers; images are data URIs, coordinates are pixels of the whole image."""

    width: int
    height: int
    picture: str
    radius: float  # of a keypoint
    strange: bool = False  # the picture is not of the kind that the model was made for
    trusted: bool = False  # its masks are shown anyway
    layers: tuple[Layer, ...] = ()
    chosen: int | None = None  # id of the finding of the heat map, keypoints and corrections below
    chosen_shown: bool = True
    heat: str | None = None
    keypoints: tuple[Dot, ...] = ()
    clicks: tuple[Mark, ...] = ()
    box: Rectangle | None = None


def view_of(state: State, side: int, hidden: Collection[int] = ()) -> View | None:
    """The picture with all findings; heat map, keypoints and clicks are those of the current finding. None without a
    picture. `hidden`: ids of findings that are switched off."""
    if state.image is None:
        return None
    height, width = state.image.shape[:2]
    radius, chosen = max(2.0, max(height, width) / 90), state.finding
    prediction = None if chosen is None or chosen.doubted else chosen.prediction
    return View(
        width,
        height,
        data_uri(picture(state.image, side)),
        radius,
        state.familiar is False,
        state.trust,
        layers=tuple(_layer(one, side, one.id not in hidden, one is chosen) for one in state.findings),
        chosen=None if chosen is None else chosen.id,
        chosen_shown=chosen is None or chosen.id not in hidden,
        heat=None if prediction is None else _uri(heat_layer(prediction, side)),
        keypoints=() if prediction is None else _dots(prediction),
        clicks=() if prediction is None else tuple(_mark(click, radius) for click in prediction.corrections.clicks),
        box=None if prediction is None else _frame(prediction.corrections.box),
    )


def _layer(finding: Finding, side: int, shown: bool, chosen: bool) -> Layer:
    prediction = finding.prediction
    if not prediction.things:
        why, doubted = html_of(prediction.reason or "Nothing was found."), finding.doubted
        return Layer(finding.id, html_of(prediction.query), why, shown=shown, chosen=chosen, doubted=doubted)
    mask = mask_layer([one.mask for one in prediction.things], side, finding.first)
    return Layer(
        finding.id,
        html_of(prediction.query),
        _result(prediction),
        _css(finding.first),
        _uri(mask),
        embed("image/png", png_bytes(Image.fromarray(prediction.mask.astype(np.uint8) * 255))),
        _entries(finding),
        shown,
        chosen,
    )


def _entries(finding: Finding) -> tuple[LegendEntry, ...]:
    things = finding.prediction.things
    return (
        ()
        if len(things) < 2
        else tuple(
            LegendEntry(
                _css(finding.first + number), f"{number + 1}: score {one.score:.2f}, {int(one.mask.sum()):,} pixels"
            )
            for number, one in enumerate(things)
        )
    )


def _result(prediction: Prediction) -> str:
    if len(prediction.things) > 1:
        return f"{len(prediction.things)} things"
    return f"score {prediction.score:.2f}, {int(prediction.mask.sum()):,} pixels"


def html_of(text: str) -> str:
    """HTML that is shown as the text, whatever it contains. All but letters and digits are written as their numbers,
    because the browser's template engine would run code in ${...}."""
    return re.sub(r"[^\w ]", lambda match: f"&#{ord(match[0])};", text)


def _css(number: int) -> str:
    return f"rgb{colour_of(number)}"


def _uri(image: Image.Image | None) -> str | None:
    return None if image is None else data_uri(image)


def _dots(prediction: Prediction) -> tuple[Dot, ...]:
    rows = zip(prediction.keypoints, prediction.keypoint_labels, strict=True)
    return tuple(Dot(round(float(x), 1), round(float(y), 1), bool(on)) for (x, y), on in rows)


def _mark(click: Click, radius: float) -> Mark:
    x, y, r = (round(value, 1) for value in (click.x, click.y, 1.6 * radius))
    upright = f" M{x} {y - r}V{y + r}" if click.label else ""
    return Mark(f"M{x - r} {y}H{x + r}{upright}", click.label)


def _frame(box: Box | None) -> Rectangle | None:
    return None if box is None else Rectangle(box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0)
