"""What a method that tunes its MLLM learns from: pictures and words. The states of the MLLM change with every step, so
that none of them are stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seglens.core.tuning_types import TokenizedAnswer, TrainingFormat, TunedInputs
from seglens.core.types import Embedding, Sample, Target, Totals
from seglens.data.rng import below, pick, words
from seglens.decoders import MaskDecoder
from seglens.features.examples import Batch, areas, real, truth_of
from seglens.methods.tuned import TunedReader


@dataclass(frozen=True)
class TunedExample:
    """One image with questions and their answers, as an MLLM that is tuned takes them, and the truth as covered area
    (255 is all)."""

    pixels: Float[Tensor, "3 n m"]
    answers: tuple[TokenizedAnswer, ...]
    masks: UInt8[Tensor, "q s s"]  # on the canvas of the method's masks
    cells: UInt8[Tensor, "q h w"]  # on the backbone's grid
    present: tuple[bool, ...]
    embedding: Embedding | None  # of the mask decoder, if the method has one; b is 1

    @property
    def grid(self) -> tuple[int, int]:
        return self.pixels.shape[1], self.pixels.shape[2]

    def totals(self) -> Totals:
        spoken = sum(one.spoken for one in self.answers)
        learnt = [sum(one.learnt) for one in self.answers]
        return Totals(sum(self.present), len(self.answers) - spoken, sum(map(bool, learnt)), sum(learnt))

    @staticmethod
    def batch(examples: Sequence[TunedExample], device: torch.device | str = "cpu") -> Batch:
        """Void questions, masked out everywhere, fill up images that have fewer."""
        inputs = _inputs(examples, real([len(one.answers) for one in examples]).to(device), device)
        truth = truth_of(
            [one.masks for one in examples],
            [one.cells for one in examples],
            [one.present for one in examples],
            device,
        )
        truth = replace(truth, valid=truth.valid & ~inputs.spoken, spoken=inputs.spoken, tokens=inputs.learnt.sum(-1))
        encoded = [one.embedding for one in examples if one.embedding is not None]
        embedding = Embedding.joined(encoded).each(lambda tensor: tensor.to(device)) if encoded else None
        return Batch(inputs, embedding, truth)


def _inputs(examples: Sequence[TunedExample], asked: Tensor, device: torch.device | str) -> TunedInputs:
    """`asked`, "b q", is false for void questions."""
    q = asked.shape[1]
    answers = [w for one in examples for w in (*one.answers, *[_void(examples[0])] * (q - len(one.answers)))]

    def split(tensor: Tensor) -> Tensor:
        return rearrange(tensor.to(device, non_blocking=True), "(b q) ... -> b q ...", q=q)

    ids, learnt = (
        split(pad_sequence([torch.tensor(x) for x in rows], batch_first=True))
        for rows in ([w.ids for w in answers], [w.learnt for w in answers])
    )
    lengths = split(torch.tensor([len(w.ids) for w in answers]))
    return TunedInputs(
        pixels=torch.stack([one.pixels for one in examples]).to(device),
        words=ids,
        learnt=learnt & asked[..., None],
        mask=torch.arange(ids.shape[-1], device=device) < lengths[..., None],
        places=split(torch.tensor([w.places for w in answers])),
        spoken=split(torch.tensor([w.spoken for w in answers])) & asked,
    )


def _void(like: TunedExample) -> TokenizedAnswer:
    """An answer that fills up a batch: none of it is learnt."""
    first = like.answers[0]
    return TokenizedAnswer(first.ids, (False,) * len(first.ids), first.places, spoken=False)


@dataclass(frozen=True)
class ExampleMaker:
    """Makes the examples of one method: `mllm` tokenises, `decoder` (if the method has one) encodes the image too, and
    masks have `mask_side` cells a side. In training, `training_format` decides the form of queries."""

    mllm: TunedReader
    decoder: MaskDecoder | None
    mask_side: int
    training_format: TrainingFormat | None = None
    seed: int = 0

    def example(self, sample: Sample, questions: Iterable[int] | None = None, number: int = 0) -> TunedExample:
        """Of some questions about an image (default all), those that are answered in words among them. What a training
        format chooses at random is a function of the seed, the image and the `number` of the example."""
        targets = sample.targets if questions is None else tuple(sample.targets[q] for q in questions)
        frame = self.mllm.frame(sample.image)
        masks, cells = (areas(targets, frame, size) for size in (self.mask_side, self.mllm.grid[0]))
        embedding = None if self.decoder is None else self.decoder.encode(sample.image, frame)
        pixels = self.mllm.pixels(self._photographed(sample, number))
        return TunedExample(
            pixels.cpu(),
            self._answers(targets, sample.id, number),
            masks,
            cells,
            tuple(t.present for t in targets),
            None if embedding is None else embedding.each(Tensor.cpu),
        )

    def _photographed(self, sample: Sample, number: int) -> UInt8[np.ndarray, "h w 3"]:
        if self.training_format is None or not self.training_format.jpeg:
            return sample.image
        low, high = self.training_format.jpeg
        (word,) = words(1, "jpeg", self.seed, number, sample.id)
        return through_jpeg(sample.image, low + below(word, high - low + 1))

    def _answers(self, targets: Sequence[Target], image: str, number: int) -> tuple[TokenizedAnswer, ...]:
        """Queries for masks alone share conversations; each of the others is a conversation by itself."""
        if self.training_format is None:
            return tuple(map(self._alone, targets))
        by_number = {n: self._alone(t) for n, t in enumerate(targets) if t.spoken or t.explained}
        shared = [n for n in range(len(targets)) if n not in by_number]
        if len(shared) > self.training_format.queries:  # others together each time
            order = pick(words(len(shared), "together", self.seed, number, image), len(shared))
            shared = [shared[at] for at in order]
        for start in range(0, len(shared), self.training_format.queries):
            some = shared[start : start + self.training_format.queries]
            keys = words(2, "conversation", self.seed, number, image, start)
            by_number |= dict(zip(some, self._conversation([targets[n] for n in some], *keys), strict=True))
        return tuple(by_number[n] for n in range(len(targets)))

    def _conversation(self, targets: Sequence[Target], request_key: int, answer_key: int) -> list[TokenizedAnswer]:
        assert self.training_format is not None
        form = below(answer_key, len(self.training_format.openings))
        items = [
            (t.query, (self.training_format.items if t.present else self.training_format.refusals)[form])
            for t in targets
        ]
        request = self.training_format.requests[below(request_key, len(self.training_format.requests))]
        return self.mllm.conversation(request, self.training_format.openings[form], items)

    def _alone(self, target: Target) -> TokenizedAnswer:
        return self.mllm.words(
            target.query,
            target.answer if target.spoken else None,
            target.present,
            target.answer if target.explained else None,
        )


def through_jpeg(image: UInt8[np.ndarray, "h w 3"], quality: int) -> UInt8[np.ndarray, "h w 3"]:
    """The image as it comes out of a JPEG of that quality (1 to 100), as Pillow writes it."""
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))
