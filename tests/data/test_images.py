"""Every kind of image gives the right RGB, and every kind of rubbish one clear line."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from seglens.data.image_decoding import MAX_PIXELS, ImageError, formats, suffixes
from seglens.data.images import load_image
from seglens.data.maskfile import load_mask

ROOT = Path(__file__).parents[2]
COLOURS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [255, 255, 255], [128, 128, 128]]], np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG of under a hundred bytes that claims any size."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")


def refused(source: str | Path | Image.Image | np.ndarray | bytes) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(source)
    message = str(caught.value)
    assert "\n" not in message
    assert "need" in message
    assert ":" in message
    return message


def test_every_kind_of_source_is_the_same(tmp_path: Path) -> None:
    image = Image.fromarray(COLOURS)
    path = tmp_path / "画像 é.png"
    image.save(path)
    for source in (path, str(path), path.read_bytes(), image, COLOURS):
        pixels = load_image(source)
        assert np.array_equal(pixels, COLOURS)
        assert pixels.dtype == np.uint8
        assert pixels.flags.writeable
        assert pixels.flags.c_contiguous
        assert not np.shares_memory(pixels, COLOURS)


def test_extension_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "really-a-png.jpg"
    path.write_bytes(encoded(Image.fromarray(COLOURS)))
    assert np.array_equal(load_image(path), COLOURS)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "JPEG2000"])
def test_lossless_formats(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    big = Image.fromarray(COLOURS.repeat(40, 0).repeat(40, 1))
    assert np.array_equal(load_image(encoded(big, kind, **options)), np.asarray(big))


def test_jpeg() -> None:
    big = Image.fromarray(COLOURS.repeat(40, 0).repeat(40, 1))
    pixels = load_image(encoded(big, "JPEG", quality=95)).astype(int)
    assert np.abs(pixels[20::40, 20::40] - COLOURS).max() <= 3


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3), (4, 6, 4)])
def test_arrays(shape: tuple[int, ...]) -> None:
    array = np.full(shape, 100, np.uint8)
    expected = 100 if len(shape) == 2 or shape[2] == 3 else round(255 - 155 * 100 / 255)
    assert (load_image(array) == expected).all()
    assert load_image(array).shape == (4, 6, 3)
    assert np.array_equal(load_image(array[::-1, ::2]), load_image(array)[::-1, ::2])  # strided views


def test_bad_arrays() -> None:
    assert "float64" in refused(np.zeros((4, 4, 3)))
    assert "uint16" in refused(np.zeros((4, 4), np.uint16))
    for shape in [(4,), (3, 5, 5), (1, 4, 4, 3), (4, 4, 2), (4, 4, 5)]:
        assert str(shape) in refused(np.zeros(shape, np.uint8))
    for shape in [(0, 4, 3), (4, 0), (0, 0)]:
        assert "empty" in refused(np.zeros(shape, np.uint8))
    assert str(MAX_PIXELS) in refused(np.broadcast_to(np.uint8(0), (20_000, 20_000)))


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "PA", "RGBa", "La", "RGBX"]
)
def test_modes(mode: str) -> None:
    source = Image.fromarray(COLOURS).convert("RGBA") if mode == "RGBa" else Image.fromarray(COLOURS)
    if mode == "La":
        source = source.convert("LA")
    if mode == "PA":
        source = source.convert("P")
    gray = mode in {"1", "L", "LA", "La"}
    expected = (
        np.asarray(Image.fromarray(COLOURS).convert("1" if mode == "1" else "L").convert("RGB")) if gray else COLOURS
    )
    pixels = load_image(source.convert(mode)).astype(int)
    assert np.abs(pixels - expected).max() <= (30 if mode in {"P", "PA"} else 2)  # palettes round the colours


def test_cmyk_jpeg_is_not_inverted() -> None:
    cmyk = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    red, green, blue = load_image(encoded(cmyk, "JPEG"))[8, 8].tolist()
    assert red < 10
    assert green > 245
    assert blue > 245


def test_transparency_is_over_white() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = [0, 51, 255]  # black: absent, a fifth, whole
    assert load_image(rgba)[0, :, 0].tolist() == [255, 204, 0]
    assert load_image(encoded(Image.fromarray(rgba)))[0, :, 0].tolist() == [255, 204, 0]
    la = Image.merge("LA", (Image.new("L", (1, 1), 0), Image.new("L", (1, 1), 51)))
    assert load_image(encoded(la)).ravel().tolist() == [204] * 3


def test_transparent_palettes_and_colour_keys() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putdata([0, 1])
    assert load_image(encoded(palette)).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    for transparency in (0, b"\x00\xff"):
        data = encoded(palette, transparency=transparency)
        assert load_image(data).tolist() == [[[255, 255, 255], [200, 100, 50]]]
    keyed = encoded(Image.fromarray(COLOURS), transparency=(255, 0, 0))
    assert load_image(keyed)[0, 0].tolist() == [255, 255, 255]
    gray = encoded(Image.fromarray(np.array([[0, 90]], np.uint8)), transparency=0)
    assert load_image(gray)[..., 0].tolist() == [[255, 90]]
    bits = encoded(Image.fromarray(np.array([[False, True]])), transparency=0)
    assert load_image(bits)[..., 0].tolist() == [[255, 255]]


def test_sixteen_bits() -> None:
    deep = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    for data in (encoded(Image.fromarray(deep)), encoded(Image.fromarray(deep), "TIFF")):
        assert load_image(data)[0, :, 1].tolist() == [0, 0, 1, 128, 255]
    big_endian = Image.frombytes("I;16B", (5, 1), deep.astype(">u2").tobytes())
    assert load_image(big_endian)[0, :, 1].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize("bits", [9, 10, 11, 12, 14, 16])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "big-endian", "PIL"])
def test_gray_of_fewer_bits_than_its_file_is_no_black_picture(bits: int, kind: str) -> None:
    gray = np.asarray(Image.linear_gradient("L"))
    deep = gray.astype(np.uint16) << (bits - 8)
    if kind == "big-endian":
        source: Image.Image | bytes = Image.frombytes("I;16B", deep.shape[::-1], deep.astype(">u2").tobytes())
    else:
        source = Image.fromarray(deep) if kind == "PIL" else encoded(Image.fromarray(deep), kind)
    assert np.array_equal(load_image(source)[..., 0], gray)


def test_dark_pictures_of_eight_bits_stay_dark() -> None:
    """They were scaled by 257, or by 256, which every sample shows."""
    dark = np.asarray(Image.linear_gradient("L")).astype(np.uint16) // 12
    for scale in (257, 256):
        assert np.array_equal(load_image(Image.fromarray(dark * scale))[..., 0], dark)
    assert load_image(Image.fromarray(dark)).max() == 21  # 8 bits in a file of 16


def test_the_depth_that_a_file_declares_is_used() -> None:
    """A dark picture of 12 bits is no bright one of 9: TIFF and PNG can say what they use."""
    dark = (np.asarray(Image.linear_gradient("L")).astype(np.uint16) << 1) + 1
    declared = encoded(Image.fromarray(dark), "TIFF", tiffinfo={281: 4095})
    assert load_image(declared).max() == 511 >> 4
    png = encoded(Image.fromarray(dark))
    assert load_image(png).max() == 255
    assert load_image(png[:33] + png_chunk(b"sBIT", bytes([12])) + png[33:]).max() == 511 >> 4
    for wrong in (255, 511):  # it holds larger ones; or this is its largest sample, which does not declare a depth
        assert load_image(encoded(Image.fromarray(dark), "TIFF", tiffinfo={281: wrong})).max() == 255


def test_a_narrow_range_is_stretched() -> None:
    """A thermal image: hundredths of a kelvin around one temperature; and one dead pixel beside 12 bits."""
    gray = np.asarray(Image.linear_gradient("L")).astype(np.uint16)
    warm = load_image(Image.fromarray(29315 + 8 * gray))[..., 0]
    assert np.abs(warm.astype(int) - gray).max() <= 1
    dead = gray << 4
    dead[0, 0] = 65535
    assert np.abs(load_image(Image.fromarray(dead))[1:, :, 0].astype(int) - gray[1:]).max() <= 1
    flat = np.full((16, 16), 30000, np.uint16)
    flat[3, 3] += 20
    assert np.ptp(load_image(Image.fromarray(flat))) <= 1  # noise of a flat field is not stretched


def tall_png(pixels: np.ndarray, colour: int) -> bytes:
    """16 bits a channel, which Pillow reads and does not write."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, colour, 0, 0, 0))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def tall_tiff(pixels: np.ndarray, order: str = "<", orientation: int = 1) -> bytes:
    """The same as an uncompressed TIFF of one strip."""
    height, width, channels = pixels.shape
    data, start = pixels.astype(f"{order}u2").tobytes(), 8
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    place = start + len(data)
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, place),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, start),
        (274, 3, 1, orientation),
        (277, 3, 1, channels),
        (278, 4, 1, height),
        (279, 4, 1, len(data)),
    ]
    table = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        short = kind == 3 and count == 1
        table += struct.pack(f"{order}HHI", tag, kind, count) + struct.pack(
            order + ("HH" if short else "I"), *((value, 0) if short else (value,))
        )
    mark = {"<": b"II", ">": b"MM"}[order]
    return mark + struct.pack(f"{order}HI", 42, place + len(bits)) + data + bits + table + bytes(4)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_colours_of_fewer_bits_than_their_file(bits: int, tmp_path: Path) -> None:
    byte = np.random.default_rng(0).integers(0, 256, (12, 9, 3)).astype(np.uint16)
    byte[0, 0] = 255
    deep = byte << (bits - 8)
    assert np.array_equal(load_image(tall_png(deep, 2)), byte)
    for order in "<>":
        assert np.array_equal(load_image(tall_tiff(deep, order)), byte)
    assert np.array_equal(load_image(tall_tiff(deep, "<", orientation=6)), np.rot90(byte, -1))
    (tmp_path / "deep.png").write_bytes(tall_png(deep, 2))
    with Image.open(tmp_path / "deep.png") as lazy:
        assert np.array_equal(load_image(lazy), byte)
    opaque = np.concatenate([deep, np.full((12, 9, 1), 2**bits - 1, np.uint16)], -1)
    assert np.array_equal(load_image(tall_png(opaque, 6)), byte)
    dark = byte // 12 * 257
    assert np.array_equal(load_image(tall_png(dark, 2)), byte // 12)


def test_gray_with_alpha_that_uses_few_of_its_bits_is_refused() -> None:
    """Pillow gives no lower half of it."""
    few = np.full((4, 4, 2), 4095, np.uint16)
    assert "nearly black" in refused(tall_png(few, 4))
    assert load_image(tall_png(few * 16, 4)).max() > 250


def test_an_x_ray_counts_from_white_to_black() -> None:
    gray = np.asarray(Image.linear_gradient("L"))
    for bits in (12, 16):
        stored = (255 - gray.astype(np.uint16)) << (bits - 8)
        data = encoded(Image.fromarray(stored), "TIFF", tiffinfo={262: 0})
        with Image.open(io.BytesIO(data)) as image:
            assert image.tag_v2[262] == 0
        assert np.array_equal(load_image(data)[..., 0], gray)


def test_a_mask_of_an_x_ray_keeps_its_sense(tmp_path: Path) -> None:
    mask = np.zeros((6, 8), bool)
    mask[2:4, 1:5] = True
    Image.fromarray(np.where(mask, 0, 65535).astype(np.uint16)).save(tmp_path / "mask.tif", tiffinfo={262: 0})
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.tif"), mask)


def test_signed_bytes_are_refused() -> None:
    """Pillow would show -1 as 255."""
    data = encoded(Image.fromarray(np.full((4, 4), 7, np.uint8)), "TIFF", tiffinfo={339: 2})
    assert "signed bytes" in refused(data)


def test_a_colour_key_of_sixteen_bits_is_over_white() -> None:
    keyed = encoded(Image.fromarray(np.array([[0, 65535, 257 * 90]], np.uint16)), transparency=257 * 90)
    assert load_image(keyed)[0, :, 0].tolist() == [0, 255, 255]


def test_thirty_two_bits() -> None:
    assert load_image(Image.fromarray(np.array([[0, 7, 255]], np.int32)))[0, :, 0].tolist() == [0, 7, 255]
    assert load_image(Image.fromarray(np.array([[0, 500, 1000]], np.int32)))[0, :, 0].tolist() == [0, 128, 255]
    assert load_image(Image.fromarray(np.array([[-2, 0, 2]], np.int32)))[0, :, 0].tolist() == [0, 128, 255]
    assert load_image(Image.fromarray(np.array([[9000]], np.int32))).ravel().tolist() == [0, 0, 0]
    assert "float" in refused(Image.new("F", (2, 2)))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (load_image(data) == [255, 0, 0]).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image_upright(kind: str, orientation: int) -> None:
    upright = COLOURS.repeat(16, 0).repeat(16, 1)  # 32 high, 48 wide
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    pixels = load_image(encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options))
    assert pixels.shape == upright.shape
    assert np.abs(pixels[8::16, 8::16].astype(int) - COLOURS).max() <= 6


def test_broken_exif_does_not_lose_the_picture() -> None:
    data = encoded(Image.fromarray(COLOURS), exif=b"Exif\x00\x00rubbish that is no TIFF header")
    assert np.array_equal(load_image(data), COLOURS)


def test_a_pil_image_is_left_as_it_was() -> None:
    image = Image.fromarray(COLOURS).convert("RGBA")
    before = image.tobytes(), image.mode
    load_image(image)[:] = 7
    assert (image.tobytes(), image.mode) == before


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_truncated(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    assert load_image(data).shape == (64, 64, 3)
    refused(data[: len(data) // 2])


def test_a_truncated_jpeg_is_refused_as_such(tmp_path: Path) -> None:
    path = tmp_path / "half.jpg"
    path.write_bytes(encoded(Image.effect_noise((64, 64), 90), "JPEG")[:1500])
    message = refused(path)
    assert "half.jpg" in message
    assert "cut short or damaged" in message
    assert "truncated" in message


def test_damaged_files_are_refused_or_read() -> None:
    """Bytes changed at random never end in anything but an image or an `ImageError`."""
    generator = np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        data = np.frombuffer(encoded(noise, kind), np.uint8)
        for _ in range(25):
            damaged = data.copy()
            damaged[generator.integers(0, min(len(data), 200), 6)] = generator.integers(0, 256, 6)
            with contextlib.suppress(ImageError):
                assert load_image(damaged.tobytes()).ndim == 3


def test_not_an_image(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "absent.png")
    assert "is a folder" in refused(tmp_path)
    assert "is a folder" in refused("")
    assert "0 bytes" in refused(b"")
    path = tmp_path / "page.png"
    path.write_text("<html>404</html>")
    assert "is not an image" in refused(str(path))
    assert "cannot be read" in refused("null\0character.png")
    assert len(refused("x" * 100_000)) < 500
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "pipe or device" in refused(pipe)
    assert "empty" in refused(Image.new("RGB", (0, 0)))
    refused(png_header(0, 10))


def test_postscript_is_never_run() -> None:
    assert "is not an image" in refused(encoded(Image.fromarray(COLOURS), "EPS"))


@pytest.mark.parametrize(
    "url", ["http://a.b/c.png", "HTTPS://a.b/c.png", "s3://bucket/key", "data:image/png;base64,AAAA"]
)
def test_urls_are_explained(url: str) -> None:
    assert "network" in refused(url)
    assert "network" in refused(Path("https://a.b/c.png"))


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (MAX_PIXELS + 1, 1)])
def test_bomb_is_refused_by_its_header(width: int, height: int) -> None:
    assert str(MAX_PIXELS) in refused(png_header(width, height))


def test_the_limit_of_pixels_holds_without_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert "100000 x 100000" in refused(png_header(100_000, 100_000))


def test_between_warning_and_refusal_there_is_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)  # six pixels: Pillow would warn, and refuse from nine
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(load_image(encoded(Image.fromarray(COLOURS))), COLOURS)


def test_text_bomb_is_refused() -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("bomb", "0" * 10_000_000, zip=True)
    refused(encoded(Image.fromarray(COLOURS), pnginfo=notes))


def test_no_global_state_even_from_threads() -> None:
    before, data = list(warnings.filters), encoded(Image.fromarray(COLOURS))
    threads = [threading.Thread(target=load_image, args=(data,)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_real_photographs() -> None:
    folder = ROOT.parent / "shared" / "data" / "coco" / "train2017"
    if not folder.exists():
        pytest.skip(f"real material is not here: {folder}")
    for path in sorted(folder.glob("*.jpg"))[:5]:
        pixels = load_image(path)
        with Image.open(path) as image:
            assert pixels.shape == (image.height, image.width, 3)
        assert pixels.std() > 10


def test_heif_needs_a_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """pillow-heif registers itself with Pillow on request; without it, neither format nor ending is known."""
    assert "HEIF" not in formats()
    assert not suffixes() & {".heic", ".pfm", ".pdf", ".eps"}
    plugin = ModuleType("pillow_heif")

    def register() -> None:
        monkeypatch.setitem(Image.OPEN, "HEIF", Image.OPEN["AVIF"])
        monkeypatch.setitem(Image.EXTENSION, ".heic", "HEIF")

    plugin.register_heif_opener = register  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    formats.cache_clear()
    suffixes.cache_clear()
    assert "HEIF" in formats()
    assert ".heic" in suffixes()
    monkeypatch.undo()
    formats.cache_clear()
    suffixes.cache_clear()
