"""Shards of answers, each computed once: by this process, or by actors of Ray on many machines, with the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from seglens.core.files import digest
from seglens.core.locks import LOCK, held
from seglens.core.ray_actors import Actors, rows_of_actors
from seglens.exports.ledger import HIDDEN
from seglens.exports.shards.encoding import ENCODERS
from seglens.exports.shards.image_list import ImageList
from seglens.exports.shards.plan import ShardPlan, ShardRecord
from seglens.inference.image_answers import Answering, ImageAnswers, Known
from seglens.inference.segmenter import Segmenter


@dataclass(frozen=True)
class ShardOutcome:
    """A shard that is there. `known`: from an earlier run."""

    file: Path
    record: ShardRecord
    known: bool = False


@dataclass
class ShardRun:
    """Answers about all `images`, in shards in `folder`. `load` is called, in each process that computes, when the
    first image needs the segmenter."""

    plan: ShardPlan
    images: ImageList
    folder: Path
    load: Callable[[], Segmenter]
    each: bool | None = None
    trust: bool = False
    most: int | None = None  # images that share a pass
    overwrite: bool = False

    @cached_property
    def answering(self) -> Answering:
        return Answering(self.load, self.plan.command.queries, self.each, self.trust, self.most)

    def outcomes(self, actors: Actors | None = None) -> Iterator[ShardOutcome]:
        """First the shards that are there, then each other as it is done.

        Raises ValueError when the folder holds another run or the Ray cannot be joined, FileExistsError when something
        else is in the way, InUseError when another process writes there, OSError when nothing can be written."""
        self.plan.claim(self.folder)
        with held(self.folder / HIDDEN / LOCK):  # by this process, for all of its actors
            self.plan.sweep(self.folder)
            missing = []
            for shard in range(self.plan.shards):
                record = self._done(shard)
                if record is None:
                    missing.append(shard)
                else:
                    yield ShardOutcome(self.folder / self.plan.file(shard), record, known=True)
            if missing:
                yield from self._computed(missing, actors)

    def _computed(self, shards: list[int], actors: Actors | None) -> Iterator[ShardOutcome]:
        written = self._here(shards) if actors is None else _by_actors(self, shards, actors)
        yield from (ShardOutcome(self.folder / self.plan.file(shard), record) for shard, record in written)

    def _here(self, shards: list[int]) -> Iterator[tuple[int, ShardRecord]]:
        return ((shard, self.write(shard)) for shard in shards)

    def _done(self, shard: int) -> ShardRecord | None:
        return None if self.overwrite else self.plan.done(self.folder, shard, self._state(shard))

    def record_of(self, shard: int) -> ShardRecord:
        """That of a shard which is there, as an actor that is lost may have written it, or is written now."""
        return self._done(shard) or self.write(shard)

    def write(self, shard: int) -> ShardRecord:
        """Compute one shard, and write it."""
        indices, state = self.plan.indices(shard), self._state(shard)
        answers = list(zip(indices, self._answers(indices), strict=True))
        faults = [fault.says for _, one in answers for fault in one.faults]
        data = ENCODERS[self.plan.format](answers, self.plan.command)
        bad = sum(bool(one.faults) for _, one in answers)
        record = ShardRecord(len(data), digest(data), state, len(indices), tuple(faults), bad)
        self.plan.write(self.folder, shard, data, record, self.overwrite)
        return record

    def _answers(self, indices: range) -> Iterator[ImageAnswers]:
        answers: Iterator[ImageAnswers | Known[None]] = self.answering.answers(self.images[i] for i in indices)
        return (one for one in answers if isinstance(one, ImageAnswers))  # nothing else was put in

    def _state(self, shard: int) -> str:
        return self.images.state(self.plan.indices(shard))


class ShardActor:
    """An actor: loads the model once, then writes shard after shard to the folder that all machines share."""

    def __init__(self, run: ShardRun):
        self.run = run

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Rows of shard, record and fault: an error comes back as text."""
        shards = batch["shard"].tolist()
        records, faults = zip(*map(self._write, shards), strict=True)
        return {"shard": shards, "record": list(records), "fault": list(faults)}

    def _write(self, shard: int) -> tuple[str, str]:
        try:
            return json.dumps(asdict(self.run.record_of(shard))), ""
        except (ValueError, OSError, ImportError) as error:
            return "", " ".join(str(error).split()) or type(error).__name__


def _by_actors(run: ShardRun, shards: list[int], actors: Actors) -> Iterator[tuple[int, ShardRecord]]:
    for row in rows_of_actors(ShardActor, (run,), shards, actors):
        if row["fault"]:
            raise ValueError(row["fault"])
        yield row["shard"], ShardRecord.of(json.loads(row["record"]))
