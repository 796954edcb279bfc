"""Frames of a video, one after the other, through PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from seglens.data.image_decoding import MAX_PIXELS, ImageError

VIDEOS = frozenset((".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp"))
# FFmpeg would also open playlists, which name other files and addresses of the network; under any ending.
SAFE = {"format_whitelist": "mov,matroska,webm,avi,mpeg,mpegts,asf,flv", "protocol_whitelist": "none"}


def frames(path: Path, every: int = 1) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
    """The number and the RGB pixels of the first frame and of every `every`-th after it, upright.

    Raises ImageError that names the file and, once one was decoded, the frame after which it breaks; ImportError
    without the extra `video`."""
    number = -1
    try:
        with _opened(path) as (container, stream):
            for number, frame in enumerate(container.decode(stream)):
                if number % every == 0:
                    yield number, _upright(frame, path)
    except (_av().error.FFmpegError, OSError) as error:
        where = f"behind frame {number}" if number >= 0 else "before its first frame"
        raise ImageError(
            f"{str(path)!r} is no video that can be read, or breaks {where} ({error.strerror}); export it again"
        ) from error
    if number < 0:
        raise ImageError(f"{str(path)!r} holds no frame; export it again")


def count_frames(path: Path) -> int | None:
    """The number of frames in the header; None when it has none, or cannot be read."""
    try:
        with _opened(path) as (_, stream):
            return stream.frames or None
    except (ImageError, _av().error.FFmpegError, OSError):
        return None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first stream of pictures."""
    try:
        file = path.open("rb")  # an open file, because FFmpeg would read a name as an address of any protocol
    except OSError as error:
        raise ImageError(f"{str(path)!r} cannot be read ({error.strerror}); check the path and its rights") from error
    with file, _av().open(file, options=SAFE) as container:
        if not container.streams.video:
            raise ImageError(f"{str(path)!r} holds no pictures; need a video")
        stream = container.streams.video[0]
        _check_size(stream.width, stream.height, path)
        yield container, stream


def _upright(frame: Any, path: Path) -> UInt8[np.ndarray, "h w 3"]:
    _check_size(frame.width, frame.height, path)
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))


def _check_size(width: int, height: int, path: Path) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{str(path)!r} has frames of {width} x {height} pixels; need at most {MAX_PIXELS} in all: make it smaller"
        )


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError("frames of a video need PyAV; pip install 'seglens[video]'") from error
    return av
