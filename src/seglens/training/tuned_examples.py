"""What a method that tunes its MLLM learns from: pictures and words. Their features change with every step, so that
nothing of them is kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seglens.core.tuning_types import TokenizedAnswer, TrainingFormat, TunedInputs
from seglens.core.types import Embedding, Sample, Target, Totals, Truth
from seglens.data.rng import below, pick, words
from seglens.decoders import MaskDecoder
from seglens.features.frozen import FULL, Batch, ExampleIndex, areas
from seglens.methods.tuned import TunedReader


@dataclass(frozen=True)
class TunedExample:
    """One image with questions and their answers, as an MLLM that is tuned takes them, and the truth as covered area
    (255 is all)."""

    pixels: Float[Tensor, "3 n n"]
    said: tuple[TokenizedAnswer, ...]
    masks: UInt8[Tensor, "q s s"]  # on the canvas of the method's masks
    cells: UInt8[Tensor, "q h w"]  # on the backbone's grid
    present: tuple[bool, ...]
    embedding: Embedding | None  # of the mask decoder, if the method has one; b is 1

    def tally(self) -> Totals:
        spoken = sum(words.spoken for words in self.said)
        learnt = [sum(words.learnt) for words in self.said]
        return Totals(sum(self.present), len(self.said) - spoken, sum(map(bool, learnt)), sum(learnt))

    @staticmethod
    def batch(found: Sequence[TunedExample], device: torch.device | str = "cpu") -> Batch:
        return gather(found, device)


@dataclass(frozen=True)
class ExampleMaker:
    """Makes exercises for one method: `mllm` tokenises, `decoder` (if the method has one) sees the image too, and masks
    have `mask_side` cells a side. In training, `practice` says how they are shown."""

    mllm: TunedReader
    decoder: MaskDecoder | None
    mask_side: int
    practice: TrainingFormat | None = None
    seed: int = 0

    def read(self, sample: Sample, pick: ExampleIndex) -> TunedExample:
        """Of what a lesson asks about an image."""
        return self.exercise(sample, pick.questions, pick.number)

    def exercise(self, sample: Sample, questions: Iterable[int] | None = None, number: int = 0) -> TunedExample:
        """Of some questions about an image (default all), those that are answered in words among them. What a practice
        chooses at random is a function of the seed, the image and the `number` of the lesson."""
        targets = sample.targets if questions is None else tuple(sample.targets[q] for q in questions)
        frame = self.mllm.frame(sample.image)
        masks, cells = (areas(targets, frame, size) for size in (self.mask_side, self.mllm.grid[0]))
        seen = None if self.decoder is None else self.decoder.encode(sample.image, frame)
        shown = self.mllm.pixels(self._photographed(sample, number))
        return TunedExample(
            shown.cpu(),
            self._said(targets, sample.id, number),
            masks,
            cells,
            tuple(t.present for t in targets),
            None if seen is None else seen.each(Tensor.cpu),
        )

    def _photographed(self, sample: Sample, number: int) -> UInt8[np.ndarray, "h w 3"]:
        if self.practice is None or not self.practice.jpeg:
            return sample.image
        low, high = self.practice.jpeg
        (word,) = words(1, "jpeg", self.seed, number, sample.id)
        return through_jpeg(sample.image, low + below(word, high - low + 1))

    def _said(self, targets: Sequence[Target], image: str, number: int) -> tuple[TokenizedAnswer, ...]:
        """Queries for masks alone share conversations; all others are words of their own."""
        if self.practice is None:
            return tuple(map(self._words, targets))
        said = {n: self._words(t) for n, t in enumerate(targets) if t.spoken or t.explained}
        shared = [n for n in range(len(targets)) if n not in said]
        if len(shared) > self.practice.queries:  # others together each time
            order = pick(words(len(shared), "together", self.seed, number, image), len(shared))
            shared = [shared[at] for at in order]
        for start in range(0, len(shared), self.practice.queries):
            some = shared[start : start + self.practice.queries]
            keys = words(2, "conversation", self.seed, number, image, start)
            said |= dict(zip(some, self._conversation([targets[n] for n in some], *keys), strict=True))
        return tuple(said[n] for n in range(len(targets)))

    def _conversation(self, targets: Sequence[Target], asked: int, answered: int) -> list[TokenizedAnswer]:
        assert self.practice is not None
        form = below(answered, len(self.practice.openings))
        items = [(t.query, (self.practice.items if t.present else self.practice.refusals)[form]) for t in targets]
        request = self.practice.requests[below(asked, len(self.practice.requests))]
        return self.mllm.conversation(request, self.practice.openings[form], items)

    def _words(self, target: Target) -> TokenizedAnswer:
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


def gather(found: Sequence[TunedExample], device: torch.device | str = "cpu") -> Batch:
    """One batch of several images. Void questions, masked out everywhere, fill up images that have fewer."""
    q = max(len(e.said) for e in found)
    void = [q - len(e.said) for e in found]
    words = [w for e, n in zip(found, void, strict=True) for w in (*e.said, *[_blank(found[0])] * n)]

    def split(tensor: Tensor) -> Tensor:
        return rearrange(tensor.to(device, non_blocking=True), "(b q) ... -> b q ...", q=q)

    ids, learnt = (
        split(pad_sequence([torch.tensor(x) for x in rows], batch_first=True))
        for rows in ([w.ids for w in words], [w.learnt for w in words])
    )
    lengths = split(torch.tensor([len(w.ids) for w in words]))
    asked = torch.arange(q, device=device) < torch.tensor([[len(e.said)] for e in found], device=device)
    spoken = split(torch.tensor([w.spoken for w in words])) & asked
    shown = TunedInputs(
        pixels=torch.stack([e.pixels for e in found]).to(device),
        words=ids,
        learnt=learnt & asked[..., None],
        mask=torch.arange(ids.shape[-1], device=device) < lengths[..., None],
        places=split(torch.tensor([w.places for w in words])),
        spoken=spoken,
    )
    masks, cells = (
        torch.stack([_filled(x, n) for x, n in zip(each, void, strict=True)]).to(device).float() / FULL
        for each in ([e.masks for e in found], [e.cells for e in found])
    )
    present = torch.tensor([[*e.present, *[False] * n] for e, n in zip(found, void, strict=True)], device=device)
    seen = [e.embedding for e in found if e.embedding is not None]
    embedding = Embedding.joined(seen).each(lambda tensor: tensor.to(device)) if seen else None
    return Batch(shown, embedding, Truth(masks, cells, present, asked & ~spoken, spoken, shown.learnt.sum(-1)))


def _filled(areas: UInt8[Tensor, "q _ _"], void: int) -> UInt8[Tensor, "_ _ _"]:
    return torch.cat([areas, areas.new_zeros(void, *areas.shape[1:])])


def _blank(like: TunedExample) -> TokenizedAnswer:
    """Words that nobody says, to fill up a batch: nothing of them is learnt."""
    one = like.said[0]
    return TokenizedAnswer(one.ids, (False,) * len(one.ids), one.places, spoken=False)
