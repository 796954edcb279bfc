"""Several things that one query means, each with a mask of its own: which words ask for them, and the split.

The grammar, in English: "each" as the first determiner ("each cup", "segment each of the cups"; not "the cups beside
each other", nor "a man with a cup in each hand"), or a closing "separately", "individually" or "one by one".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int

from seglens.core.connected_components import depth, regions
from seglens.core.geometry import Frame
from seglens.core.mask_logits import Drawing, bands
from seglens.core.types import Embedding, Prompt
from seglens.decoders import MaskDecoder
from seglens.inference.instance import Instance
from seglens.inference.prediction import Prediction

LEAST = 0.2  # of the largest thing's area: a smaller region is a crumb
ON_MASK = 0.3  # a drawing with less of itself on the mask is of something else
SAME = 0.5  # IoU: two drawings of one thing
MOST = 32  # points, and so things
LEAST_DEPTH, APART = 0.2, 2.0  # of a point: as a share of the deepest; from a deeper one, in units of that one's depth
_DETERMINER = r"\b(?:the|a|an|this|that|these|those|all|every|both|my|your|his|her|its|our|their)\b"
_EACH = re.compile(rf"^(?P<before>(?:(?!{_DETERMINER}).)*?)\beach\b(?! other\b)(?P<of>(?: one)? of\b)?", re.I | re.S)
_APART = re.compile(r"[\s,]*\b(?:separately|individually|one by one)\b(?P<end>[\s.!?]*)$", re.I)


@dataclass(frozen=True)
class InstanceQuery:
    """A query without the words that ask for separate masks, and whether they were there."""

    words: str
    each: bool


def asked(query: str) -> InstanceQuery:
    """ "each of the cups" asks for "all the cups", one by one; "every cup separately" for "every cup", one by one."""
    words = _APART.sub(r"\g<end>", query)
    found = _EACH.match(words)
    if found and found["of"]:
        words = f"{found['before']}all{words[found.end() :]}"
    return InstanceQuery(words, each=found is not None or words != query)


@dataclass(frozen=True)
class Splitter:
    """Splits the mask of one open image into things.

    With a promptable decoder, the deepest points of the mask are clicks on it, all in one pass. What it draws at a
    point is a thing when enough of it lies on the mask; of two drawings of one thing the deeper point's is kept. A
    thing is whole: it may reach beyond the mask, where the words saw a piece of it. What no thing explains (parts of
    things, above all), and everything without such a decoder, is split into its connected regions."""

    frame: Frame
    decoder: MaskDecoder | None
    embedding: Embedding | None

    def split(self, prediction: Prediction) -> tuple[Instance, ...]:
        """The things of a prediction, best first; none when its mask is empty."""
        mask = prediction.mask
        if not mask.any():
            return ()
        number = self._whole(prediction)
        areas = _counted(number)
        rest = regions(mask & (number == 0))
        large = rest.areas >= LEAST * max(rest.areas.max(initial=0), areas[1:].max(initial=0))
        rest.paint(number, np.where(large, large.cumsum() + len(areas) - 1, 0))
        return tuple(sorted(_things(number, prediction), key=lambda one: -one.score))

    def _whole(self, prediction: Prediction) -> Int[np.ndarray, "h w"]:
        """The numbers of things as the decoder draws them, 1 and on, none over another; 0 where there is none."""
        number = np.zeros(prediction.mask.shape, np.int32)
        if self.decoder is None or self.embedding is None:
            return number
        mask = self._on_canvas(prediction.mask)
        seeds = _deepest(mask)
        if not seeds:
            return number
        centres = Frame.cells_to_canvas(torch.tensor(seeds, dtype=torch.float), (self.decoder.mask_side,) * 2)
        prompts = [Prompt(point[None], torch.ones(1, dtype=torch.long)) for point in centres]
        drawn = self.decoder.answer(self.embedding, prompts)
        height, width = mask.shape
        kept = _distinct((drawn[:, :height, :width] > 0).cpu().numpy(), mask)
        for rows, logits in Drawing(self.frame, drawn[kept]).bands() if kept else ():
            high, which = logits.max(0)
            number[rows] = torch.where(high > 0, which + 1, 0).cpu().numpy()
        return number

    def _on_canvas(self, mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "y x"]:
        """Cells of the decoder's canvas, those of the image, that are mostly mask."""
        assert self.decoder is not None
        side = self.decoder.mask_side
        height, width = self.frame.content(side)
        return (self.frame.to_canvas_mask(torch.tensor(mask), side)[:height, :width] > 0.5).numpy()


def _counted(number: Int[np.ndarray, "h w"]) -> Int[np.ndarray, " n"]:
    """Pixels of each number, 0 too."""
    total = np.zeros(int(number.max()) + 1, np.int64)
    for rows in bands(*number.shape):
        total += np.bincount(number[rows].ravel(), minlength=len(total))
    return total


def _boxes(number: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "n 4"]:
    """x0, y0, x1, y1 of the pixels of each number (x1, y1 exclusive); void for one that has none, and for 0."""
    count, (height, width) = int(number.max()) + 1, number.shape
    x0, y0, x1, y1 = (np.full(count, start) for start in (width, height, 0, 0))
    for rows in bands(height, width):
        padded = np.pad(number[rows], ((0, 0), (1, 1)))
        row, column = np.nonzero(padded[:, 1:] != padded[:, :-1])  # where runs of one number begin, and others end
        begins, ends = padded[row, column + 1], padded[row, column]
        np.minimum.at(x0, begins, column)
        np.maximum.at(x1, ends, column)
        np.minimum.at(y0, begins, row + rows.start)
        np.maximum.at(y1, begins, row + rows.start + 1)
    return np.stack([x0, y0, x1, y1], 1)


def _things(number: Int[np.ndarray, "h w"], prediction: Prediction) -> Iterator[Instance]:
    """The pixels of each number but 0, and how certain they are."""
    areas, boxes = _counted(number), _boxes(number)
    certain = np.zeros(len(areas))
    for rows, logits in prediction.logit_bands():
        chance = torch.tensor(logits).sigmoid().numpy()
        certain += np.bincount(number[rows].ravel(), chance.ravel(), len(areas))
    for k in (np.flatnonzero(areas[1:]) + 1).tolist():
        x0, y0, x1, y1 = boxes[k].tolist()
        cut = number[y0:y1, x0:x1] == k
        yield Instance(cut, float(certain[k] / areas[k]), (x0, y0), (number.shape[0], number.shape[1]))


def _deepest(mask: Bool[np.ndarray, "y x"]) -> list[tuple[int, int]]:
    """Cells (x, y) in the middle of the mask's lobes, the deepest first."""
    left = depth(mask).astype(float)
    least, seeds = max(LEAST_DEPTH * left.max(), 1.5), list[tuple[int, int]]()
    y, x = np.ogrid[: mask.shape[0], : mask.shape[1]]
    while len(seeds) < MOST:
        row, column = divmod(int(left.argmax()), mask.shape[1])
        if left[row, column] < least:
            break
        seeds.append((column, row))
        left[np.hypot(y - row, x - column) < APART * left[row, column]] = 0
    return seeds


def _distinct(drawn: Bool[np.ndarray, "n y x"], mask: Bool[np.ndarray, "y x"]) -> list[int]:
    """Which drawings are of things that the mask means, without a second one of the same thing."""
    areas = drawn.sum((1, 2))
    both = np.einsum("nyx,kyx->nk", drawn.astype(np.int64), drawn.astype(np.int64))
    overlap = both / np.maximum(areas[:, None] + areas - both, 1)
    meant = (drawn & mask).sum((1, 2)) >= ON_MASK * np.maximum(areas, 1)
    kept: list[int] = []
    for k in np.flatnonzero(meant):
        if (overlap[k, kept] < SAME).all():
            kept.append(int(k))
    return kept
