"""What a run in shards computes, and the record of each shard that is written: in the folder of the results."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seglens.core.files import ELSEWHERE, check_folder, digest, write_json, write_together
from seglens.exports.ledger import HIDDEN, Command

RUN, RECORDS = f"{HIDDEN}/shards.json", f"{HIDDEN}/shards"
HALF = f".{'[0-9a-f]' * 16}.tmp"  # as `core.files` names files that are not whole yet
ENDINGS = {"parquet": "parquet", "coco": "json"}


@dataclass(frozen=True)
class ShardRecord:
    """A shard as it was written: its file, the state of its images then, and what is wrong with some of them."""

    size: int
    digest: str
    state: str
    images: int
    faults: tuple[str, ...] = ()
    bad: int = 0  # images with a fault

    @classmethod
    def of(cls, content: dict[str, Any]) -> ShardRecord:
        """From its fields as JSON holds them."""
        return cls(**{**content, "faults": tuple(content["faults"])})


@dataclass(frozen=True)
class ShardPlan:
    """`images` images (`names` is a digest of their names) in shards of `per_shard`, asked by a command, in files of a
    format."""

    format: str
    command: Command
    names: str
    images: int
    per_shard: int

    @property
    def shards(self) -> int:
        return -(-self.images // self.per_shard)

    def indices(self, shard: int) -> range:
        return range(shard * self.per_shard, min((shard + 1) * self.per_shard, self.images))

    def file(self, shard: int) -> str:
        return f"masks-{shard:05d}-of-{self.shards:05d}.{ENDINGS[self.format]}"

    def claim(self, folder: Path) -> None:
        """Make the folder this run's. Raises ValueError when another run has written shards there."""
        check_folder(folder)
        path, ours = folder / RUN, json.loads(json.dumps(asdict(self)))
        if not path.exists() or not any((folder / RECORDS).glob("*.json")):
            write_json(path, ours)
            return
        theirs = _read(path)
        differing = [
            _difference(name, theirs.get(name), value) for name, value in ours.items() if theirs.get(name) != value
        ]
        if differing:
            raise ValueError(
                f"{str(folder)!r} holds another run in shards ({'; '.join(differing)}); choose another folder"
            )

    def sweep(self, folder: Path) -> None:
        """Remove files that a killed run left half-written."""
        for path in (*folder.glob(HALF), *(folder / RECORDS).glob(HALF)):
            path.unlink(missing_ok=True)

    def done(self, folder: Path, shard: int, state: str) -> ShardRecord | None:
        """The record of a shard that is there, of images in this state."""
        record = self.written(folder, shard)
        there = record is not None and record.state == state and (folder / self.file(shard)).is_file()
        return record if there else None

    def written(self, folder: Path, shard: int) -> ShardRecord | None:
        """The record of a shard, whatever became of its file since."""
        path = self._record(folder, shard)
        return ShardRecord.of(_read(path)) if path.is_file() else None

    def write(self, folder: Path, shard: int, data: bytes, record: ShardRecord, overwrite: bool) -> None:
        """A shard and its record. Raises FileExistsError where there is a file that this run did not write, or that was
        changed since."""
        path, known = folder / self.file(shard), self.written(folder, shard)
        if path.exists() and not overwrite:
            now = digest(path.read_bytes())
            if now not in (record.digest, None if known is None else known.digest):
                raise FileExistsError(f"{str(path)!r} is there already, and not as this run wrote it; {ELSEWHERE}")
        content = json.dumps(asdict(record), ensure_ascii=True).encode()
        write_together({path: data, self._record(folder, shard): content})

    def _record(self, folder: Path, shard: int) -> Path:
        return folder / RECORDS / f"{self.file(shard)}.json"


def _read(path: Path) -> dict[str, Any]:
    """Raises ValueError when the record was changed by something else."""
    try:
        content = json.loads(path.read_text("utf-8"))
        if isinstance(content, dict):
            return content
    except ValueError:
        pass
    raise ValueError(f"{str(path)!r} is damaged; delete it, and the same command computes what it was about again")


def _difference(name: str, theirs: Any, ours: Any) -> str:
    if name == "command" and isinstance(theirs, dict):
        one, other = ({"queries": both["queries"], **both["settings"]} for both in (theirs, ours))
        names = [each for each in {**one, **other} if one.get(each) != other.get(each)]
        return "; ".join(f"{each}: {one.get(each)} there, {other.get(each)} here" for each in names)
    if name == "names":
        return "other images"
    return f"{name}: {theirs} there, {ours} here"
