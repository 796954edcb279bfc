"""Localization heads of an MLLM in a small file: measured once, by `seglens probe --heads`, and read by all methods.

The package brings those of its own MLLMs; files for public ones can be added to the same folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from seglens.core.files import write_json

FORMAT, VERSION = "seglens-localization-heads", 1
KNOWN = Path(__file__).parent / "heads"  # those that the package brings


class HeadChoiceError(ValueError):
    """A file of heads that cannot be used: what is wrong with it, and what to do."""


@dataclass(frozen=True)
class HeadChoice:
    """Heads as (layer, head) from 0, of the MLLM `backbone` (a hub id with its commit, or a folder), the best first.

    `mass`: the attention on the image below which the target is not there; None where that is not known. It is that of
    `presence_head`, or the mean over `heads` where there is none (older files)."""

    backbone: str
    revision: str | None
    heads: tuple[tuple[int, int], ...]
    mass: float | None = None
    presence_head: tuple[int, int] | None = None
    found: dict[str, Any] = field(default_factory=dict)  # a note of how they were measured

    @classmethod
    def read(cls, path: str | Path) -> HeadChoice:
        """Raises HeadChoiceError when it is no such file."""
        try:
            fields = json.loads(Path(path).read_text(encoding="utf-8-sig"))
            assert (fields.pop("format"), fields.pop("version")) == (FORMAT, VERSION)
            presence = fields.pop("presence_head", None)
            fields["presence_head"] = None if presence is None else _pair(presence)
            choice = cls(**{**fields, "heads": tuple(map(_pair, fields["heads"]))})
            assert choice._sound()
        except OSError as error:
            raise HeadChoiceError(f"{path} cannot be read ({error}); give the file that seglens probe wrote") from None
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError):
            raise HeadChoiceError(
                f"{path} is no file of localization heads; give one that `seglens probe --heads` wrote"
            ) from None
        return choice

    def _sound(self) -> bool:
        numbers = [number for pair in self.all_heads for number in pair]
        named = isinstance(self.backbone, str) and isinstance(self.revision, str | None)
        mass = self.mass is None or (isinstance(self.mass, float) and 0 < self.mass < 1)
        return named and mass and bool(self.heads) and all(type(number) is int and number >= 0 for number in numbers)

    def save(self, path: Path) -> None:
        write_json(path, {"format": FORMAT, "version": VERSION, **asdict(self)})

    def fits(self, backbone: str, revision: str | None) -> bool:
        """Whether they are that MLLM's: a commit that one side does not know is not compared."""
        return self.backbone == backbone and (None in (self.revision, revision) or self.revision == revision)

    def check(self, backbone: str, revision: str | None) -> None:
        """Raises HeadChoiceError when they are another MLLM's."""
        if not self.fits(backbone, revision):
            known = ((self.backbone, self.revision), (backbone, revision))
            theirs, ours = (name if commit is None else f"{name} at {commit[:12]}" for name, commit in known)
            raise HeadChoiceError(
                f"these localization heads are those of {theirs}, and the MLLM is {ours}; run `seglens probe --heads` "
                "on that, or leave the file of heads out"
            )

    @property
    def all_heads(self) -> tuple[tuple[int, int], ...]:
        """Those of the map and that of presence."""
        return (*self.heads, *(() if self.presence_head is None else (self.presence_head,)))

    @property
    def deepest_layer(self) -> int:
        """That of the last head."""
        return max(layer for layer, _ in self.all_heads)


def _pair(values: Any) -> tuple[int, int]:
    layer, head = values
    return layer, head


def known_choice(backbone: str, revision: str | None = None) -> HeadChoice | None:
    """The heads that the package brings for an MLLM; None where it brings none."""
    choices = map(HeadChoice.read, sorted(KNOWN.glob("*.json")))
    return next((choice for choice in choices if choice.fits(backbone, revision)), None)
