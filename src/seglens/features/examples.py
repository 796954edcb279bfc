"""What a method learns from: examples, the sources that give them by number, and batches of them.

An example is one image with some of the questions about it. A method on frozen parts learns from their `Features`, a
method that tunes its MLLM from a `TunedExample`; both come in one kind of batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seglens.core.geometry import Frame
from seglens.core.tuning_types import TunedInputs
from seglens.core.types import Embedding, Readout, Sample, Target, Totals, Truth
from seglens.data import Dataset
from seglens.data.dataset import usable

FULL = 255  # a cell of a stored area that is covered completely


@dataclass(frozen=True)
class Batch:
    """Images with their questions, ready for a method, in fp32. Void questions fill up images that have fewer."""

    inputs: Readout | TunedInputs  # of a frozen MLLM, or for one that is tuned
    embedding: Embedding | None
    truth: Truth


@runtime_checkable
class Example(Protocol):
    """One image with some questions about it, as a method learns from it."""

    def totals(self) -> Totals:
        """How many masks, questions and answers it has."""

    @property
    def grid(self) -> tuple[int, int]:
        """Of the image's tokens, or of its canvas's pixels: the same for all images of a batch."""

    @staticmethod
    def batch(examples: Sequence[Any], device: torch.device | str = "cpu") -> Batch:
        """Several examples of this kind and of one grid on the device of the method."""


@runtime_checkable
class ExampleSource(Protocol):
    """Examples by the number of their image: computed when asked for (`LiveExamples`) or read from disk (`Cache`)."""

    def __len__(self) -> int: ...

    def questions(self, image: int) -> int:
        """How many questions there are about an image."""

    def example(self, image: int, questions: Sequence[int], number: int = 0) -> Example:
        """Some of the questions about an image. `number` is that of the example in the training: for what is random
        and drawn again each time that an image is used. Frozen features do not depend on it."""

    def fingerprint(self) -> str:
        """A hash of everything that decides the examples."""


class LiveExamples:
    """A dataset as examples, which `read` makes of a sample, questions and a number when they are asked for. `name` is
    how the user named the data, `key` what the parts are, their weights included, and `keep` leaves of a sample the
    questions that can be learnt."""

    def __init__(
        self,
        samples: Dataset,
        read: Callable[[Sample, Sequence[int], int], Example],
        name: str,
        key: Mapping[str, Any],
        keep: Callable[[Sample], Sample] = lambda sample: sample,
    ):
        self.samples, self.read, self.name, self.key, self.keep = samples, read, name, key, keep
        self._last: tuple[int, Sample | None] = -1, None  # counting questions and reading them decodes an image once

    def __len__(self) -> int:
        return len(self.samples)

    def _sample(self, image: int) -> Sample | None:
        """None for an image that the data leaves out."""
        if self._last[0] != image:
            sample = usable(self.samples, image)[0]
            self._last = image, None if sample is None else self.keep(sample)
        return self._last[1]

    def questions(self, image: int) -> int:
        sample = self._sample(image)
        return 0 if sample is None else len(sample.targets)

    def example(self, image: int, questions: Sequence[int], number: int = 0) -> Example:
        sample = self._sample(image)
        if sample is None:
            raise ValueError(f"image {image} of {self.name} is left out; ask for one that has questions")
        return self.read(sample, questions, number)

    def fingerprint(self) -> str:
        return fingerprint([self.name, len(self), self.key])


def collate(examples: Sequence[Example], device: torch.device | str = "cpu") -> Batch:
    """One batch of several examples, which are all of one kind and of one grid."""
    return type(examples[0]).batch(examples, device)


def batches(examples: Sequence[Example], device: torch.device | str = "cpu") -> list[Batch]:
    """A batch for every grid among the examples: one, unless pictures are shown in tiles arranged by their shapes."""
    groups = dict[tuple[int, int], list[Example]]()
    for example in examples:
        groups.setdefault(example.grid, []).append(example)
    return [collate(group, device) for group in groups.values()]


def fingerprint(content: Any) -> str:
    """A short hash of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def areas(targets: Sequence[Target], frame: Frame, size: int | tuple[int, int]) -> UInt8[Tensor, "q _ _"]:
    """The share of every cell of a canvas that each target covers; `size` as in `Frame.to_canvas_mask`."""
    truth = torch.stack([torch.from_numpy(t.mask) for t in targets])
    return (FULL * frame.to_canvas_mask(truth, size)).round().to(torch.uint8)


def truth_of(
    masks: Sequence[UInt8[Tensor, "_ s s"]],
    cells: Sequence[UInt8[Tensor, "_ h w"]],
    present: Sequence[Sequence[bool]],
    device: torch.device | str = "cpu",
) -> Truth:
    """The truth of several images, each with the areas of its questions; no question is answered in words alone."""

    def shares(each: Sequence[Tensor]) -> Tensor:
        return pad_sequence(list(each), batch_first=True).to(device, non_blocking=True).float() / FULL

    flags = pad_sequence([torch.tensor(one, dtype=torch.bool) for one in present], batch_first=True).to(device)
    valid = real([len(one) for one in present]).to(device)
    return Truth(shares(masks), shares(cells), flags, valid, torch.zeros_like(valid))


def real(counts: Sequence[int]) -> Bool[Tensor, "b q"]:
    """Which questions of a batch are questions, and not void, when its images have so many."""
    return torch.arange(max(counts)) < torch.tensor(counts)[:, None]
