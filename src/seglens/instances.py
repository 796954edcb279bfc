"""Several things that one query means, each with a mask of its own: which words ask for them, and the split.

The grammar, in English: "each" as the first determiner ("each cup", "segment each of the cups"; not "the cups beside
each other", nor "a man with a cup in each hand"), or a closing "separately", "individually" or "one by one".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool

from seglens.decoders import MaskDecoder
from seglens.geometry import Frame
from seglens.prediction import Instance, Prediction
from seglens.regions import depth, label_regions
from seglens.types import Embedding, Prompt

LEAST = 0.2  # of the largest thing's area: a smaller region is a crumb
ON_MASK = 0.3  # a drawing with less of itself on the mask is of something else
SAME = 0.5  # IoU: two drawings of one thing
MOST = 32  # points, and so things
LEAST_DEPTH, APART = 0.2, 2.0  # of a point: as a share of the deepest; from a deeper one, in units of that one's depth
_DETERMINER = r"\b(?:the|a|an|this|that|these|those|all|every|both|my|your|his|her|its|our|their)\b"
_EACH = re.compile(rf"^(?P<before>(?:(?!{_DETERMINER}).)*?)\beach\b(?! other\b)(?P<of>(?: one)? of\b)?", re.I | re.S)
_APART = re.compile(r"[\s,]*\b(?:separately|individually|one by one)\b(?P<end>[\s.!?]*)$", re.I)


@dataclass(frozen=True)
class Asked:
    """A query without the words that ask for separate masks, and whether they were there."""

    words: str
    each: bool


def asked(query: str) -> Asked:
    """ "each of the cups" asks for "all the cups", one by one; "every cup separately" for "every cup", one by one."""
    words = _APART.sub(r"\g<end>", query)
    found = _EACH.match(words)
    if found and found["of"]:
        words = f"{found['before']}all{words[found.end() :]}"
    return Asked(words, each=found is not None or words != query)


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
        whole = self._whole(prediction)
        rest = label_regions(mask & ~whole.any(0))
        areas = np.bincount(rest.ravel())[1:]
        largest = max(areas.max(initial=0), whole.sum((1, 2)).max(initial=0))
        pieces = [rest == k + 1 for k in np.flatnonzero(areas >= LEAST * largest)]
        chance = torch.from_numpy(prediction.mask_logits).sigmoid().numpy()
        found = [Instance(one, float(chance[one].mean())) for one in (*whole, *pieces) if one.any()]
        return tuple(sorted(found, key=lambda one: -one.score))

    def _whole(self, prediction: Prediction) -> Bool[np.ndarray, "n h w"]:
        """Things as the decoder draws them, none over another."""
        nothing = np.zeros((0, *prediction.mask.shape), bool)
        if self.decoder is None or self.embedding is None:
            return nothing
        mask = self._on_canvas(prediction.mask)
        seeds = _deepest(mask)
        if not seeds:
            return nothing
        centres = Frame.cells_to_canvas(torch.tensor(seeds, dtype=torch.float), (self.decoder.mask_side,) * 2)
        prompts = [Prompt(point[None], torch.ones(1, dtype=torch.long)) for point in centres]
        drawn = self.decoder.answer(self.embedding, prompts)
        height, width = mask.shape
        kept = _distinct((drawn[:, :height, :width] > 0).cpu().numpy(), mask)
        if not kept:
            return nothing
        logits = self.frame.to_image_logits(drawn[kept]).cpu().numpy()
        return (logits > 0) & (logits.argmax(0) == np.arange(len(kept))[:, None, None])

    def _on_canvas(self, mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "y x"]:
        """Cells of the decoder's canvas, those of the image, that are mostly mask."""
        assert self.decoder is not None
        side = self.decoder.mask_side
        height, width = self.frame.content(side)
        return (self.frame.to_canvas_mask(torch.from_numpy(mask), side)[:height, :width] > 0.5).numpy()


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
