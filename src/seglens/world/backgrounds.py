"""Backgrounds of the objects: plain and patterned papers, rooms, meadows, shores, nights."""

from __future__ import annotations

import colorsys
import math

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]


def _pastel(rng: np.random.Generator, low: float = 0.62, high: float = 0.95) -> Colour:
    r, g, b = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 0.42), rng.uniform(low, high))
    return round(255 * r), round(255 * g), round(255 * b)


def _gradient(rng: np.random.Generator, size: int, top: Colour, bottom: Colour) -> Image.Image:
    ramp = np.linspace(0, 1, 16)
    turn = rng.uniform(0, 2 * math.pi)
    field = np.add.outer(ramp * math.sin(turn), ramp * math.cos(turn))
    field = ((field - field.min()) / np.ptp(field))[..., None]
    small = np.array(top) * (1 - field) + np.array(bottom) * field
    return Image.fromarray(small.astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)


def _paper(rng: np.random.Generator, size: int) -> Image.Image:
    return _gradient(rng, size, _pastel(rng), _pastel(rng))


def _stripes(rng: np.random.Generator, size: int) -> Image.Image:
    image = _paper(rng, size)
    draw, colour, step = ImageDraw.Draw(image), _pastel(rng), rng.uniform(18, 52)
    lean = rng.uniform(-1, 1) * size
    for x in np.arange(-size, 2 * size, step):
        draw.line([(x, 0), (x + lean, size)], fill=colour, width=int(step * rng.uniform(0.3, 0.5)))
    return image


def _dots(rng: np.random.Generator, size: int) -> Image.Image:
    image = _paper(rng, size)
    draw, colour, step = ImageDraw.Draw(image), _pastel(rng), int(rng.uniform(26, 56))
    r = step * rng.uniform(0.12, 0.26)
    for row, y in enumerate(range(0, size + step, step)):
        for x in range(-(row % 2) * step // 2, size + step, step):
            draw.ellipse([x - r, y - r, x + r, y + r], fill=colour)
    return image


def _room(rng: np.random.Generator, size: int) -> Image.Image:
    image = _gradient(rng, size, wall := _pastel(rng, 0.75), wall)
    draw, floor, horizon = ImageDraw.Draw(image), _pastel(rng, 0.5, 0.8), size * rng.uniform(0.55, 0.8)
    if rng.random() < 0.6:
        paper, step = _pastel(rng, 0.75), rng.uniform(16, 36)
        for x in np.arange(0, size, step):
            draw.rectangle((x, 0, x + step * 0.35, horizon), fill=paper)
    draw.rectangle((0, horizon, size, size), fill=floor)
    dark = (int(0.9 * floor[0]), int(0.9 * floor[1]), int(0.9 * floor[2]))
    for x in np.linspace(-size, 2 * size, 14):
        draw.line([(size / 2 + (x - size / 2) * 0.6, horizon), (x, size)], fill=dark, width=1)
    draw.rectangle((0, horizon - 5, size, horizon), fill=(246, 244, 240))
    return image


def _meadow(rng: np.random.Generator, size: int) -> Image.Image:
    sky = (int(rng.uniform(150, 200)), int(rng.uniform(200, 228)), int(rng.uniform(230, 252)))
    image = _gradient(rng, size, sky, (236, 244, 250))
    draw, x = ImageDraw.Draw(image), np.linspace(0, size, 24)
    for depth in range(3):
        base = size * (0.45 + 0.17 * depth + rng.uniform(-0.05, 0.05))
        hill = base + size * 0.06 * np.sin(x / size * rng.uniform(3, 8) + rng.uniform(0, 6))
        green = (int(150 - 22 * depth + rng.uniform(-20, 20)), int(200 - 14 * depth), int(125 - 18 * depth))
        draw.polygon([(0, size), *zip(x, hill, strict=True), (size, size)], fill=green)
    return image


def _shore(rng: np.random.Generator, size: int) -> Image.Image:
    image = _gradient(rng, size, (198, 226, 246), (250, 236, 214))
    draw, sea, sand = ImageDraw.Draw(image), size * rng.uniform(0.35, 0.5), size * rng.uniform(0.62, 0.8)
    draw.rectangle((0, sea, size, size), fill=(104, 176, 208))
    for y in np.arange(sea + 8, sand, 11):
        x = rng.uniform(0, size)
        draw.arc([x - 24, y - 4, x + 24, y + 6], 200, 340, fill=(160, 208, 228), width=2)
    draw.rectangle((0, sand, size, size), fill=(236, 214, 164))
    return image


def _night(rng: np.random.Generator, size: int) -> Image.Image:
    deep = (int(rng.uniform(40, 80)), int(rng.uniform(50, 80)), int(rng.uniform(100, 140)))
    image = _gradient(rng, size, deep, (min(255, deep[0] + 60), min(255, deep[1] + 60), min(255, deep[2] + 60)))
    draw = ImageDraw.Draw(image)
    for x, y in rng.uniform(0, size, (18, 2)):
        draw.ellipse([x - 1, y - 1, x + 1, y + 1], fill=(250, 246, 220))
    return image


KINDS = (_paper, _stripes, _dots, _room, _meadow, _shore, _night)
WEIGHTS = np.array([2, 1.5, 1, 2, 2, 1, 0.5])


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A background, uint8 "size size 3", with a little coarse and fine noise."""
    image = KINDS[int(rng.choice(len(KINDS), p=WEIGHTS / WEIGHTS.sum()))](rng, size)
    coarse = rng.integers(0, 256, (int(rng.integers(4, 20)),) * 2, dtype=np.uint8)
    cloud = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).convert("RGB")
    image = Image.blend(image, cloud, float(rng.uniform(0, 0.10)))
    grain = rng.integers(-5, 6, (size, size, 1), dtype=np.int16)
    return np.clip(np.asarray(image, dtype=np.int16) + grain, 0, 255).astype(np.uint8)
