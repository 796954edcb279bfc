"""Refining a mask by clicks and a box: the promptable decoder's own prompts on the image it has already seen."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from seglens.decoders import MaskDecoder
from seglens.geometry import Frame
from seglens.schema import Box, Click, Corrections
from seglens.types import Embedding

MARGIN = 1.0  # logits by which a click's own pixel lies on its side of the threshold


class CorrectionError(ValueError):
    """A click or a box that cannot be used, told in words."""


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
            raise CorrectionError(f"box {_said(box)} is empty; it needs x0 < x1 and y0 < y1")
        if box.x0 < 0 or box.y0 < 0 or box.x1 > frame.width or box.y1 > frame.height:
            raise CorrectionError(f"box {_said(box)} reaches outside {size}; draw it inside")


def prompted(
    decoder: MaskDecoder, embedding: Embedding, frame: Frame, corrections: Corrections
) -> Float[Tensor, "s s"]:
    """Mask logits on the canvas."""
    points, labels = _points(corrections.clicks)
    box = corrections.box
    corners = None if box is None else torch.tensor([[box.x0, box.y0], [box.x1, box.y1]])
    there = lambda x: frame.to_canvas(x).to(decoder.device)[None, None]  # noqa: E731
    return decoder.prompt(
        embedding, None if not len(points) else there(points), None if not len(points) else labels[None, None],
        None if corners is None else there(corners).flatten(2),
    )[0, 0]  # fmt: skip


def obey(
    logits: Float[np.ndarray, "h w"], clicks: tuple[Click, ...], threshold: float, reach: float
) -> Float[np.ndarray, "h w"]:
    """The logits with every click's own pixel on its side of the threshold.

    A decoder may overrule a click. The clicks that it contradicts then move the logits, the least that they must: as a
    Gaussian process whose mean are the logits and whose covariance fades as exp(-distance / `reach`) (in pixels) is
    conditioned on them. A pixel clicked twice keeps the later label."""
    said = {(int(c.y), int(c.x)): c.label for c in clicks}
    at = np.array(list(said), np.int64).reshape(-1, 2)
    wanted = np.where(np.array(list(said.values())) == 1, threshold + MARGIN, threshold - MARGIN)
    found = logits[at[:, 0], at[:, 1]]
    wanted = np.where((wanted > threshold) == (found > threshold), found, wanted)
    if not (wanted != found).any():
        return logits
    apart = (at[:, None] - at[None]).astype(float)
    between = np.exp(-np.hypot(apart[..., 0], apart[..., 1]) / reach)
    weight = np.linalg.solve(between, wanted - found)
    rows, columns = np.arange(logits.shape[0])[:, None], np.arange(logits.shape[1])
    away = np.hypot(rows - at[:, 0, None, None], columns - at[:, 1, None, None])
    return logits + np.tensordot(weight, np.exp(-away / reach), 1).astype(logits.dtype)


def _points(clicks: tuple[Click, ...]) -> tuple[Float[Tensor, "n 2"], Tensor]:
    return (
        torch.tensor([[c.x, c.y] for c in clicks], dtype=torch.float).reshape(-1, 2),
        torch.tensor([c.label for c in clicks], dtype=torch.long),
    )


def _said(box: Box) -> str:
    return f"({box.x0:g}, {box.y0:g}, {box.x1:g}, {box.y1:g})"
