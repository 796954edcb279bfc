"""Where a head's frozen parts come from: a hub id, a folder, or one of the package's own models."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from seglens.core.names import check_name
from seglens.model_files.checksums import check_sums

EMBEDDED = "embedded"  # the default model that the package carries
EMBEDDED_HEADS = {
    "embedded": "lens",
    "embedded/mllmseg": "mllmseg",
    "embedded/self1e": "self1e",
    "embedded/lisa": "lisa",
}
EMBEDDED_PARTS = {  # its frozen parts, for heads of one's own
    "embedded/mllm": "mllm",
    "embedded/internvl": "internvl",
    "embedded/sam": "sam",
}
CONFIG = "config.json"  # of a head's folder


class CheckpointError(ValueError):
    """A checkpoint that cannot be trusted: what is wrong with it, and what to do."""


def weights_folder() -> Path:
    """Where the package keeps its own models."""
    return (Path(str(files("seglens"))) / "weights").resolve()


def embedded_folder(name: str) -> Path:
    """Where the package keeps one of its own heads ("embedded") or of their parts ("embedded/mllm")."""
    return weights_folder() / (EMBEDDED_HEADS | EMBEDDED_PARTS)[name]


def intact_folder(name: str) -> Path:
    """As `embedded_folder`, with every byte as it was made. Raises SumsError that names a file which is not."""
    folder = embedded_folder(name)
    check_sums(folder)
    return folder


@dataclass(frozen=True)
class Origin:
    """Where a frozen part comes from: a hub id, a folder, a folder relative to the checkpoint ("../mllm"), or one of
    the package's own ("embedded/mllm", "embedded/sam"), the same on every machine."""

    name: str
    revision: str | None = None

    @classmethod
    def of(cls, name: str, revision: str | None = None) -> Origin:
        """The origin of what a user names: a folder becomes absolute, a hub id stays as it is."""
        if not Path(name).is_dir():
            return cls(name, revision)
        folder = Path(name).resolve()
        return cls(next((own for own in EMBEDDED_PARTS if folder == embedded_folder(own)), str(folder)), revision)

    def resolve(self, folder: Path = Path()) -> str:
        """The hub id, or the folder on this machine; relative names are looked for in `folder`.

        Raises CheckpointError when there is no such folder, ValueError for a name that is no part of the package."""
        if self.name.partition("/")[0] == EMBEDDED:
            check_name(self.name, EMBEDDED_PARTS, "MLLM or mask decoder of the package")
            return str(intact_folder(self.name))
        if not self.name.startswith((".", "/")):
            return self.name
        path = (folder / self.name).resolve()  # an absolute name replaces the folder
        if not path.is_dir():
            raise CheckpointError(
                f"the frozen part {self.name!r} is needed, and there is no folder {path}; "
                f"bring it there, or correct its name (in {folder / CONFIG}, if that names it)"
            )
        if path.parent == weights_folder():  # as the package's own heads name their parts
            check_sums(path)
        return str(path)
