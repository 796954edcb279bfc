"""Masks as image files of exactly two values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped
from PIL import Image

from seglens.core.text import shortened
from seglens.data.image_record import DecodedMask
from seglens.data.images import load_stored

OBJECT = (1, 255, 65535)  # beside 0: 1-bit, label-map, 8-bit and 16-bit masks
SHOWN = 5


@dataclass(frozen=True)
class MaskFile:
    """A mask in a separate file. With `black_is_absent`, a file without object declares its target absent."""

    path: Path
    black_is_absent: bool = False

    def is_black(self) -> bool:
        """Whether it has no object; false where it cannot be read."""
        try:
            return not load_mask(self.path).any()
        except ValueError:
            return False

    def draw(self, size: tuple[int, int]) -> DecodedMask:
        mask = load_mask(self.path)
        if mask.shape != size:
            raise ValueError(
                f"{self.path} has {mask.shape[0]} x {mask.shape[1]} pixels (height x width), and its image {size[0]} x "
                f"{size[1]}; export the mask at the size of its image"
            )
        return DecodedMask(mask, absent=self.black_is_absent and not mask.any())


def load_mask(path: str | Path) -> Bool[np.ndarray, "h w"]:
    """The mask of a lossless image file: 0 is background; 1, 255 or (16 bits) 65535 is the object, one of them only.

    1, 8, 16 and 32 bits, gray stored as colours, and palettes, by their colours if these are black and white and by
    their indices otherwise. Raises ``ImageError`` where the file cannot be read, ``ValueError`` on any other value:
    a guessed threshold would quietly turn a label map, or a JPEG, into a wrong mask.
    """
    values = _values(load_stored(path), path)
    top = values.max()
    mask: np.ndarray = values == top if top else np.zeros(values.shape, bool)
    if (top and int(top) not in OBJECT) or not (mask | (values == 0)).all():
        values_shown = shortened(np.unique(values)[: SHOWN + 1].tolist(), SHOWN, ", ", "...")
        raise ValueError(
            f"{path} holds the values {values_shown}; a mask needs two, 0 and 255 "
            "(or 0 and 1): write one lossless file per object, and no threshold is guessed"
        )
    return mask


def _values(image: Image.Image, path: str | Path) -> Shaped[np.ndarray, "h w"]:
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise ValueError(f"{path} is transparent in places; a mask needs 0 and 255: flatten it first")
    if image.mode == "P":
        return _indexed(image, path)
    pixels = np.asarray(image)
    if image.mode == "1":
        return pixels.astype(np.uint8)
    if image.mode in ("L", "I") or image.mode.startswith("I;16"):
        return pixels
    if image.mode not in ("LA", "RGB", "RGBA"):
        raise ValueError(f"{path} has pixels of mode {image.mode}; a mask needs 8-bit gray of 0 and 255: convert it")
    colours = pixels[..., :1] if image.mode == "LA" else pixels[..., :3]
    if (colours != colours[..., :1]).any():
        raise ValueError(f"{path} is coloured; a mask needs 0 and 255: write one file per object, white on black")
    return colours[..., 0]


def _indexed(image: Image.Image, path: str | Path) -> Shaped[np.ndarray, "h w"]:
    """A palette's colours where they are black and white: a PNG optimiser may have put them in either order."""
    indices = np.asarray(image)
    used = np.flatnonzero(np.bincount(indices.ravel(), minlength=256))
    palette = np.asarray(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    if used[-1] >= len(palette):
        raise ValueError(f"{path} uses colour {used[-1]} of a palette of {len(palette)}; export it again")
    colours = palette[used]
    if np.isin(colours, (0, 255)).all() and (colours == colours[:, :1]).all():
        return palette[indices][..., 0]
    if (colours[used > 0] == 0).all(1).any():
        raise ValueError(
            f"{path} has a palette where black is not the first colour; a mask needs 0 and 255: convert it"
        )
    return indices
