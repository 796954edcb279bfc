"""Masks of every shape, and predictions with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jaxtyping import Bool

from seglens.inference.instance import Instance
from seglens.inference.prediction import Prediction

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12))
MASKS = SIZES.flatmap(lambda size: arrays(bool, size))  # holes, islands, borders, touching corners, empty, full


def blobs(seed: int, size: tuple[int, int] = (60, 90)) -> Bool[np.ndarray, "h w"]:
    """A mask as a model draws it: smooth shapes with holes and islands, some cut by the border."""
    noise = np.fft.fft2(np.random.default_rng(seed).standard_normal(size))
    far = np.add.outer(np.fft.fftfreq(size[0]) ** 2, np.fft.fftfreq(size[1]) ** 2)
    smooth = np.fft.ifft2(noise * np.exp(-far * 200)).real
    return smooth > smooth.std() * 0.3


ORDINARY = ((640, 480), (500, 375), (1920, 1080))  # width and height of ordinary pictures


def spots(seed: int, size: tuple[int, int], count: int) -> list[Bool[np.ndarray, "h w"]]:
    """Ellipses in boxes drawn at random over a picture of this width and height; the first reaches its far corner."""
    draw, (width, height) = np.random.default_rng(seed), size
    masks = []
    for number in range(count):
        wide, high = draw.integers(1, width // 6), draw.integers(1, height // 6)
        x = draw.integers(0, width - wide + 1) if number else width - wide
        y = draw.integers(0, height - high + 1) if number else height - high
        down, right = np.mgrid[:high, :wide]
        round_off = ((right + 0.5) / wide * 2 - 1) ** 2 + ((down + 0.5) / high * 2 - 1) ** 2
        masks.append(np.zeros((height, width), bool))
        masks[-1][y : y + high, x : x + wide] = round_off <= 1
    return masks


def prediction_of(
    query: str, mask: np.ndarray, instances: Sequence[np.ndarray] = (), score: float = 0.75
) -> Prediction:
    """A prediction with this mask; instances score 0.9, 0.8, ..."""
    height, width = mask.shape
    return Prediction(
        query=query,
        image=np.full((height, width, 3), 90, np.uint8),
        mask=mask,
        logits=np.where(mask, 4, -4).astype(np.float32),
        score=score,
        presence=None,
        found=bool(mask.any()),
        heat_map=None,
        keypoints=np.zeros((0, 2), np.float32),
        keypoint_scores=np.zeros(0, np.float32),
        keypoint_labels=np.zeros(0, bool),
        instances=tuple(Instance(one, round(0.9 - 0.1 * k, 1)) for k, one in enumerate(instances)),
    )


def two_cups() -> Prediction:
    """A ring and a square beside it, one instance each."""
    ring, square = np.zeros((2, 40, 60), bool)
    ring[5:25, 4:30] = True
    ring[10:20, 10:20] = False
    square[30:40, 50:60] = True
    return prediction_of("each of the cups", ring | square, [ring, square])
