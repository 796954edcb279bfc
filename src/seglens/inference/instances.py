"""Several things that one query means, with a mask each: the words that ask for them, and the split of the mask.

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

LEAST = 0.2  # of the largest thing's area: smaller regions are left out
ON_MASK = 0.3  # a decoder mask with a smaller share on the mask shows something else
SAME = 0.5  # IoU above which two decoder masks show one thing
MOST = 32  # points, and therefore things
LEAST_DEPTH, APART = 0.2, 2.0  # depth of a point relative to the deepest; distance from a deeper one, in its depths
_DETERMINER = r"\b(?:the|a|an|this|that|these|those|all|every|both|my|your|his|her|its|our|their)\b"
_EACH = re.compile(rf"^(?P<before>(?:(?!{_DETERMINER}).)*?)\beach\b(?! other\b)(?P<of>(?: one)? of\b)?", re.I | re.S)
_APART = re.compile(r"[\s,]*\b(?:separately|individually|one by one)\b(?P<end>[\s.!?]*)$", re.I)


@dataclass(frozen=True)
class InstanceQuery:
    """A query without the words that ask for separate masks, and whether they were there."""

    words: str
    each: bool


def instance_query(query: str) -> InstanceQuery:
    """ "each of the cups" asks for "all the cups", one by one; "every cup separately" for "every cup", one by one."""
    words = _APART.sub(r"\g<end>", query)
    match = _EACH.match(words)
    if match and match["of"]:
        words = f"{match['before']}all{words[match.end() :]}"
    return InstanceQuery(words, each=match is not None or words != query)


@dataclass(frozen=True)
class Splitter:
    """Splits the mask of one open image into things.

    With a promptable decoder, the deepest points of the mask are clicks, all in one pass. The decoder's mask at a point
    is a thing when enough of it is on the mask; of two masks of one thing, that of the deeper point is used. A thing is
    complete: it may extend beyond the mask where the query's mask shows only a part. The rest of the mask (mostly parts
    of things), and the whole mask without such a decoder, is split into connected regions."""

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
        """The numbers of things as the decoder draws them, from 1, without overlap; 0 where there is none."""
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
        distinct = _distinct((drawn[:, :height, :width] > 0).cpu().numpy(), mask)
        for rows, logits in Drawing(self.frame, drawn[distinct]).bands() if distinct else ():
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
    """Pixels of each number, including 0."""
    total = np.zeros(int(number.max()) + 1, np.int64)
    for rows in bands(*number.shape):
        total += np.bincount(number[rows].ravel(), minlength=len(total))
    return total


def _boxes(number: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "n 4"]:
    """x0, y0, x1, y1 of the pixels of each number (x1, y1 exclusive); without meaning for a number
    without pixels, and for 0."""
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
    """An instance for each number but 0; its score is the mean probability of its pixels."""
    areas, boxes = _counted(number), _boxes(number)
    sums = np.zeros(len(areas))
    for rows, logits in prediction.logit_bands():
        probability = torch.tensor(logits).sigmoid().numpy()
        sums += np.bincount(number[rows].ravel(), probability.ravel(), len(areas))
    for k in (np.flatnonzero(areas[1:]) + 1).tolist():
        x0, y0, x1, y1 = boxes[k].tolist()
        cut = number[y0:y1, x0:x1] == k
        yield Instance(cut, float(sums[k] / areas[k]), (x0, y0), (number.shape[0], number.shape[1]))


def _deepest(mask: Bool[np.ndarray, "y x"]) -> list[tuple[int, int]]:
    """Cells (x, y) in the middle of the parts of the mask, the deepest first."""
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
    """The indices of decoder masks that show things of the mask, one for each thing."""
    areas = drawn.sum((1, 2))
    both = np.einsum("nyx,kyx->nk", drawn.astype(np.int64), drawn.astype(np.int64))
    overlap = both / np.maximum(areas[:, None] + areas - both, 1)
    meant = (drawn & mask).sum((1, 2)) >= ON_MASK * np.maximum(areas, 1)
    distinct: list[int] = []
    for k in np.flatnonzero(meant):
        if (overlap[k, distinct] < SAME).all():
            distinct.append(int(k))
    return distinct
