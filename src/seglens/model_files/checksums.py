"""Checksums of a folder's files, as `sha256sum` writes and checks them: the package's files are as published.

`python -m seglens.model_files.checksums` writes those of the package's own models again, after one of their files has
changed."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from seglens.core.files import write_atomic

SUMS = "SHA256SUMS"


class SumsError(ValueError):
    """A file that is missing or has changed."""


def write_sums(folder: Path) -> None:
    lines = (f"{_sum(path)}  {path.name}\n" for path in _files(folder))
    write_atomic(folder / SUMS, "".join(lines).encode())


def read_sums(folder: Path) -> dict[str, str]:
    """The checksums that were written, by the names of the files; none where there is no such file.

    Raises SumsError when it is no list of checksums."""
    path = folder / SUMS
    if not path.is_file():
        return {}
    try:
        lines = [line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines()]
        return {name: digest for digest, name in lines}
    except ValueError as error:
        raise SumsError(f"{path} is damaged ({error}); install seglens again") from error


@lru_cache
def check_sums(folder: Path) -> None:
    """Read every file that the folder's checksums name; once in a process.

    Raises SumsError that names the first which is missing or of other bytes."""
    for name, digest in read_sums(folder).items():
        path = folder / name
        if not path.is_file() or _sum(path) != digest:
            raise SumsError(
                f"{path} is missing, or not as this package was made: its SHA-256 is not that in {folder / SUMS}; "
                "install seglens again"
            )


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name != SUMS)


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    for folder in sorted(path for path in (Path(__file__).parents[1] / "weights").iterdir() if path.is_dir()):
        write_sums(folder)
        print(folder / SUMS)
