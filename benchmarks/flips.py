"""A byte that is another: in a cache, a checkpoint, a head, or the weights of the package."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shortages import prepare, segment
from trials import Setting, Trial, cache, command, contents, train

MODELS = ("mllm", "sam", "lens")  # of the package: what its default model is made of
OUT = "out"


@dataclass(frozen=True)
class Target:
    """A folder whose bytes are changed, the command that reads it, and which of the files that it writes count."""

    name: str
    folder: Path
    words: Sequence[object]
    ends: tuple[str, ...]
    settings: Sequence[Setting] = ()
    start: Path | None = None  # what the command goes on with, in OUT

    def result(self, folder: Path) -> tuple[int | None, str, bool, Mapping[str, bytes]]:
        """Exit code and words of the command, whether it refused in a sentence, and what it wrote."""
        shutil.rmtree(folder / OUT, ignore_errors=True)
        if self.start is not None:
            shutil.copytree(self.start, folder / OUT)
        done = command(*self.words, folder=folder, settings=self.settings)
        wrote = contents(folder / OUT) if (folder / OUT).exists() else {}
        refused = done.code in (1, 2) and "Traceback" not in done.output
        return done.code, done.output, refused, {k: v for k, v in wrote.items() if k.endswith(self.ends)}


def targets(folder: Path) -> list[Target]:
    """Made by the product itself."""
    prepare(folder)
    for words in (cache("cache", 8), train("run", "--live", steps=3)):
        done = command(*words, folder=folder)
        if done.code:
            raise RuntimeError(done.output)
    shutil.copytree(folder / "run", folder / "half", ignore=shutil.ignore_patterns("step_3", "head"))
    masks = segment(OUT)
    return [
        Target("shards and notes of a cache", folder / "cache", ["cache", "check", "cache"], ()),
        Target(
            "checkpoints",
            folder / "half" / "step_2",
            train(OUT, "--live", steps=3),
            ("head.safetensors",),
            start=folder / "half",
        ),
        Target("heads", folder / "run" / "head", [*masks, "--model", "run/head"], ("mask.png",)),
        Target("weights of the package", _package(folder), masks, ("mask.png",), [lambda: _use(folder / "weights")]),
    ]


def _package(folder: Path) -> Path:
    """A copy of the package's own weights, to be damaged in its place."""
    import seglens.checkpoints.origin

    for name in MODELS:
        shutil.copytree(seglens.checkpoints.origin.weights_folder() / name, folder / "weights" / name)
    return folder / "weights"


def _use(weights: Path) -> None:
    import seglens.checkpoints.origin

    seglens.checkpoints.origin.weights_folder = lambda: weights


def flips(folder: Path, number: int, chance: random.Random) -> Iterator[Trial]:
    """Each refused by the name of its file, or without any effect."""
    all_targets = targets(folder)
    for k, target in enumerate(all_targets):
        right = target.result(folder)
        if right[0]:
            raise RuntimeError(f"{target.name} cannot be read undamaged: {right[1]}")
        files = sorted(path for path in target.folder.rglob("*") if path.is_file())
        for _ in range(number // len(all_targets) + (k < number % len(all_targets))):
            file = _some(files, chance)
            before, at = file.read_bytes(), chance.randrange(file.stat().st_size)
            after = bytes([before[at] ^ chance.randrange(1, 256)])
            file.write_bytes(before[:at] + after + before[at + 1 :])
            code, output, refused, wrote = target.result(folder)
            file.write_bytes(before)
            same = code == 0 and wrote == right[3]
            what = f"byte {at} of {file.relative_to(folder)}: {before[at]} to {after[0]}"
            last = (output.strip().splitlines() or [f"exit code {code}"])[-1]
            yield Trial(f"flipped bytes: {target.name}", what, same or (refused and file.name in output), last[:300])


def _some(files: Sequence[Path], chance: random.Random) -> Path:
    """Half of the time any file, else one by its bytes: the large ones hold most of what can go wrong."""
    weights: Callable[[Path], int] = lambda path: path.stat().st_size  # noqa: E731
    return chance.choice(files) if chance.random() < 0.5 else chance.choices(files, [weights(f) for f in files])[0]
