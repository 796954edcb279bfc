"""A picture with a line of words below it, for notebooks."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import Any

from PIL import Image

SIDE = 1024  # pixels of the longest side: a notebook is saved with all that it shows


def small_png(image: Image.Image) -> bytes:
    """The image as a PNG file, no longer than `SIDE`."""
    image = image.copy()
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def as_html(image: Image.Image, words: str) -> str:
    """A figure that holds the image itself."""
    data = base64.b64encode(small_png(image)).decode()
    return (
        f'<figure style="margin:0"><img style="max-width:100%" alt="{escape(words)}" '
        f'src="data:image/png;base64,{data}"><figcaption>{escape(words)}</figcaption></figure>'
    )


def plotted(image: Image.Image, words: str, axes: Any = None) -> Any:
    """On matplotlib's axes (by default those of a new figure), which are returned.

    Raises ImportError without matplotlib."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("plot() needs matplotlib: pip install 'seglens[plot]'; overlay() does without") from error
    if axes is None:
        _, axes = pyplot.subplots()
    axes.imshow(image)
    axes.set_title(words, wrap=True)
    axes.set_axis_off()
    return axes
