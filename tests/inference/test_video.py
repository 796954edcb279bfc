"""Frames of videos that FFmpeg itself wrote."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
import pytest

from seglens.data.image_decoding import ImageError
from seglens.inference.video import count_frames, frames


def write_video(path: Path, count: int = 7, rotation: int | None = None) -> Path:
    """Frames of 48 x 64 (height x width), each brighter than the one before, white in the top left corner."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(count):
            picture = np.full((48, 64, 3), 30 * number, np.uint8)
            picture[:10, :10] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi", "mov"])
def test_frames_in_order(tmp_path: Path, ending: str) -> None:
    path = write_video(tmp_path / f"a.{ending}")
    read = list(frames(path))
    assert [number for number, _ in read] == list(range(7))
    for number, pixels in read:
        assert (pixels.shape, pixels.dtype) == ((48, 64, 3), np.uint8)
        assert pixels[20:, 20:].mean() == pytest.approx(30 * number, abs=4)  # measured 2
    assert [number for number, _ in frames(path, every=3)] == [0, 3, 6]
    assert count_frames(path) in (7, None)


def test_frames_are_counted_from_the_header(tmp_path: Path) -> None:
    assert count_frames(write_video(tmp_path / "a.mp4")) == 7
    assert count_frames(tmp_path / "none.mp4") is None


@pytest.mark.parametrize(
    ("rotation", "corner"), [(None, (0, 0)), (90, (-1, 0)), (-90, (0, -1)), (180, (-1, -1))], ids=str
)
def test_a_telephone_held_upright(tmp_path: Path, rotation: int | None, corner: tuple[int, int]) -> None:
    """A display matrix turns frames counter-clockwise by `rotation` degrees."""
    path = write_video(tmp_path / "a.mp4", 1, rotation)
    ((_, pixels),) = frames(path)
    assert pixels.shape == ((64, 48, 3) if rotation in (90, -90) else (48, 64, 3))
    corners = {(y, x): int(pixels[y, x].mean()) for y in (0, -1) for x in (0, -1)}
    assert max(corners, key=corners.__getitem__) == corner
    assert pixels.flags.c_contiguous


def test_what_is_no_video(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mp4").read_bytes()
    bad = {
        "cut.mp4": whole[:900],
        "text.mp4": b"not a video",
        "empty.mp4": b"",
        # Playlists name other files: never followed, whatever the ending.
        "list.mp4": b"#EXTM3U\n#EXTINF:1,\na.mp4\n#EXT-X-ENDLIST\n",
        "concat.mp4": b"ffconcat version 1.0\nfile a.mp4\n",
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=name):
            list(frames(tmp_path / name))
        assert count_frames(tmp_path / name) is None
    with pytest.raises(ImageError, match=r"none.mp4.*No such file"):
        list(frames(tmp_path / "none.mp4"))


def test_frames_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4")
    monkeypatch.setattr("seglens.inference.video.MAX_PIXELS", 48 * 64 - 1)
    with pytest.raises(ImageError, match="frames of 64 x 48 pixels; need at most 3071"):
        list(frames(path))


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install 'seglens\[video\]'"):
        list(frames(path))
