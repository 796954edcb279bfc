"""Images over a wire: what is taken, what is refused, and that refusing costs nothing."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from seglens.core.png_files import png_bytes
from seglens.data.image_decoding import ImageError, ImageTooLargeError
from seglens.serving.limits import Limits
from seglens.serving.uploads import decode_bytes, decode_data_uri

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
PNG = png_bytes(Image.fromarray(PIXELS))
TEXT = base64.b64encode(PNG).decode()


def bomb(side: int) -> bytes:
    """A PNG whose header promises side x side pixels; its few bytes would grow without end."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"data:image/png;base64,{TEXT}",
        f"DATA:Image/PNG;charset=utf-8;Base64,{TEXT}",
        f"data:;base64,{TEXT}",
        TEXT.rstrip("="),
        "\n".join(TEXT[i : i + 76] for i in range(0, len(TEXT), 76)),
    ],
)
def test_base64_bare_named_folded_or_without_padding_is_the_same_image(text: str) -> None:
    assert (decode_data_uri(text, Limits()) == PIXELS).all()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/etc/passwd",
        "../../secret.png",
        "file:///etc/passwd",
        "http://169.254.169.254/latest",
        " https://example.com/a.png",
        "data:text/html;base64,PGI+",
        "data:image/png,%89PNG",
        "data:image/svg+xml;base64," + base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>").decode(),
        TEXT[: len(TEXT) // 2],
        "é" + TEXT,
        "AAAA====AAAA",
        base64.b64encode(b"no image at all").decode(),
    ],
)
def test_data_that_is_no_image_is_refused_in_one_short_line(text: str) -> None:
    with pytest.raises(ImageError, match="; need ") as caught:
        decode_data_uri(text, Limits())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_path_is_never_read(tmp_path) -> None:  # the name of a readable image, in base64's own letters
    path = tmp_path / "picture"
    path.write_bytes(PNG)
    with pytest.raises(ImageError):
        decode_data_uri(str(path), Limits())


def test_each_limit_is_exact() -> None:
    assert decode_bytes(PNG, Limits(image_bytes=len(PNG), pixels=63)).shape == (7, 9, 3)
    assert decode_data_uri(TEXT, Limits(image_bytes=len(PNG), pixels=63)).shape == (7, 9, 3)
    with pytest.raises(ImageTooLargeError, match=f"need at most {len(PNG) - 1}"):
        decode_data_uri(TEXT, Limits(image_bytes=len(PNG) - 1))
    with pytest.raises(ImageTooLargeError, match="9 x 7 pixels; need at most 62 in all"):
        decode_data_uri(TEXT, Limits(pixels=62))
    with pytest.raises(ValueError, match="at least 1"):
        Limits(pixels=0)


def test_too_much_base64_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(ImageTooLargeError, match="need at most 1000"):
        decode_data_uri("!" * 2000, Limits(image_bytes=1000))  # no base64 at all, and it is not decoded


@pytest.mark.parametrize("side", [9_000, 30_000, 100_000])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    with pytest.raises(ImageTooLargeError, match="need at most"):
        decode_bytes(bomb(side), Limits())


def test_a_gif_gives_its_first_frame() -> None:
    file = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(file, "GIF", save_all=True, append_images=[Image.new("RGB", (4, 3), "blue")])
    assert (decode_bytes(file.getvalue(), Limits()) == (255, 0, 0)).all()
