"""`seglens segment` in shards: on this machine, or with Ray on many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seglens.cli.output import print_json_line, print_stderr, printable, report_faults
from seglens.core.progress import progress

if TYPE_CHECKING:
    from seglens.cli.options import ShardOptions
    from seglens.core.ray_actors import Actors
    from seglens.exports import Command
    from seglens.exports.shards import ShardOutcome, ShardRun
    from seglens.inference.segmenter import Segmenter

PARQUET, COCO, PER_SHARD = "parquet", "coco", 256


def in_shards(formats: Sequence[str], options: ShardOptions, workers: int) -> bool:
    """Whether a run is in shards. Raises ValueError when its formats are not those of shards, and for `workers`."""
    wanted = options.shard is not None or options.ray is not None or PARQUET in formats
    if wanted and (len(formats) > 1 or not {*formats} <= {PARQUET, COCO}):
        raise ValueError(
            f"got --format {','.join(formats)} for shards; they have one format, parquet (the default) or coco"
        )
    if wanted and workers > 1:
        raise ValueError(f"got --workers {workers} for shards; actors of Ray share these: --ray {workers}")
    return wanted


def shard_run(
    words: Sequence[str],
    command: Command,
    load: Callable[[], Segmenter],
    out: Path,
    formats: Sequence[str],
    per_shard: int | None,
    together: int | None,
    overwrite: bool,
) -> ShardRun:
    """The run that the arguments of a command name. Raises ImageError on a word that names no image."""
    from seglens.exports.shards import ImageList, ShardPlan, ShardRun

    images, settings = ImageList.of(words), command.settings
    plan = ShardPlan(formats[0] if formats else PARQUET, command, images.digest, len(images), per_shard or PER_SHARD)
    return ShardRun(plan, images, out.absolute(), load, settings["each"], settings["trust"], together, overwrite)


def segment_shards(run: ShardRun, actors: Actors | None, as_json: bool) -> None:
    """Prints a line for each shard. Raises typer.Exit when something went wrong with an image."""
    faults, bad, known = list[str](), 0, 0
    with progress("segmenting", len(run.images)) as tick:
        for outcome in run.outcomes(actors):
            _print(outcome, as_json)
            faults, bad = [*faults, *outcome.record.faults], bad + outcome.record.bad
            known += outcome.known
            tick(outcome.record.images)
    if known:
        print_stderr(f"seglens: {known} of {run.plan.shards} shards were done before; --overwrite computes them again")
    report_faults(faults, f"of {len(run.images)} images could not be segmented", bad)


def _print(one: ShardOutcome, as_json: bool) -> None:
    from seglens.core.schema import ShardLine

    record = one.record
    if as_json:
        line = ShardLine(file=printable(str(one.file)), images=record.images, bad=record.bad, known=one.known)
        print_json_line(line)
        return
    failed = f", {record.bad} of them could not be segmented" if record.bad else ""
    print(f"{one.file}: {record.images} images{failed}", flush=True)
