"""Several processes that share the pictures of a run: the outcomes and the files of one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from queue import SimpleQueue

import pytest
from PIL import Image

from seglens.data.world import WorldData
from seglens.exports import Command, Export
from seglens.exports.batch import BatchRun, ImageOutcome, Share
from seglens.exports.workers import Worker, WorkerRun, check_workers
from seglens.inference.image_sources import Piped, Sources
from seglens.inference.segmenter import Segmenter

QUERIES = ["the largest thing", "the leftmost thing"]
ALL = Share()
load = partial(Segmenter.from_pretrained, segmentation_only=True)


def load_or_die(marker: Path) -> Segmenter:
    """The first process that comes here is killed."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return load()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five pictures and, between them, a file that is none: three blocks of two."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = tmp_path / "in"
    folder.mkdir()
    for number, sample in enumerate(WorldData(n=5, seed=4, queries=1)):
        Image.fromarray(sample.image).save(folder / f"{number}.png")
    (folder / "1a.png").write_text("no image")
    return folder


def run(folder: Path, out: Path, loading: Callable[[], Segmenter], share: Share = ALL) -> BatchRun:
    sources = Sources.of([str(folder)])
    command = Command(QUERIES, root=str(sources.root))
    export = Export(out, ["mask", "coco"], command, sources.paths)
    return BatchRun(sources, command, export, loading, trust=True, most=2, share=share)


def finish(batch: BatchRun, outcomes: BatchRun | WorkerRun | None = None) -> list[tuple[str, list[str], int]]:
    """Without the times, which differ."""
    batch.plan()
    with batch.export:
        return [_plain(one) for one in outcomes or batch]


def _plain(one: ImageOutcome) -> tuple[str, list[str], int]:
    return one.shown, [answer.model_dump_json(exclude={"milliseconds"}) for answer in one.answers], len(one.faults)


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and ".seglens" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture
def whole(folder: Path, tmp_path: Path, segmenter: Segmenter) -> list[tuple[str, list[str], int]]:
    """The outcomes of one process, whose files are in `one`."""
    return finish(run(folder, tmp_path / "one", lambda: segmenter))


def test_shares_are_all_blocks_once(whole: list[object], folder: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    """Also where a share is taken over from a block on; the files are those of one process, whatever the order."""
    for share in (Share(1, 2), Share(0, 2, first=2), Share(0, 2)):
        batch = run(folder, tmp_path / "shares", lambda: segmenter, share)
        assert finish(batch) == [
            outcome for n, outcome in enumerate(whole) if n // 2 >= share.first and n // 2 % 2 == share.number
        ]
    assert files(tmp_path / "shares").keys() == files(tmp_path / "one").keys()
    assert files(tmp_path / "shares")["coco.json"] == files(tmp_path / "one")["coco.json"]


@pytest.mark.slow
def test_two_processes_leave_what_one_leaves(whole: list[object], folder: Path, tmp_path: Path) -> None:
    """And the same command knows all of it."""
    lines = list[str]()
    for _ in range(2):
        batch = run(folder, tmp_path / "two", load)
        assert finish(batch, WorkerRun(batch, 2, lines.append)) == whole
        assert files(tmp_path / "two") == files(tmp_path / "one")
    assert lines == []


@pytest.mark.slow
def test_a_killed_process_is_reported_and_its_pictures_are_computed(
    whole: list[object], folder: Path, tmp_path: Path
) -> None:
    lines = list[str]()
    batch = run(folder, tmp_path / "two", partial(load_or_die, tmp_path / "marker"))
    assert finish(batch, WorkerRun(batch, 2, lines.append)) == whole
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert len(lines) == 1
    assert "ended (exit code -9); its pictures are computed by the first one" in lines[0]


def broken() -> Segmenter:
    raise ValueError("the head is damaged")


@pytest.mark.slow
def test_an_error_of_a_process_ends_the_run(folder: Path, tmp_path: Path) -> None:
    batch = run(folder, tmp_path / "two", broken)
    with pytest.raises(ValueError, match="the head is damaged"):
        finish(batch, WorkerRun(batch, 2, print))
    assert files(tmp_path / "two") == {}


class UnreadableError(Exception):
    """As errors of some packages are: it can be sent to another process, and not be made again there."""

    def __init__(self, what: str, where: str):
        super().__init__(f"{what} in {where}")


def test_an_error_that_cannot_be_read_ends_its_process_for_the_others() -> None:
    """The first one then computes the share, and meets the error itself."""
    ours, theirs = Pipe(duplex=False)
    worker = Worker.__new__(Worker)
    worker.messages = SimpleQueue()
    theirs.send(UnreadableError("a fault", "a file"))
    worker._receive(ours)
    assert isinstance(worker.messages.get(timeout=1), EOFError)


def test_standard_input_is_read_by_one_process() -> None:
    check_workers(Sources((Piped(),)), 1)
    with pytest.raises(ValueError, match="--workers needs files"):
        check_workers(Sources((Piped(),)), 2)
