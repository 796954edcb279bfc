"""Images that agents name: which texts are read, and which images stay open."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seglens.core.png_files import png_bytes
from seglens.data.image_decoding import ImageError, ImageTooLargeError
from seglens.inference.segmenter import Segmenter
from seglens.serving.limits import Limits
from seglens.serving.tools.tool_images import ImageReader, OpenImages, is_id

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
PNG = png_bytes(Image.fromarray(PIXELS))
LOCAL, REMOTE = ImageReader(Limits(), files=True), ImageReader(Limits())


def test_a_local_client_names_a_file_as_it_likes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "my picture"
    path.write_bytes(PNG)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for text in (str(path), path.as_uri(), "~/my picture", "my picture", "./my picture"):
        assert (LOCAL.read(text) == PIXELS).all()
        with pytest.raises(ImageError, match="need"):
            REMOTE.read(text)


def test_data_is_read_for_every_client() -> None:
    jpeg = base64.b64encode(b"\xff\xd8\xff" + bytes(90)).decode()
    assert jpeg.startswith("/9j/")  # which could be a path
    for reader in (LOCAL, REMOTE):
        assert (reader.read(base64.b64encode(PNG).decode()) == PIXELS).all()
        with pytest.raises(ImageError, match="the image of 93 bytes"):
            reader.read(jpeg)


@pytest.mark.parametrize("text", ["no/such.png", "x" * 5000, "\x00", "~nobody-here/a.png", "file:///no/such.png"])
def test_a_missing_file_is_reported(text: str) -> None:
    with pytest.raises(ImageError, match="; need"):
        LOCAL.read(text)


def test_the_limit_on_pixels_counts_for_files_too(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    with pytest.raises(ImageTooLargeError, match="at most 62 in all"):
        ImageReader(Limits(pixels=62), files=True).read(str(path))


def test_the_last_images_stay_open_and_the_oldest_makes_room(segmenter: Segmenter) -> None:
    images = OpenImages(segmenter, max_images=2)
    first, second = images.add(PIXELS), images.add(PIXELS[:5])
    assert is_id(first)
    assert is_id(second)
    opened = images.get(first)
    assert images.add(PIXELS.copy()) == first  # the same pixels
    assert images.get(first) is opened
    third = images.add(PIXELS[:4])
    assert len(images) == 2
    assert images.get(first) is opened
    assert (images.get(third).image == PIXELS[:4]).all()
    with pytest.raises(ImageError, match=r"no open image .*only the last 2 stay open"):
        images.get(second)


def test_ids_cannot_be_computed_from_the_image(segmenter: Segmenter) -> None:
    assert OpenImages(segmenter)._id(PIXELS) != OpenImages(segmenter)._id(PIXELS)


def test_pixels_in_another_shape_are_another_image(segmenter: Segmenter) -> None:
    images = OpenImages(segmenter)
    assert images._id(PIXELS) != images._id(PIXELS.reshape(7, 9, 3))


def test_a_store_for_no_image_is_refused(segmenter: Segmenter) -> None:
    with pytest.raises(ValueError, match="need at least 1"):
        OpenImages(segmenter, max_images=0)
