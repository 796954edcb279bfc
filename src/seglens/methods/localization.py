"""Masks from a frozen MLLM without training.

A few of its attention heads attend to the object that the words name: the localization heads of Kang et al. (arXiv
2503.06287, CVPR 2025). The sum of the attention of the question's last token in these heads is a map. Its peaks are
clicks for SAM; of the masks that SAM draws, the one that all heads agree with most is drawn again from a click at its
centre. Further masks are joined: readily where the words name several things ("all the cups", "both", "cups"), and
otherwise only where the attention hardly distinguishes them. For a part of a thing ("the handle of the cup"), which no
click means, the region around the peak is a box for SAM."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seglens.core.geometry import Frame
from seglens.core.types import Embedding, HeadMaps, Keypoints, MethodOutput, Prompt, Totals, Truth
from seglens.methods.attention_maps import TINY, blurred, choose, maps_and_masses, peak_box, resized
from seglens.methods.base import BackboneSource, HeadAttention, PromptDecoder, PromptingMethod, check_numbers
from seglens.methods.keypoints import guarded_newton_step, suppress
from seglens.methods.mask_choice import Agreement, centres
from seglens.methods.query_words import WordReader

CLICKS_PER_PASS = 16  # of SAM: each click takes a copy of the image's embedding


@dataclass(frozen=True)
class LocalizationConfig:
    """Which heads give the map, how prompts are taken from it, and which masks are joined.

    Two numbers are those of a query for one thing and of one for several."""

    heads: tuple[tuple[int, int], ...] = ()  # (layer, head) from 0, the best first; empty: chosen for each query
    presence_head: tuple[int, int] | None = None  # the head whose mass tells presence; None: the mean of `heads`
    chosen: int = 3  # number of heads chosen for a query (the paper: three suffice)
    first_layer: int = 2  # heads of lower layers are not chosen (as in the paper)
    mass: float | None = None  # attention on the image at which presence is 1/2; None: presence is not estimated
    blur: float = 1 / 24  # deviation of the Gaussian that smooths the map, as a share of the grid's side (the paper's)
    clicks: int = 8  # peaks of the map, at most
    radius: float = 1.5 / 12  # between peaks, as a share of the grid's side
    threshold: tuple[float, float] = (0.25, 0.15)  # of a peak, as a share of the highest
    join: tuple[float, float] = (0.8, 0.15)  # of a further mask's density of attention, as a share of the best mask's
    overlap: tuple[float, float] = (0.15, 0.3)  # share of a further mask inside the masks joined before, at most
    part: float = 0.4  # of the region of a part on the best head's map, as a share of the peak

    def __post_init__(self) -> None:
        check_numbers(self, "localization", "a number above 0", "chosen", "clicks", "radius")
        check_numbers(self, "localization", "a number from 0 to 1", "part")
        for name in ("threshold", "join", "overlap"):
            if len(shares := getattr(self, name)) != 2 or not all(0 <= share <= 1 for share in shares):
                raise ValueError(
                    f"localization got {name}={shares!r}; it must be two numbers from 0 to 1, for one and for several"
                )
        if self.mass is not None and not 0 < self.mass < 1:
            raise ValueError(f"localization got mass={self.mass!r}; it must be a share between 0 and 1, or None")
        if any(min(pair) < 0 for pair in self.named) or len(set(self.heads)) < len(self.heads):
            raise ValueError(f"localization got heads={self.named}; they are pairs (layer, head), each once, from 0")

    @property
    def named(self) -> tuple[tuple[int, int], ...]:
        """All heads that are named: those of the map and that of presence."""
        return (*self.heads, *(() if self.presence_head is None else (self.presence_head,)))

    @property
    def layers(self) -> int | None:
        """Decoder layers up to the last head; None: those that the MLLM is read with."""
        return max(layer for layer, _ in self.named) + 1 if self.heads else None


class Localization(PromptingMethod):
    """Nothing in it is trained: its state is empty, and it has no losses."""

    config: LocalizationConfig

    def __init__(self, config: LocalizationConfig, reader: HeadAttention, decoder: PromptDecoder):
        super().__init__()
        if wrong := [pair for pair in config.named if pair[1] >= reader.heads]:
            raise ValueError(f"got the heads {wrong} (layer, head); a layer of this MLLM has {reader.heads} heads")
        if not config.heads and reader.count <= config.first_layer:
            raise ValueError(
                f"heads are chosen from decoder layer {config.first_layer} on, and {reader.count} layers are read; "
                "load the MLLM with a higher layer"
            )
        self.config, self._reader, self._decoder = config, WordReader(reader), (decoder,)

    @property
    def reader(self) -> HeadAttention:
        return self._reader

    def losses(self, output: MethodOutput, truth: Truth, totals: Totals | None = None) -> Mapping[str, Tensor]:
        """Raises ValueError: there is nothing to train."""
        raise ValueError("localization has nothing to train; choose another method, or use it as it is")

    def decode(self, read: HeadMaps, embedding: Embedding | None, precomputed: None = None) -> MethodOutput:
        assert embedding is not None
        maps, mass = self._maps(read)
        heat = blurred(maps.mean(2), self.config.blur * math.sqrt(maps.shape[-2] * maps.shape[-1]))
        heat = heat * read.inside[:, None]
        unknown = torch.zeros(heat.shape[:2], dtype=torch.bool)
        several, part = ((unknown if x is None else x).to(heat.device) for x in (read.several, read.part))
        keypoints = self._peaks(heat, several)
        logits = torch.stack(
            [
                self._draw(_Queries(maps[k], heat[k], several[k], part[k]), keypoints, embedding, k)
                for k in range(len(heat))
            ]
        )
        return MethodOutput(logits, heat, keypoints, self._presence(mass))

    # ---------------------------------------------------------------- the maps

    def _maps(self, read: HeadMaps) -> tuple[Float[Tensor, "b q c h w"], Float[Tensor, "b q"]]:
        """The heads' maps, each relative to its peak, and the mass that tells presence."""
        maps, mass = maps_and_masses(read)
        width = read.maps.shape[2]
        heads = self._heads(maps, mass, width)
        chosen = maps.gather(2, repeat(heads, "b q k -> b q k h w", h=maps.shape[-2], w=maps.shape[-1]))
        relative = chosen / chosen.flatten(3).amax(-1).clamp(min=TINY)[..., None, None]
        if self.config.presence_head is None:
            return relative, mass.gather(2, heads).mean(2)
        layer, head = self.config.presence_head
        return relative, mass[:, :, layer * width + head]

    def _heads(
        self, maps: Float[Tensor, "b q k h w"], mass: Float[Tensor, "b q k"], width: int
    ) -> Int[Tensor, "b q c"]:
        """Those of the config, or those chosen for each query."""
        if not self.config.heads:
            return choose(maps, mass, width, self.config.chosen, self.config.first_layer)
        heads = mass.new_tensor([layer * width + head for layer, head in self.config.heads], dtype=torch.long)
        return heads.expand(*mass.shape[:2], -1)

    def _presence(self, mass: Float[Tensor, "b q"]) -> Float[Tensor, "b q"] | None:
        """logit(mass) - logit(config.mass): the presence logit is 0 at the mass of the config."""
        if self.config.mass is None:
            return None
        zero = mass.new_tensor(self.config.mass).logit()
        return mass.clamp(TINY, 1 - 1e-6).logit() - zero

    def _peaks(self, heat: Float[Tensor, "b q h w"], several: Bool[Tensor, "b q"]) -> Keypoints:
        b, _, h, w = heat.shape
        flat = rearrange(heat, "b q h w -> (b q) h w")
        cells, score, keep = suppress(flat, self.config.clicks, self.config.radius * math.sqrt(h * w))
        least = score.new_tensor(self.config.threshold)[several.flatten().long()][:, None]
        points = Frame.cells_to_canvas(guarded_newton_step(flat, cells), (h, w))
        found = points, score, keep & (score >= least * score[:, :1])
        return Keypoints(*(rearrange(x, "(b q) ... -> b q ...", b=b) for x in found))

    # ---------------------------------------------------------------- the masks

    def _draw(
        self, queries: _Queries, keypoints: Keypoints, embedding: Embedding, image: int
    ) -> Float[Tensor, "q s s"]:
        """Of one image: a mask for every click, and of these the best; or one for the region of a part."""
        points, one = keypoints.points[image], embedding.image(image)
        drawn = keypoints.keep[image] & ~queries.part[:, None]
        drawn[:, 0] = True  # the box of a part; a map of zeros has no peak
        boxes = peak_box(queries.maps[:, 0], self.config.part)
        prompts = [_box(boxes[q]) if queries.part[q] else _click(points[q, m]) for q, m in drawn.nonzero().tolist()]
        answers = self._answers(one, prompts)
        masks = answers.new_full((*drawn.shape, *answers.shape[1:]), -torch.inf)  # empty where there is no prompt
        masks[drawn] = answers
        chosen = self._chosen(masks, drawn, queries)
        return self._centred(masks, chosen, queries, one).masked_fill(~chosen[..., None, None], -torch.inf).amax(1)

    def _chosen(
        self, masks: Float[Tensor, "q m s s"], drawn: Bool[Tensor, "q m"], queries: _Queries
    ) -> Bool[Tensor, "q m"]:
        size, several = (self.mask_side, self.mask_side), queries.several
        heat = resized(queries.heat[None], size)[0].to(masks)
        agreement = Agreement.of(masks, resized(queries.maps, size).to(masks), heat, several)
        join, overlap = (heat.new_tensor(pair)[several.long()] for pair in (self.config.join, self.config.overlap))
        return agreement.chosen(drawn, join, overlap)

    def _centred(
        self, masks: Float[Tensor, "q m s s"], chosen: Bool[Tensor, "q m"], queries: _Queries, embedding: Embedding
    ) -> Float[Tensor, "q m s s"]:
        """The chosen masks drawn again from their centres: a click far from the edge means the same thing, and draws it
        better."""
        again = chosen & ~queries.part[:, None] & (masks > 0).any(-1).any(-1)
        if again.any():
            masks[again] = self._answers(embedding, [_click(point) for point in centres(masks[again] > 0)])
        return masks

    def _answers(self, embedding: Embedding, prompts: Sequence[Prompt]) -> Float[Tensor, "n s s"]:
        starts = range(0, len(prompts), CLICKS_PER_PASS)
        return torch.cat([self.decoder.answer(embedding, prompts[k : k + CLICKS_PER_PASS]) for k in starts])


@dataclass(frozen=True)
class _Queries:
    """Of the queries about one image: the heads' maps and the map of all, and what the words tell."""

    maps: Float[Tensor, "q c h w"]
    heat: Float[Tensor, "q h w"]
    several: Bool[Tensor, " q"]
    part: Bool[Tensor, " q"]


def _click(point: Float[Tensor, " 2"]) -> Prompt:
    return Prompt(point[None], torch.ones(1, dtype=torch.long))


def _box(box: Float[Tensor, " 4"]) -> Prompt:
    return Prompt(box.new_zeros(0, 2), torch.zeros(0, dtype=torch.long), box)


def build_localization(config: LocalizationConfig, backbone: BackboneSource, decoder: PromptDecoder) -> Localization:
    """The method on an MLLM that runs only up to the layer of the last head."""
    return Localization(config, backbone.head_reader(config.layers), decoder)
