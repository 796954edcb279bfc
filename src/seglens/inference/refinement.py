"""Refining a mask by clicks and a box: the promptable decoder's own prompts on the image it has already seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seglens.core.connected_components import box_of, depth, label_regions
from seglens.core.geometry import Frame
from seglens.core.mask_logits import Drawing, Moves
from seglens.core.schema import Box, Click, Corrections
from seglens.core.types import Embedding, Prompt
from seglens.decoders import MaskDecoder

CENTRAL = 0.7  # depth of the click in a change, relative to its deepest cell, below which the click means another
LEAST_REGION, MOST_REGIONS = 0.02, 8  # regions of the mask that are used: least share of its area, greatest number
MARGIN = 1.0  # logits between a click's pixel and the threshold
FADE = 3.0  # cells of the canvas around a click that its pixel may change
MOST_PROMPTS = 20  # clicks given to the decoder: the number with which interactive segmentation is measured


class CorrectionError(ValueError):
    """A click or a box that cannot be used."""


def check_corrections(corrections: Corrections, frame: Frame) -> None:
    """Raises CorrectionError when there are none, or one lies outside the image."""
    if not corrections.clicks and corrections.box is None:
        raise CorrectionError("refine got neither clicks nor a box; give at least one click, or a box")
    size = f"the image of {frame.width} x {frame.height} (width x height) pixels"
    for click in corrections.clicks:
        if not (0 <= click.x < frame.width and 0 <= click.y < frame.height):
            raise CorrectionError(f"click ({click.x:g}, {click.y:g}) lies outside {size}; click on a pixel of it")
    box = corrections.box
    if box is not None:
        if not (box.x0 < box.x1 and box.y0 < box.y1):
            raise CorrectionError(f"box {_numbers(box)} is empty; it needs x0 < x1 and y0 < y1")
        if box.x0 < 0 or box.y0 < 0 or box.x1 > frame.width or box.y1 > frame.height:
            raise CorrectionError(f"box {_numbers(box)} reaches outside {size}; draw it inside")


@dataclass(frozen=True)
class Refiner:
    """Corrects the mask of one open image, click by click, with the decoder's own prompts.

    A click marks a wrong place, not how large it is. Nearer to the outline than the decoder resolves, it means the
    outline, which `obey` moves. Further away, four interpretations are drawn in one pass:

    * the thing under the click, joined to the mask or taken out of it;
    * the thing at all clicks and at the middle of each region of the mask;
    * the thing at all clicks in the mask's box;
    * the previous mask as a mask prompt, with all clicks: best for a SAM that was trained with mask prompts.

    A user clicks in the middle of what is wrong. So the interpretation is used in whose change the click is most
    central; where it is central in none, the disc around the click that reaches to the outline, or to the border of the
    image, is corrected. Clicks after the first `MOST_PROMPTS` do only this: no decoder was trained with more, and each
    would cost as much as all of them."""

    decoder: MaskDecoder
    embedding: Embedding
    frame: Frame
    threshold: float  # logits of the mask; the decoder's own threshold is 0

    def box(self, drawn: Corrections) -> Float[Tensor, "s s"]:
        """Mask logits on the canvas from the box and the clicks, without the previous mask."""
        assert drawn.box is not None
        return self._drawn([self._prompt(drawn.clicks, self._corners(drawn.box))])[0]

    def click(self, before: Float[Tensor, "s s"], drawn: Corrections) -> Float[Tensor, "s s"]:
        """Mask logits on the canvas after the last click of `drawn`; `before` are those before it.

        A click that the mask agrees with changes nothing."""
        mask, click = self._mask(before), drawn.clicks[-1]
        at = self._cell(click)
        if mask[at] == bool(click.label):
            return before
        same = mask == mask[at]
        if depth(same, border=False)[at] <= 1:
            return before
        if len(drawn.clicks) > MOST_PROMPTS:
            return self._flipped(before, at, int(depth(same)[at])) if mask.any() else before
        readings = self._readings(before, mask, drawn)
        chosen = self._most_central(mask, drawn.clicks, readings)
        if chosen is not None:
            return chosen
        # without an outline to move, the click marks the thing itself
        return self._flipped(before, at, int(depth(same)[at])) if mask.any() else readings[0]

    def _readings(
        self, before: Float[Tensor, "s s"], mask: Bool[np.ndarray, "h w"], drawn: Corrections
    ) -> Float[Tensor, "n s s"]:
        click, box = drawn.clicks[-1], None if drawn.box is None else self._corners(drawn.box)
        others = [c.model_copy(update={"label": 0}) for c in drawn.clicks if c.label != click.label]
        thing, shown, boxed, continued = self._drawn(
            [
                self._prompt((click.model_copy(update={"label": 1}), *others)),
                self._prompt((*drawn.clicks, *self._middles(mask, drawn.clicks)), box),
                self._prompt(drawn.clicks, self._around(mask, drawn.clicks) if box is None else box),
                self._prompt(drawn.clicks, box, before - self.threshold),
            ]
        )
        changed = torch.maximum(before, thing) if click.label else torch.minimum(before, 2 * self.threshold - thing)
        return torch.stack([changed, shown, boxed, continued])

    def _most_central(
        self, mask: Bool[np.ndarray, "h w"], clicks: Sequence[Click], readings: Float[Tensor, "n s s"]
    ) -> Float[Tensor, "s s"] | None:
        cells = [self._cell(c) for c in clicks]
        ranks = []
        for logits in readings:
            drawn = self._mask(logits)
            overruled = sum(drawn[at] != bool(c.label) for at, c in zip(cells, clicks, strict=True))
            ranks.append((overruled, -_centrality(drawn ^ mask, cells[-1])))
        central_ones = [k for k, (_, central) in enumerate(ranks) if -central >= CENTRAL]
        best = min(central_ones, key=ranks.__getitem__, default=-1)
        return None if best < 0 else readings[best]

    def _flipped(self, before: Float[Tensor, "s s"], at: tuple[int, int], reach: int) -> Float[Tensor, "s s"]:
        """With the disc of that radius, in cells, on the other side of the threshold."""
        y, x = (torch.arange(len(before), device=before.device) - k for k in at)
        near = y[:, None].square() + x.square() < reach**2
        side = -1.0 if before[at] > self.threshold else 1.0
        return torch.where(near, self.threshold + side * (before - self.threshold).abs(), before)

    # ---------------------------------------------------------------- between the image, the canvas and its cells

    def _drawn(self, prompts: list[Prompt]) -> Float[Tensor, "n s s"]:
        return self.decoder.answer(self.embedding, prompts) + self.threshold

    def _mask(self, logits: Float[Tensor, "s s"]) -> Bool[np.ndarray, "h w"]:
        """The part of the canvas that shows the image."""
        height, width = self.frame.content(self.decoder.mask_side)
        return (logits[:height, :width] > self.threshold).cpu().numpy()

    def _cell(self, click: Click) -> tuple[int, int]:
        height, width = self.frame.content(self.decoder.mask_side)
        side, (tall, wide) = self.decoder.mask_side, self.frame.extent
        return min(int(click.y * (side / tall)), height - 1), min(int(click.x * (side / wide)), width - 1)

    def _prompt(
        self, clicks: Sequence[Click], box: Float[Tensor, " 4"] | None = None, mask: Tensor | None = None
    ) -> Prompt:
        points = torch.tensor([[c.x, c.y] for c in clicks], dtype=torch.float).reshape(-1, 2)
        return Prompt(
            self.frame.to_canvas(points), torch.tensor([c.label for c in clicks], dtype=torch.long), box, mask
        )

    def _corners(self, box: Box) -> Float[Tensor, " 4"]:
        return self.frame.to_canvas(torch.tensor([[box.x0, box.y0], [box.x1, box.y1]])).flatten()

    def _around(self, mask: Bool[np.ndarray, "h w"], clicks: Sequence[Click]) -> Float[Tensor, " 4"] | None:
        """The box of the mask and of the positive clicks."""
        shown = mask.copy()
        for click in clicks:
            shown[self._cell(click)] |= bool(click.label)
        box = box_of(shown)
        return None if box is None else torch.tensor(box) / self.decoder.mask_side

    def _middles(self, mask: Bool[np.ndarray, "h w"], clicks: Sequence[Click]) -> list[Click]:
        """A positive click in the middle of each larger region of the mask, away from the negative ones."""
        inner = depth(mask).astype(float)
        y, x = np.ogrid[: mask.shape[0], : mask.shape[1]]
        for row, column in (self._cell(c) for c in clicks if not c.label):
            inner = np.minimum(inner, np.hypot(y - row, x - column))
        labels = label_regions(mask)
        areas = np.bincount(labels.ravel())[1:]
        tall, wide = (whole / self.decoder.mask_side for whole in self.frame.extent)
        middles = []
        for region in np.argsort(-areas, kind="stable")[:MOST_REGIONS]:
            if areas[region] >= LEAST_REGION * mask.sum():
                row, column = divmod(int(np.where(labels == region + 1, inner, -1).argmax()), mask.shape[1])
                middles.append(Click(x=(column + 0.5) * wide, y=(row + 0.5) * tall, label=1))
        return middles


def _centrality(change: Bool[np.ndarray, "h w"], at: tuple[int, int]) -> float:
    """Depth of a cell in its region of a change, relative to the deepest there; 0 outside the change."""
    if not change[at]:
        return 0.0
    labels = label_regions(change)
    inner = depth(labels == labels[at])
    return float(inner[at] / inner.max())


def obey(drawing: Drawing, clicks: Sequence[Click], threshold: float, reach: float) -> Drawing:
    """One drawing with every click's pixel on the right side of the threshold.

    A decoder may contradict a click. Such clicks then change the logits as little as needed: a Gaussian process with
    the logits as mean and a covariance that fades with the distance, to zero at `FADE` times `reach` (in pixels), is
    conditioned on all clicks. A pixel clicked twice has the later label."""
    labels = {(int(c.y), int(c.x)): c.label for c in clicks}
    at = np.array(list(labels), np.int64).reshape(-1, 2)
    wanted = np.where(np.array(list(labels.values())) == 1, threshold + MARGIN, threshold - MARGIN)
    current = drawing.at(at)[0].astype(float)
    wanted = np.where((wanted > threshold) == (current > threshold), current, wanted)
    if not (wanted != current).any():
        return drawing
    apart = (at[:, None] - at[None]).astype(float)
    between = Moves.fading(torch.from_numpy(np.hypot(apart[..., 0], apart[..., 1])), FADE * reach).numpy()
    return replace(drawing, moves=Moves(at, np.linalg.solve(between, wanted - current), FADE * reach))


def _numbers(box: Box) -> str:
    return f"({box.x0:g}, {box.y0:g}, {box.x1:g}, {box.y1:g})"
