"""A contact sheet of one sample: the image, then each query with its mask painted in."""

from __future__ import annotations

import math
import textwrap

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from seglens.core.mask_edges import edge_pixels
from seglens.core.types import Sample, Target

SIDE = 384  # longest side of a panel, in pixels
COLUMNS = 4
LINES = 3  # of text below a panel
TEXT, GAP = 14, 8
MASK, IGNORED, PAPER, INK = (255, 64, 96), (128, 128, 128), (255, 255, 255), (20, 20, 20)


def sheet(sample: Sample) -> Image.Image:
    """RGB panels in rows, the words below each. Masks are red with a firm outline, ignored pixels gray."""
    panels = [(sample.image, sample.id)] + [(_painted(sample.image, one), _words(one)) for one in sample.targets]
    height, width = sample.image.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    cell = max(w, SIDE // 2) + GAP, h + LINES * (TEXT + 2) + GAP
    columns = min(COLUMNS, len(panels))
    paper = Image.new("RGB", (columns * cell[0] + GAP, math.ceil(len(panels) / columns) * cell[1] + GAP), PAPER)
    draw, font = ImageDraw.Draw(paper), ImageFont.load_default(TEXT)
    for number, (pixels, words) in enumerate(panels):
        x, y = GAP + number % columns * cell[0], GAP + number // columns * cell[1]
        paper.paste(Image.fromarray(pixels).resize((w, h), Image.Resampling.LANCZOS), (x, y))
        lines = textwrap.wrap(words, max(1, int((cell[0] - GAP) / (0.55 * TEXT))), max_lines=LINES, placeholder=" …")
        draw.multiline_text((x, y + h + 2), "\n".join(lines), INK, font, spacing=2)
    return paper


def _words(target: Target) -> str:
    if target.spoken:
        return f"{target.query} [{target.kind}] {target.answer}"
    return f"{target.query} [{target.kind}]" + ("" if target.present else " (absent)")


def _painted(image: UInt8[np.ndarray, "h w 3"], target: Target) -> UInt8[np.ndarray, "h w 3"]:
    picture = image.copy()
    if target.ignore is not None:
        picture[target.ignore] = picture[target.ignore] // 2 + np.array(IGNORED, np.uint8) // 2
    picture[target.mask] = picture[target.mask] // 2 + np.array(MASK, np.uint8) // 2
    picture[edge_pixels(target.mask, 1 + max(image.shape) // SIDE, border=False)] = MASK
    return picture
