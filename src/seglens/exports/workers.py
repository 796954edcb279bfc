"""A run over many pictures by several processes of one machine: each loads the model, and answers every n-th block."""

from __future__ import annotations

import io
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass, replace
from itertools import count, islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from seglens.core.cpu_threads import chosen_by_user
from seglens.core.process_limits import usable_cores
from seglens.exports.batch import BatchRun, ImageOutcome, Share
from seglens.exports.ledger import Command
from seglens.exports.writer import Export
from seglens.inference.image_sources import Piped, Sources
from seglens.inference.segmenter import Segmenter


@dataclass(frozen=True)
class Finished:
    """A block that a worker has written, with the files of it that were changed since an earlier run."""

    outcomes: list[ImageOutcome]
    changed: list[Path]


Message = Finished | Exception | None  # None: there are no more blocks


@dataclass(frozen=True)
class Task:
    """What a worker needs, as plain values that can be sent to another process."""

    sources: Sources
    command: Command
    load: Callable[[], Segmenter]
    each: bool | None
    trust: bool
    most: int | None
    folder: Path
    formats: tuple[str, ...]
    overwrite: bool
    share: Share

    @classmethod
    def of(cls, run: BatchRun, share: Share) -> Task:
        export = run.export
        return cls(
            run.sources,
            run.command,
            run.load,
            run.each,
            run.trust,
            run.most,
            export.folder,
            tuple(export.formats),
            export.overwrite,
            share,
        )

    def run(self) -> BatchRun:
        export = Export(self.folder, self.formats, self.command, self.sources.paths, self.overwrite)
        load = self._load
        run = BatchRun(self.sources, self.command, export, load, self.each, self.trust, self.most, self.share)
        export.join(run.titles())
        return run

    def _load(self) -> Segmenter:
        """On its share of the cores; what loading prints is printed once."""
        import torch

        with redirect_stderr(io.StringIO()) if self.share.number else nullcontext():
            segmenter = self.load()
        if not chosen_by_user():
            torch.set_num_threads(max(1, min(torch.get_num_threads(), usable_cores() // self.share.count)))
        return segmenter


class Worker:
    """A process with a share of the blocks, and what it sent."""

    def __init__(self, task: Task):
        self.task, self.messages = task, SimpleQueue[Message | EOFError]()
        ours, theirs = get_context("spawn").Pipe(duplex=False)
        self.process = get_context("spawn").Process(target=_work, args=(task, theirs), daemon=True)
        self.process.start()
        theirs.close()  # else the end of the process would not end the pipe
        Thread(target=self._receive, args=(ours,), daemon=True).start()

    def _receive(self, pipe: Connection) -> None:
        try:
            while True:
                self.messages.put(pipe.recv())
        except Exception:  # the process ended, or sent an error that cannot be read here: it then ends too
            self.messages.put(EOFError())

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()


def _work(task: Task, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes: the first one ends the others
    message: Message = None
    try:
        run = task.run()
        outcomes = iter(run)
        while block := list(islice(outcomes, run.answering.block)):
            pipe.send(Finished(block, run.export.changed))
            run.export.changed = []
    except BrokenPipeError:  # the first process has ended
        return
    except Exception as error:
        message = error
    pipe.send(message)


@dataclass
class WorkerRun:
    """`run` by `workers` processes: the same outcomes in the same order, and the same files to rounding (to the last
    bit where a process has as many threads as the single one). `report` is called with a line for people when a
    process ended; its pictures are then computed here."""

    run: BatchRun
    workers: int
    report: Callable[[str], object]

    def __iter__(self) -> Iterator[ImageOutcome]:
        self.run.export.begin()
        workers = [Worker(Task.of(self.run, Share(k, self.workers))) for k in range(self.workers)]
        here = dict[int, Iterator[ImageOutcome]]()
        try:
            for number in count():
                k = number % self.workers
                message = EOFError() if k in here else workers[k].messages.get()
                if isinstance(message, EOFError):
                    if k not in here:
                        here[k] = self._take_over(workers[k], number)
                    block = list(islice(here[k], self.run.answering.block))
                elif isinstance(message, Exception):
                    raise message
                else:
                    block = [] if message is None else self._noted(message)
                if not block:
                    return
                yield from block
        finally:
            for worker in workers:
                worker.stop()

    def _noted(self, message: Finished) -> list[ImageOutcome]:
        """As if this process had written the block."""
        export = self.run.export
        export.pages += sum(bool(one.files) for one in message.outcomes)
        export.changed += message.changed
        return message.outcomes

    def _take_over(self, worker: Worker, first: int) -> Iterator[ImageOutcome]:
        worker.process.join()
        share = replace(worker.task.share, first=first)
        self.report(
            f"process {share.number + 1} of {share.count} ended (exit code {worker.process.exitcode}); its pictures "
            "are computed by the first one"
        )
        self.run.export.ledger.refresh()
        return iter(replace(self.run, share=share))


def check_workers(sources: Sources, workers: int) -> None:
    """Raises ValueError where several processes cannot read the pictures."""
    if workers > 1 and any(isinstance(one, Piped) for one in sources.each):
        raise ValueError("--workers needs files; standard input can be read by one process only")
