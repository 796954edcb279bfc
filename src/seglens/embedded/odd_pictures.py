"""Pictures that are not of the drawn world, made by code: pictures with the statistics of photographs (dead leaves:
things of all sizes that cover one another, shaded and with 1/f textures), landscapes with such things, the world's own
backgrounds with other things or nothing on them, clouds, noise and plain colours."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageFilter

from seglens.world.backgrounds import background
from seglens.world.world import SIZE

KINDS = {"leaves": 0.38, "land": 0.2, "ground": 0.26, "clouds": 0.08, "noise": 0.04, "plain": 0.04}
GREY, CUT = 0.15, 0.5  # shares


def odd_picture(seed: int, index: int) -> UInt8[np.ndarray, "h w 3"]:
    """Picture number `index`: at most SIZE pixels a side, a pure function of its arguments."""
    rng = np.random.default_rng([seed, index])
    kind = rng.choice(list(KINDS), p=list(KINDS.values()))
    makers = {"leaves": _leaves, "land": _land, "ground": _ground, "clouds": _clouds, "noise": _noise, "plain": _plain}
    image = makers[kind](rng)
    if rng.random() < GREY:
        image = np.asarray(Image.fromarray(image).convert("L").convert("RGB"))
    if rng.random() < CUT:
        left = int(rng.integers(SIZE // 2, SIZE + 1))
        image = image[:left] if rng.random() < 0.5 else image[:, :left]
    return np.ascontiguousarray(image)


def _cloud(rng: np.random.Generator, fall: float, channels: int) -> Float[np.ndarray, "h w c"]:
    """Noise whose amplitude falls with the frequency to the power of `fall`; standard deviation 1."""
    frequency = np.fft.fftfreq(SIZE)[:, None] ** 2 + np.fft.rfftfreq(SIZE)[None] ** 2
    frequency[0, 0] = 1
    shape = (channels, *frequency.shape)
    waves = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / frequency ** (fall / 2)
    waves[:, 0, 0] = 0
    found = np.fft.irfft2(waves, s=(SIZE, SIZE)).transpose(1, 2, 0)
    return found / found.std((0, 1))


def _colours(rng: np.random.Generator, count: int) -> Float[np.ndarray, "n 3"]:
    """Mostly dull, of one light."""
    light = rng.uniform(10, 245, (count, 1)) + rng.normal(size=(1, 3)) * rng.uniform(0, 25)
    return light + rng.normal(size=(count, 3)) * rng.uniform(5, 45)


def _leaves(rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Things that cover one another until nearly nothing else is visible."""
    image = _colours(rng, 1)[0] + _cloud(rng, rng.uniform(0.6, 2.2), 1) * rng.uniform(0, 50)
    image = image + _cloud(rng, 2.2, 1) * rng.uniform(0, 40)
    _strew(rng, image, int(rng.integers(8, 140)), rng.uniform(4, 30), rng.uniform(60, 200))
    return _photographed(rng, image)


def _land(rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """A sky or a wall, one or two grounds below it, and a few things."""
    y, image = np.linspace(-1, 1, SIZE)[:, None, None], np.zeros((SIZE, SIZE, 3))
    for level in (-1.0, *np.sort(rng.uniform(-0.6, 0.7, int(rng.integers(1, 4))))):
        edge = level + _cloud(rng, 2.5, 1)[:1] * rng.choice([0, 0.02, 0.08])
        colour = _colours(rng, 1)[0] + y * rng.normal(size=3) * 25
        texture = _cloud(rng, rng.uniform(0.3, 2.4), 1) * rng.choice([0, rng.uniform(2, 35)])
        image = np.where(y >= edge, colour + texture, image)
    _strew(rng, image, int(rng.integers(0, 40)), rng.uniform(4, 20), rng.uniform(30, 90))
    return _photographed(rng, image)


def _ground(rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """A background of the world with nothing on it, or with things that are not of the world."""
    image = background(rng, SIZE).astype(float)
    _strew(rng, image, int(rng.choice([0, int(rng.integers(1, 12))])), rng.uniform(12, 40), rng.uniform(40, 90))
    return _picture(image)


def _strew(rng: np.random.Generator, image: np.ndarray, count: int, least: float, most: float) -> None:
    """Things of all sizes, the large ones first: few are large and many small, as in the world that is photographed."""
    textures = [_cloud(rng, rng.uniform(0.6, 2.2), 1) for _ in range(3)]
    strengths = rng.uniform(0, 45, 3) * (rng.random(3) < 0.75)
    palette = _colours(rng, int(rng.integers(3, 12)))
    for radius in np.sort(least / np.sqrt(rng.uniform(min(1, least / most) ** 2, 1, count)))[::-1]:
        _leaf(rng, image, float(radius), palette[rng.integers(len(palette))], textures, strengths)


def _photographed(rng: np.random.Generator, image: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """In a light from one side, with a tint, grain and blur."""
    y, x = np.ogrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    image = image + (x * rng.normal() + y * rng.normal())[..., None] * rng.uniform(0, 50)
    image = image + _cloud(rng, 1.5, 3) * rng.uniform(0, 6) + rng.normal(size=image.shape) * rng.choice([0, 2, 6])
    picture = Image.fromarray(_picture(image * rng.uniform(0.6, 1.1)))
    blur = float(rng.choice([0, 0.5, 1, 2.5], p=[0.4, 0.3, 0.2, 0.1]))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(blur)))


def _leaf(
    rng: np.random.Generator,
    image: np.ndarray,
    radius: float,
    colour: np.ndarray,
    textures: list[np.ndarray],
    strengths: np.ndarray,
) -> None:
    """One more thing in front of all others: a box or an ellipse, ragged or not, its edge sharp or soft."""
    (cx, cy), turn, flat = rng.uniform(0, SIZE, 2), rng.uniform(0, np.pi), rng.uniform(0.3, 1)
    x0, x1 = max(0, int(cx - 1.5 * radius)), min(SIZE, int(cx + 1.5 * radius) + 1)
    y0, y1 = max(0, int(cy - 1.5 * radius)), min(SIZE, int(cy + 1.5 * radius) + 1)
    y, x = np.ogrid[y0:y1, x0:x1]
    u = ((x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)) / radius
    v = ((y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)) / (radius * flat)
    apart = np.maximum(abs(u), abs(v)) if rng.random() < 0.4 else np.sqrt(u * u + v * v)
    ragged = 1 + textures[2][y0:y1, x0:x1, 0] * rng.choice([0, 0.15])
    soft = np.clip((1 - apart * ragged) * radius / rng.choice([1, 1, 3, 8]), 0, 1)[..., None]
    which = int(rng.integers(len(textures)))
    fill = colour + rng.normal(size=3) * 12 + textures[which][y0:y1, x0:x1] * strengths[which]
    fill = fill + u[..., None] * rng.normal() * 35 + v[..., None] * rng.normal() * 25
    image[y0:y1, x0:x1] += soft * (fill - image[y0:y1, x0:x1])


def _clouds(rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    mixed = rng.normal(size=(3, 3)) * rng.uniform(0.02, 0.4) + rng.uniform(0.3, 0.8)
    image = _cloud(rng, rng.uniform(0.8, 2.4), 3) @ mixed
    return _picture(image / image.std() * rng.uniform(15, 70) + rng.uniform(60, 200) + rng.normal(size=3) * 20)


def _noise(rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Random colours, a pixel or a larger cell each."""
    side = SIZE // int(rng.integers(1, 40))
    cells = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
    smooth = Image.Resampling.NEAREST if rng.random() < 0.3 else Image.Resampling.BICUBIC
    return np.asarray(cells.resize((SIZE, SIZE), smooth))


def _plain(rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """One colour, or one that becomes another."""
    first, second = rng.uniform(0, 255, (2, 3))
    second, turn = (first if rng.random() < 0.4 else second), rng.uniform(0, 2 * np.pi)
    y, x = np.ogrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    share = ((x * np.cos(turn) + y * np.sin(turn)) / np.sqrt(2) + 1) / 2
    return _picture(first + (second - first) * share[..., None])


def _picture(values: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    return values.clip(0, 255).astype(np.uint8)
