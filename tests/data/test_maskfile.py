"""A mask file has two values, in whatever depth or palette; anything else is refused, never guessed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seglens.data.image_decoding import ImageError
from seglens.data.maskfile import MaskFile, load_mask

MASK = np.random.default_rng(0).random((7, 9)) < 0.5
GRAY = MASK.astype(np.uint8)


def indexed(indices: np.ndarray, *colours: tuple[int, int, int]) -> Image.Image:
    image = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
    image.putpalette([value for colour in colours for value in colour])
    return image


BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (128, 0, 0)
GOOD = {
    "0 and 255": Image.fromarray(GRAY * 255),
    "0 and 1": Image.fromarray(GRAY),
    "1 bit": Image.fromarray(MASK),
    "16 bits, full": Image.fromarray(GRAY.astype(np.uint16) * 65535),
    "16 bits, 255": Image.fromarray(GRAY.astype(np.uint16) * 255),
    "16 bits, 1": Image.fromarray(GRAY.astype(np.uint16)),
    "colours": Image.fromarray(np.stack([GRAY * 255] * 3, -1)),
    "opaque colours": Image.fromarray(np.stack([GRAY * 255] * 3 + [GRAY * 0 + 255], -1)),
    "palette, black and white": indexed(GRAY, BLACK, WHITE),
    "palette, white and black": indexed(1 - GRAY, WHITE, BLACK),
    "palette of a label map": indexed(GRAY, BLACK, RED),
    "palette, gray by index": indexed(GRAY, *((i, i, i) for i in range(256))),
    "palette, 255 is the object": indexed(GRAY * 255, *((i, 0, i) for i in range(256))),
}
BAD = {
    "a jpeg's": (Image.fromarray(GRAY * 250 + np.arange(7, dtype=np.uint8)[:, None]), "0, 1, 2, 3, 4, ...; a mask"),
    "a label map": (Image.fromarray(GRAY * 2), r"holds the values 0, 2; a mask needs two, 0 and 255"),
    "three": (Image.fromarray(GRAY + (np.arange(9) > 6).astype(np.uint8)), "holds the values 0, 1, 2"),
    "1 and 255": (Image.fromarray(GRAY * 254 + 1), "holds the values 1, 255"),
    "16 bits": (Image.fromarray(GRAY.astype(np.uint16) * 256), "holds the values 0, 256"),
    "coloured": (Image.fromarray(np.stack([GRAY * 255, GRAY * 0, GRAY * 0], -1)), "is coloured"),
    "transparent": (Image.fromarray(np.stack([GRAY * 255] * 4, -1)), "is transparent in places"),
    "palette of labels": (indexed(GRAY * 3, BLACK, WHITE, WHITE, RED), "holds the values 0, 3"),
    "palette upside down": (indexed(GRAY, RED, BLACK), "black is not the first colour"),
}


@pytest.mark.parametrize("name", GOOD)
def test_two_values(name: str, tmp_path: Path) -> None:
    GOOD[name].save(tmp_path / "mask.png")
    mask = load_mask(tmp_path / "mask.png")
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, MASK)


@pytest.mark.parametrize("name", BAD)
def test_other_values(name: str, tmp_path: Path) -> None:
    image, message = BAD[name]
    image.save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=rf"mask\.png.* {message}" if message[0] != "0" else message) as caught:
        load_mask(tmp_path / "mask.png")
    assert "\n" not in str(caught.value)


def test_wider_depths_of_tiff(tmp_path: Path) -> None:
    for kind, message in ((np.int32, None), (np.float32, "mode F")):
        Image.fromarray(MASK.astype(kind)).save(tmp_path / "mask.tiff")
        if message is None:
            np.testing.assert_array_equal(load_mask(tmp_path / "mask.tiff"), MASK)
        else:
            with pytest.raises(ValueError, match=message):
                load_mask(tmp_path / "mask.tiff")


def test_only_black_and_only_white(tmp_path: Path) -> None:
    for value, expected in ((0, False), (1, True), (255, True)):
        Image.fromarray(np.full((3, 4), value, np.uint8)).save(tmp_path / "mask.png")
        mask = load_mask(tmp_path / "mask.png")
        assert (mask.all(), mask.any()) == (expected, expected)
    Image.new("L", (4, 3)).save(tmp_path / "black.png")
    assert MaskFile(tmp_path / "black.png", black_is_absent=True).draw((3, 4)).absent
    assert not MaskFile(tmp_path / "black.png").draw((3, 4)).absent


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    Image.fromarray(GRAY * 255).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"mask\.png has 7 x 9 pixels \(height x width\), and its image 9 x 7"):
        MaskFile(tmp_path / "mask.png").draw((9, 7))
    with pytest.raises(ImageError, match="does not exist"):
        load_mask(tmp_path / "none.png")
    (tmp_path / "short.png").write_bytes((tmp_path / "mask.png").read_bytes()[:45])
    with pytest.raises(ImageError, match="cut short or damaged"):
        load_mask(tmp_path / "short.png")
