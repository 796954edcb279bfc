"""Large pictures are read at a part of their size, and their masks stay on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seglens.core.types import Target
from seglens.data.image_decoding import ImageError
from seglens.data.image_record import DecodedMask, ImageRecord, QueryRecord, decode
from seglens.data.images import load_image
from seglens.data.reduced_size import factor_for, load_reduced, reduced_target

SIZE = (203, 330)  # height and width


def mask() -> np.ndarray:
    """An ellipse."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return ((y - 90.0) / 60) ** 2 + ((x - 170.0) / 110) ** 2 < 1


class Drawn:
    def __init__(self, pixels: np.ndarray, absent: bool = False):
        self.pixels, self.absent = pixels, absent

    def draw(self, size: tuple[int, int]) -> DecodedMask:
        assert size == self.pixels.shape, "masks are drawn at the size that their file is for"
        return DecodedMask(self.pixels, absent=self.absent)


@pytest.fixture(params=["a.jpg", "a.png"])
def picture(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """White where the mask is."""
    path = tmp_path / request.param
    Image.fromarray(np.where(mask()[..., None], 255, 0).astype(np.uint8).repeat(3, 2)).save(path, quality=95)
    return path


def record(path: Path, *masks: Drawn) -> ImageRecord:
    queries = tuple(QueryRecord(f"thing {n}", one, str(n), box=(8.0, 4.0, 40.0, 20.0)) for n, one in enumerate(masks))
    return ImageRecord("a", path, "file", queries)


@pytest.mark.parametrize(
    ("least", "factor"), [(None, 1), (204, 1), (102, 1), (101, 2), (51, 2), (50, 4), (26, 4), (25, 8), (1, 8)]
)
def test_no_side_gets_shorter_than_what_is_needed(picture: Path, least: int | None, factor: int) -> None:
    assert factor_for(SIZE, least) == factor
    pixels, size = load_reduced(picture, least)
    assert size == SIZE
    assert pixels.shape[:2] == (-(-SIZE[0] // factor), -(-SIZE[1] // factor))
    if factor == 1:
        assert np.array_equal(pixels, load_image(picture))


@pytest.mark.parametrize("least", [101, 50, 25])
def test_the_mask_stays_on_the_picture(picture: Path, least: int) -> None:
    sample, faults = decode(record(picture, Drawn(mask())), least=least)
    assert sample is not None
    assert faults == []
    white, target = sample.image[..., 0] > 127, sample.targets[0]
    assert target.mask.shape == white.shape
    factor = factor_for(SIZE, least)
    assert (white & target.mask).sum() / (white | target.mask).sum() > 1 - 0.01 * factor
    assert target.box == tuple(side / factor for side in (8, 4, 40, 20))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.where(mask()[..., None], 255, 0).astype(np.uint8).repeat(3, 2)).save(
        tmp_path / "a.jpg", exif=exif, quality=95
    )
    upright = load_image(tmp_path / "a.jpg")
    pixels, size = load_reduced(tmp_path / "a.jpg", 50)
    assert size == upright.shape[:2]
    assert pixels.shape == (-(-size[0] // 4), -(-size[1] // 4), 3)
    sample, _ = decode(record(tmp_path / "a.jpg", Drawn(upright[..., 0] > 127)), least=50)
    assert sample is not None
    white = sample.image[..., 0] > 127
    assert (white & sample.targets[0].mask).sum() / (white | sample.targets[0].mask).sum() > 0.95


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_reduced_from_its_upper_left_corner(tmp_path: Path, orientation: int) -> None:
    """As its masks are, whichever side of the file that is and whether or not the sides are multiples of the factor."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    stripes = np.where((x // 40 + y // 40) % 2, 255, 0).astype(np.uint8)
    Image.fromarray(stripes).convert("RGB").save(tmp_path / "a.jpg", exif=exif, quality=95)
    pixels, _ = load_reduced(tmp_path / "a.jpg", 25)
    expected = np.array(Image.fromarray(load_image(tmp_path / "a.jpg")).reduce(8))
    assert np.abs(pixels.astype(int) - expected).mean() < 4


def test_what_is_smaller_than_a_pixel_stays(picture: Path) -> None:
    dot, line = np.zeros((2, *SIZE), bool)
    dot[202, 329] = line[12, 40:80] = True
    sample, faults = decode(
        record(picture, Drawn(dot), Drawn(line), Drawn(np.zeros(SIZE, bool), absent=True)), least=25
    )
    assert sample is not None
    assert faults == []
    small, thin, absent = (target.mask for target in sample.targets)
    assert np.argwhere(small).tolist() == [[25, 41]]
    assert thin.any()
    assert not absent.any()


def test_ignored_pixels_are_reduced_too() -> None:
    ignore = np.zeros(SIZE, bool)
    ignore[:100] = True
    target = reduced_target(Target("a", mask(), ignore=ignore), 4)
    assert target.ignore is not None
    assert target.ignore[:25].all()
    assert not target.ignore[25:].any()


def test_a_bad_record_is_found_all_the_same(picture: Path, tmp_path: Path) -> None:
    empty = decode(record(picture, Drawn(np.zeros(SIZE, bool))), least=50)
    assert empty[0] is None
    assert empty[1][0].kind == "empty mask"
    (tmp_path / "cut.jpg").write_bytes(picture.read_bytes()[:300])
    with pytest.raises(ImageError, match=r"cut\.jpg"):
        load_reduced(tmp_path / "cut.jpg", 50)
