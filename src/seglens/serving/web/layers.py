"""The layers over the picture: each is an image that the browser shows or hides."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from seglens.core.mask_edges import edge_pixels
from seglens.inference.overlay import MASK_COLOUR
from seglens.inference.prediction import Prediction

HEAT_COLOUR = (255, 190, 20)
HEAT, FILL, LINE = 190, 110, 255  # opacities, of 255
# As distinguishable as eight colours can be, on any background and for colour-blind people (after Okabe and Ito).
COLOURS = (
    MASK_COLOUR,
    (0, 158, 255),
    (255, 200, 0),
    (0, 190, 120),
    (190, 110, 255),
    (255, 130, 30),
    (120, 225, 255),
    (235, 235, 235),
)


def colour_of(number: int) -> tuple[int, int, int]:
    """The colour of thing number `number`; the ninth looks like the first."""
    return COLOURS[number % len(COLOURS)]


def shown_size(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height of the picture on the page: never enlarged, its longest side at most `side`."""
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def picture(image: UInt8[np.ndarray, "h w 3"], side: int) -> Image.Image:
    whole = Image.fromarray(image)
    return whole.resize(shown_size(*whole.size, side), Image.Resampling.LANCZOS, reducing_gap=3)


def mask_layer(masks: Sequence[Bool[np.ndarray, "h w"]], side: int, first: int = 0) -> Image.Image | None:
    """Every mask filled and outlined in its colour on a transparent background; None when there are none. `first`: the
    number of the colour of the first mask."""
    if not masks:
        return None
    height, width = masks[0].shape
    size = shown_size(width, height, side)
    layer = np.zeros((size[1], size[0], 4), np.uint8)
    for number, mask in enumerate(masks, first):
        small = np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        layer[small] = (*colour_of(number), FILL)
        layer[edge_pixels(small)] = (*colour_of(number), LINE)
    return Image.fromarray(layer)


def heat_layer(prediction: Prediction, side: int) -> Image.Image | None:
    """The MLLM's attention: the more, the less transparent; None where the method has no such map."""
    if prediction.heat_map is None:
        return None
    height, width = prediction.mask.shape
    strength = Image.fromarray((HEAT * prediction.heat_at_size().clip(0, 1)).astype(np.uint8))
    layer = Image.new("RGBA", shown_size(width, height, side), (*HEAT_COLOUR, 0))
    layer.putalpha(strength.resize(layer.size, Image.Resampling.BILINEAR))
    return layer


def data_uri(image: Image.Image) -> str:
    """The image itself as an address: nothing is written to disk, and no other visitor can fetch it. Layers keep their
    exact colours, pictures nearly."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=90, lossless=image.mode == "RGBA", method=2)
    return embed("image/webp", buffer.getvalue())


def embed(kind: str, data: bytes) -> str:
    """A file of media type `kind` as an address."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
