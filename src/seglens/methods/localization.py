"""Masks from a frozen MLLM without training.

A few of its attention heads attend to the object that the words name: the localization heads of Kang et al. (arXiv
2503.06287, CVPR 2025). The sum of the attention of the question's last token in these heads is a map. Its peaks are
clicks for SAM; of the masks that SAM draws, the most similar to the map are joined: readily where the words name
several things ("all the cups", "both", "cups"), and otherwise only where the attention hardly distinguishes them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from seglens.core.geometry import Frame
from seglens.core.types import Embedding, HeadMaps, Keypoints, MethodOutput, Prompt, Totals, Truth
from seglens.methods.base import BackboneSource, HeadAttention, PromptDecoder, PromptingMethod, check_numbers
from seglens.methods.keypoints import guarded_newton_step, suppress

TINY = 1e-12
CLICKS_PER_PASS = 16  # of SAM: each click takes a copy of the image's embedding
SEVERAL = re.compile(  # a number, a word for several, or a plural at the end: "the cups", not "the bus", "the glass"
    r"\b(all|every|each|both|several|many|two|three|four|five|six|seven|eight|nine|ten|[2-9]|[1-9]\d+)\b"
    r"|\w{2}[^\Wsui]s\W*$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class LocalizationConfig:
    """Which heads give the map, how clicks are taken from it, and which masks are joined."""

    heads: tuple[tuple[int, int], ...] = ()  # (layer, head) from 0; empty: chosen for each query
    chosen: int = 3  # number of heads chosen for a query (the paper: three suffice)
    first_layer: int = 2  # heads of lower layers are not chosen (as in the paper)
    mass: float | None = None  # attention on the image at which presence is 1/2; None: presence is not estimated
    blur: float = 1 / 24  # deviation of the Gaussian that smooths the map, as a share of the grid's side (the paper's)
    clicks: int = 8  # peaks of the map, at most
    radius: float = 1.5 / 12  # between peaks, as a share of the grid's side
    threshold: float = 0.25  # of a peak, as a share of the highest
    # a further mask is joined from this share of the best mask's density of attention up, for one thing and for several
    join: tuple[float, float] = (0.8, 0.2)
    overlap: tuple[float, float] = (0.15, 0.3)  # ... and up to this share of it inside the masks joined before

    def __post_init__(self) -> None:
        check_numbers(self, "localization", "a number above 0", "chosen", "clicks", "radius")
        check_numbers(self, "localization", "a number from 0 to 1", "threshold")
        for name in ("join", "overlap"):
            if len(shares := getattr(self, name)) != 2 or not all(0 <= share <= 1 for share in shares):
                raise ValueError(
                    f"localization got {name}={shares!r}; it must be two numbers from 0 to 1, for one and for several"
                )
        if self.mass is not None and not 0 < self.mass < 1:
            raise ValueError(f"localization got mass={self.mass!r}; it must be a share between 0 and 1, or None")
        if any(min(pair) < 0 for pair in self.heads) or len(set(self.heads)) < len(self.heads):
            raise ValueError(f"localization got heads={self.heads}; they are pairs (layer, head), each once, from 0")


class Localization(PromptingMethod):
    """Nothing in it is trained: its state is empty, and it has no losses."""

    config: LocalizationConfig

    def __init__(self, config: LocalizationConfig, reader: HeadAttention, decoder: PromptDecoder):
        super().__init__()
        if wrong := [pair for pair in config.heads if pair[1] >= reader.heads]:
            raise ValueError(f"got the heads {wrong} (layer, head); a layer of this MLLM has {reader.heads} heads")
        if not config.heads and reader.count <= config.first_layer:
            raise ValueError(
                f"heads are chosen from decoder layer {config.first_layer} on, and {reader.count} layers are read; "
                "load the MLLM with a higher layer"
            )
        self.config, self._reader, self._decoder = config, NumberReader(reader), (decoder,)

    @property
    def reader(self) -> HeadAttention:
        return self._reader

    def losses(self, output: MethodOutput, truth: Truth, totals: Totals | None = None) -> Mapping[str, Tensor]:
        """Raises ValueError: there is nothing to train."""
        raise ValueError("localization has nothing to train; choose another method, or use it as it is")

    def decode(self, read: HeadMaps, embedding: Embedding | None, precomputed: None = None) -> MethodOutput:
        assert embedding is not None
        heat, mass = self._map(read)
        b, _, h, w = heat.shape
        flat = rearrange(heat, "b q h w -> (b q) h w")
        cells, score, keep = suppress(
            flat, self.config.clicks, self.config.radius * math.sqrt(h * w), self.config.threshold
        )
        points = Frame.cells_to_canvas(guarded_newton_step(flat, cells), (h, w))
        split = lambda x: rearrange(x, "(b q) ... -> b q ...", b=b)  # noqa: E731
        keypoints = Keypoints(split(points), split(score), split(keep))
        several = torch.zeros(heat.shape[:2], dtype=torch.bool) if read.several is None else read.several
        several = several.to(heat.device)
        logits = torch.stack([self._draw(heat[k], several[k], keypoints, embedding, k) for k in range(b)])
        return MethodOutput(logits, heat, keypoints, self._presence(mass))

    # ---------------------------------------------------------------- the map

    def _map(self, read: HeadMaps) -> tuple[Float[Tensor, "b q h w"], Float[Tensor, "b q"]]:
        """The mean of the heads' maps, each relative to its peak, smoothed, 0 on padding; and their mean mass."""
        maps, mass = maps_and_masses(read)
        heads = self._heads(maps, mass, read.maps.shape[2])
        at = repeat(heads, "b q k -> b q k h w", h=maps.shape[-2], w=maps.shape[-1])
        chosen = maps.gather(2, at)
        relative = chosen / chosen.flatten(3).amax(-1).clamp(min=TINY)[..., None, None]
        smooth = blurred(relative.mean(2), self.config.blur * math.sqrt(maps.shape[-2] * maps.shape[-1]))
        return smooth * read.inside[:, None], mass.gather(2, heads).mean(2)

    def _heads(
        self, maps: Float[Tensor, "b q k h w"], mass: Float[Tensor, "b q k"], width: int
    ) -> Int[Tensor, "b q c"]:
        """Those of the config, or those chosen for each query."""
        if not self.config.heads:
            return choose(maps, mass, width, self.config)
        heads = mass.new_tensor([layer * width + head for layer, head in self.config.heads], dtype=torch.long)
        return heads.expand(*mass.shape[:2], -1)

    def _presence(self, mass: Float[Tensor, "b q"]) -> Float[Tensor, "b q"] | None:
        """logit(mass) - logit(config.mass): the presence logit is 0 at the mass of the config."""
        if self.config.mass is None:
            return None
        zero = mass.new_tensor(self.config.mass).logit()
        return mass.clamp(TINY, 1 - 1e-6).logit() - zero

    # ---------------------------------------------------------------- the masks

    def _draw(
        self,
        heat: Float[Tensor, "q h w"],
        several: Bool[Tensor, " q"],
        keypoints: Keypoints,
        embedding: Embedding,
        image: int,
    ) -> Float[Tensor, "q s s"]:
        """Of one image: a mask for every click, and of these the most similar to the map, joined."""
        points, keep = keypoints.points[image], keypoints.keep[image].clone()
        keep[:, 0] = True  # a map of zeros has no peak
        prompts = [Prompt(point[None], torch.ones(1, dtype=torch.long)) for point in points[keep]]
        one = embedding.each(lambda x: x[image : image + 1])
        passes = [self.decoder.answer(one, batch) for batch in _batches(prompts, CLICKS_PER_PASS)]
        drawn = torch.cat(passes)
        masks = drawn.new_full((*keep.shape, *drawn.shape[1:]), -torch.inf)  # where there is no click, an empty mask
        masks[keep] = drawn
        fine = F.interpolate(heat[None], (self.mask_side,) * 2, mode="bilinear", align_corners=False)[0]
        return self._joined(masks, fine.to(masks), several)

    def _joined(
        self, masks: Float[Tensor, "q m s s"], heat: Float[Tensor, "q s s"], several: Bool[Tensor, " q"]
    ) -> Float[Tensor, "q s s"]:
        """Of every query the mask most similar to the map, by their cosine, joined with further masks of a high density
        of attention. All queries at once; the clicks one after the other, since each is compared with the union so far.
        """
        inside = (masks > 0).to(heat)
        area = inside.sum((2, 3)).clamp(min=1)
        attended = (inside * heat[:, None]).sum((2, 3))
        query, best = torch.arange(len(masks), device=masks.device), (attended / area.sqrt()).argmax(1)
        density, joined, union = attended / area, masks[query, best], inside[query, best]
        share, most = (density.new_tensor(pair)[several.long()] for pair in (self.config.join, self.config.overlap))
        least = share * density[query, best]
        for k in range(masks.shape[1]):
            covered = (inside[:, k] * union).sum((1, 2)) / area[:, k]
            more = ((best != k) & (density[:, k] >= least) & (covered <= most))[:, None, None]
            joined = torch.where(more, torch.maximum(joined, masks[:, k]), joined)
            union = torch.where(more, torch.maximum(union, inside[:, k]), union)
        return joined


class NumberReader:
    """A reader of attention heads that also reports which questions name several things, by their words (English)."""

    def __init__(self, heads: HeadAttention):
        self._heads = heads

    @property
    def heads(self) -> int:
        return self._heads.heads

    @property
    def count(self) -> int:
        return self._heads.count

    def open(self, image: UInt8[np.ndarray, "h w 3"]) -> Any:
        return self._heads.open(image)

    def read(self, image: Any, questions: Sequence[str]) -> HeadMaps:
        several = torch.tensor([[bool(SEVERAL.search(question)) for question in questions]])
        return replace(self._heads.read(image, questions), several=several)


def maps_and_masses(read: HeadMaps) -> tuple[Float[Tensor, "b q k h w"], Float[Tensor, "b q k"]]:
    """The maps of all heads of all layers in a row, nothing on padding, and the attention that each pays to the image
    tokens."""
    maps = rearrange(read.maps, "b l n q h w -> b q (l n) h w").float()
    return maps * read.inside[:, None, None], maps.flatten(3).sum(-1)


def choose(
    maps: Float[Tensor, "b q k h w"], mass: Float[Tensor, "b q k"], width: int, config: LocalizationConfig
) -> Int[Tensor, "b q c"]:
    """The heads of each query, `width` in a layer, whose map has the lowest entropy, -Σ p log p over its cells, among
    those that attend to the image: with a mass from the elbow of the sorted masses up.

    The paper takes the entropy over the connected regions of the map above its mean, and counts over 1,000 queries
    which heads are chosen most often; here single cells are counted, and a query may choose by itself."""
    share = maps.flatten(3) / maps.flatten(3).sum(-1, keepdim=True).clamp(min=TINY)
    entropy = -(share * share.clamp(min=TINY).log()).sum(-1)
    layer = torch.arange(mass.shape[2], device=mass.device) // width
    attends = (mass >= elbow(mass)[..., None]) & (layer >= config.first_layer)
    # the others come last, the greatest mass first: so there are always enough
    rank = torch.where(attends, entropy, entropy.amax() + 2 - mass - (layer >= config.first_layer).to(mass))
    return rank.topk(min(config.chosen, mass.shape[2]), largest=False).indices


def _batches(items: Sequence[Prompt], size: int) -> list[Sequence[Prompt]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def elbow(values: Float[Tensor, "*n k"]) -> Float[Tensor, "*n"]:
    """Of the values in rising order, the one farthest from the straight line between the least and the greatest: where
    a few large ones begin."""
    rising = values.sort(-1).values
    along = torch.linspace(0, 1, values.shape[-1], device=values.device, dtype=values.dtype)
    first, last = rising[..., :1], rising[..., -1:]
    return rising.gather(-1, (first + along * (last - first) - rising).abs().argmax(-1, keepdim=True))[..., 0]


def blurred(maps: Float[Tensor, "b q h w"], deviation: float) -> Float[Tensor, "b q h w"]:
    """Smoothed by a Gaussian of `deviation` cells, cut off at three deviations; the map is 0 beyond its border."""
    if deviation <= 0:
        return maps
    reach = math.ceil(3 * deviation)
    steps = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    kernel = (-0.5 * (steps / deviation).square()).exp()
    kernel = kernel / kernel.sum()
    flat = rearrange(maps, "b q h w -> (b q) 1 h w")
    flat = F.conv2d(flat, kernel[None, None, :, None], padding=(reach, 0))
    flat = F.conv2d(flat, kernel[None, None, None], padding=(0, reach))
    return rearrange(flat, "(b q) 1 h w -> b q h w", b=len(maps))


def build_localization(config: LocalizationConfig, backbone: BackboneSource, decoder: PromptDecoder) -> Localization:
    """The method on an MLLM that runs only up to the layer of the last head."""
    layers = max(layer for layer, _ in config.heads) + 1 if config.heads else None
    return Localization(config, backbone.head_reader(layers), decoder)
