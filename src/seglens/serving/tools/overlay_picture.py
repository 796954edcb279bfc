"""One picture of an image with all masks in it, each with its own colour and number, in few bytes."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Iterable, Sequence

import numpy as np
from einops import reduce
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont

from seglens.core.mask_edges import edge_pixels

BOX = Image.Resampling.BOX  # the mean of all original pixels of a new one
SIDE = 1024  # pixels: enough to look at, and few to send; a mask keeps the image's own size
QUALITIES = (85, 70, 50)  # of JPEG; the first that fits is used
FIRST_HUE, GOLDEN = 0.96, 0.618034  # parts of the colour circle: any number of hues stay apart
COVER = 0.4  # share of the mask's colour in a pixel


def drawn(
    image: UInt8[np.ndarray, "h w 3"], masks: Iterable[Bool[np.ndarray, "h w"]], numbers: Sequence[int] = ()
) -> Image.Image:
    """The image, at most `SIDE` pixels long, with its masks, and with a number on each where `numbers` are given: one
    per mask. Masks are computed one after the other, and made small at once."""
    scale = min(1.0, SIDE / max(image.shape[:2]))
    width, height = (max(1, round(scale * side)) for side in image.shape[1::-1])
    pixels = np.asarray(Image.fromarray(image).resize((width, height), BOX), np.float32)
    centres = list[tuple[int, int] | None]()
    for k, mask in enumerate(shrunk(one, height, width) for one in masks):
        pixels[mask] = (1 - COVER) * pixels[mask] + COVER * _colour(k)
        pixels[edge_pixels(mask)] = _colour(k)
        centres.append(_centre(mask))
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    for centre, number in zip(centres, numbers, strict=True) if numbers else ():
        if centre is not None:
            _write(picture, centre, str(number))
    return picture


def shrunk(mask: Bool[np.ndarray, "h w"], height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """The mask at another size."""
    return mask if mask.shape == (height, width) else most_of(shares(mask).resize((width, height), BOX))


def shares(mask: Bool[np.ndarray, "h w"]) -> Image.Image:
    """The mask as 0 and 255, to be made smaller."""
    return Image.fromarray(mask.astype(np.uint8) * 255)


def most_of(shares: Image.Image) -> Bool[np.ndarray, "h w"]:
    """The pixels that the mask covers by at least half. Of a mask that is too thin for that, those that it covers
    most: no mask disappears."""
    share = np.asarray(shares)
    return share >= min(128, max(1, int(share.max())))


def jpeg(picture: Image.Image, max_bytes: int) -> bytes:
    """The picture in at most `max_bytes`: with lower quality, and then with fewer pixels, where necessary."""
    while True:
        for quality in QUALITIES:
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=quality)
            if buffer.tell() <= max_bytes or max(picture.size) <= 16:
                return buffer.getvalue()
        picture = picture.resize((max(1, picture.width // 2), max(1, picture.height // 2)))


def _colour(k: int) -> np.ndarray:
    """Of the k-th mask."""
    return np.array(colorsys.hsv_to_rgb((FIRST_HUE + k * GOLDEN) % 1, 0.8, 1.0), np.float32) * 255


def _centre(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int] | None:
    """The pixel (x, y) of the mask that is nearest to its centre; None for an empty mask."""
    if not mask.any():
        return None
    pixels = np.argwhere(mask)
    centre = reduce(pixels.astype(float), "n yx -> yx", "mean")
    y, x = pixels[np.square(pixels - centre).sum(1).argmin()].tolist()
    return x, y


def _write(picture: Image.Image, at: tuple[int, int], text: str) -> None:
    size = max(12, max(picture.size) // 40)
    ImageDraw.Draw(picture).text(
        at, text, (255, 255, 255), ImageFont.load_default(size), anchor="mm", stroke_width=2, stroke_fill=(0, 0, 0)
    )
