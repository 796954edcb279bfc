"""Which layer of a new MLLM to read: how well the attention of each layer points at what a query asks for.

The pointing game (Zhang et al., arXiv 1608.00507) on the attention from the start-of-answer token to the image, before
any training. Layer k is decoder layer k, counted from 0. It works on hidden_states[k], so its map is the
one with which a head begins that reads layer k: `--layer` k of `seglens train`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seglens.backbones import AttentionReader, Backbone
from seglens.core.geometry import Frame, Lay
from seglens.core.metrics import bootstrap_ratio
from seglens.core.types import Sample, Target
from seglens.inference.prediction import on_mask

FEWEST_IMAGES = 2  # from one image, the variance over images is not known


@dataclass(frozen=True)
class LayerScore:
    """How well the attention of decoder layer `layer` points.

    `pointing`: share of queries whose strongest cell has its centre on the target, as `seglens eval` judges keypoints;
    `error` its standard error, `interval` its 95 % bootstrap interval, both over images. `lift`: the share of the
    attention to the image that lies on the targets, over their share of the area, both summed over queries: 1 is
    attention spread evenly."""

    layer: int
    pointing: float
    error: float
    interval: tuple[float, float]
    lift: float
    lift_interval: tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """The scores of all layers, in order, over the queries that have a target.

    `readable` are the layers that a head can read. `chance` is the pointing-game rate of a random cell, `ceiling` the
    highest possible rate: a target too small to hold the centre of a cell can never be hit."""

    scores: tuple[LayerScore, ...]
    readable: Sequence[int]
    queries: int
    images: int
    chance: float
    ceiling: float
    seed: int

    @property
    def best(self) -> LayerScore:
        """The readable layer that points best; of equals, the earliest."""
        return max((self.scores[k] for k in self.readable), key=lambda score: score.pointing)

    @property
    def chosen(self) -> LayerScore:
        """The earliest readable layer within one standard error of the best: fewer layers run for every image."""
        enough = self.best.pointing - self.best.error
        return next(self.scores[k] for k in self.readable if self.scores[k].pointing >= enough)

    def to_dict(self) -> dict[str, Any]:
        """The curve and what it chooses, ready for JSON."""
        return {
            "layer": self.chosen.layer,
            "best": self.best.layer,
            "readable": [self.readable[0], self.readable[-1]],
            "images": self.images,
            "queries": self.queries,
            "chance": round(self.chance, 4),
            "ceiling": round(self.ceiling, 4),
            "seed": self.seed,
            "curve": [
                {
                    "layer": score.layer,
                    "pointing": round(score.pointing, 4),
                    "standard_error": round(score.error, 4),
                    "pointing_95": [round(end, 4) for end in score.interval],
                    "lift": round(score.lift, 4),
                    "lift_95": [round(end, 4) for end in score.lift_interval],
                }
                for score in self.scores
            ],
        }


def probe(
    backbone: Backbone,
    data: Iterable[Sample],
    limit: int | None = None,
    tick: Callable[[], None] = lambda: None,
    seed: int = 0,
) -> Curve:
    """The curve of a backbone on the first `limit` samples; every query with a target counts, and all queries about an
    image run in one pass. `seed` is that of the bootstrap; `tick` is called after every sample.

    Raises ValueError when fewer than two images have a query with a target, or the backbone cannot be probed."""
    check_limit(limit)
    reader, tallies, images, samples = AttentionReader(backbone), list[_Tally](), dict[str, int](), 0
    for sample in islice(data, limit):
        samples += 1
        targets = [target for target in sample.targets if _counted(target).any()]
        if targets:
            maps = reader.maps(sample.image, [target.query for target in targets])
            number = images.setdefault(sample.id, len(images))
            tallies.append(_tally(maps, sample, targets, number, backbone.canvas.frame(sample.image).lay))
        tick()
    if len(images) < FEWEST_IMAGES:
        raise ValueError(
            f"a probe needs queries with a target about at least {FEWEST_IMAGES} images, and the data has them about "
            f"{len(images)} of {samples}; choose other data, or more of it"
        )
    return _curve(_Tally.joined(tallies), backbone.readable, len(images), seed)


@dataclass(frozen=True)
class Probed:
    """The results of a probe that a training needs: the MLLM, its canvas and the layer to read."""

    backbone: str
    layer: int
    image_size: int

    @classmethod
    def read(cls, path: Path) -> Probed:
        """From the file that `seglens probe --out` wrote. Raises ValueError when it is none."""
        try:
            report = json.loads(path.read_text(encoding="utf-8-sig"))
            backbone, layer, size = report["backbone"]["name"], report["layer"], report["image_size"]
        except (UnicodeDecodeError, ValueError, KeyError, TypeError):
            raise ValueError(f"{path} is no file of `seglens probe`; give the probe.json that it wrote") from None
        if not (isinstance(backbone, str) and type(layer) is type(size) is int):
            raise ValueError(f"{path} names no MLLM, layer or image size; run `seglens probe` again")
        return cls(backbone, layer, size)


def check_limit(limit: int | None) -> None:
    """Raises ValueError when the images are too few for a probe."""
    if limit is not None and limit < FEWEST_IMAGES:
        raise ValueError(f"got a limit of {limit} images; a probe needs at least {FEWEST_IMAGES}, better a hundred")


# ---------------------------------------------------------------- one image


@dataclass(frozen=True)
class _Tally:
    """Of each query and, for hits and mass, of each layer."""

    hits: Bool[Tensor, "k q"]
    mass: Float[Tensor, "k q"]  # share of the attention on the target
    area: Float[Tensor, " q"]  # share of the canvas that the target covers
    centres: Float[Tensor, " q"]  # share of the cells with their centre on the target
    image: Int[Tensor, " q"]

    @staticmethod
    def joined(tallies: list[_Tally]) -> _Tally:
        return _Tally(
            torch.cat([t.hits for t in tallies], 1),
            torch.cat([t.mass for t in tallies], 1),
            torch.cat([t.area for t in tallies]),
            torch.cat([t.centres for t in tallies]),
            torch.cat([t.image for t in tallies]),
        )


def _counted(target: Target) -> Bool[np.ndarray, "h w"]:
    return target.mask if target.ignore is None else target.mask & ~target.ignore


def _tally(
    maps: Float[Tensor, "k q gh gw"], sample: Sample, queried: list[Target], image: int, lay: Lay = "letterbox"
) -> _Tally:
    """Cells with an ignored centre are no candidates for the peak, and ignored area has no mass."""
    (height, width), grid = sample.image.shape[:2], (maps.shape[2], maps.shape[3])
    frame, nothing = Frame(height, width, lay), np.zeros((height, width), bool)
    targets = [_counted(target) for target in queried]
    ignored = [nothing if target.ignore is None else target.ignore for target in queried]
    on, off = (torch.from_numpy(np.stack([on_mask(m, _centres(frame, grid)) for m in ms])) for ms in (targets, ignored))
    covered, left_out = (
        rearrange(frame.to_canvas_mask(torch.from_numpy(np.stack(ms)), grid), "q h w -> q (h w)")
        for ms in (targets, ignored)
    )
    heat, counts = rearrange(maps, "k q gh gw -> k q (gh gw)"), 1 - left_out
    peaks = heat.masked_fill(off, -1).argmax(-1)  # k q
    return _Tally(
        hits=on.expand(len(heat), -1, -1).gather(-1, peaks[..., None])[..., 0],
        mass=(heat * covered).sum(-1) / (heat * counts).sum(-1).clamp(min=torch.finfo(heat.dtype).tiny),
        area=covered.sum(-1) / counts.sum(-1),
        centres=(on & ~off).float().sum(-1) / (~off).float().sum(-1).clamp(min=1),
        image=torch.full((len(queried),), image),
    )


def _centres(frame: Frame, grid: tuple[int, int]) -> Float[np.ndarray, "i 2"]:
    """Of all cells in raster order, in pixels of the image."""
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in grid)
    cells = rearrange(torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1), "h w two -> (h w) two")
    return frame.to_image(frame.cells_to_canvas(cells, grid)).numpy()


# ---------------------------------------------------------------- all images


def _curve(tally: _Tally, readable: Sequence[int], images: int, seed: int) -> Curve:
    ones, area, centres = torch.ones_like(tally.area), tally.area.double(), tally.centres.double()

    def score(layer: int) -> LayerScore:
        hits, mass = tally.hits[layer].double(), tally.mass[layer].double()
        return LayerScore(
            layer=layer,
            pointing=hits.mean().item(),
            error=_standard_error(hits, tally.image, images),
            interval=bootstrap_ratio(hits, ones, tally.image, seed=seed),
            lift=(mass.sum() / area.sum()).item(),
            lift_interval=bootstrap_ratio(mass, area, tally.image, seed=seed),
        )

    return Curve(
        scores=tuple(map(score, range(len(tally.hits)))),
        readable=readable,
        queries=len(ones),
        images=images,
        chance=centres.mean().item(),
        ceiling=(centres > 0).double().mean().item(),
        seed=seed,
    )


def _standard_error(hits: Float[Tensor, " q"], image: Int[Tensor, " q"], images: int) -> float:
    """Standard error of the mean where queries of one image are correlated: the linearised variance of a ratio of sums
    (Cochran, Sampling Techniques, section 2.11), with images as the sampled units."""
    residuals = torch.zeros(images, dtype=hits.dtype).index_add(0, image, hits - hits.mean())
    return math.sqrt(images / (images - 1) * residuals.square().sum().item()) / len(hits)
