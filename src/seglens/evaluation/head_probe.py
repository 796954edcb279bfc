"""Which attention heads of an MLLM attend to what a phrase names: found on any pictures with phrases, once.

The heads that each query chooses by itself (`methods.localization`) are counted, as Kang et al. (arXiv 2503.06287) do.
The attention at which a thing counts as present is learnt without labels: every picture is asked for its own phrases,
and for phrases that the data marks as absent or, where it marks none, for those of the picture before it, most of which
it does not show. Presence is judged by the one head whose attention separates the two best, among all heads of the
layers that run for the map."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seglens.backbones import Backbone
from seglens.backbones.head_choice import HeadChoice
from seglens.checkpoints.hub import hub_commit
from seglens.checkpoints.origin import Origin
from seglens.core.types import Sample
from seglens.evaluation.layer_probe import FEWEST_IMAGES, check_limit
from seglens.methods import LocalizationConfig
from seglens.methods.attention_maps import choose, maps_and_masses

LENIENT = 1 / 4  # below one half: a user sees that a mask is wrong, but not that a thing was missed
RELIABLE = 0.75  # balanced accuracy below which presence is not judged by the attention


@dataclass
class _Observations:
    """Of every query: the attention from each head to the image, and whether the phrase is the picture's."""

    mass: list[Float[Tensor, " k"]] = field(default_factory=list)
    own: list[bool] = field(default_factory=list)
    chosen: list[Int[Tensor, " c"]] = field(default_factory=list)  # of its own phrases
    images: int = 0

    def add(self, mass: Float[Tensor, "q k"], chosen: Int[Tensor, "q c"], own: int) -> None:
        self.mass += list(mass.cpu())
        self.own += [k < own for k in range(len(mass))]
        self.chosen += list(chosen[:own].cpu())
        self.images += 1


def find_heads(
    backbone: Backbone,
    data: Iterable[Sample],
    limit: int | None = None,
    tick: Callable[[], None] = lambda: None,
    config: LocalizationConfig | None = None,
    note: dict[str, Any] | None = None,
) -> HeadChoice:
    """The heads that most queries choose, over the first `limit` samples, and the mass at which presence is 1/2. Of a
    target only its phrase and its presence are used. `note` is stored in the file.

    Raises ValueError when fewer than two images have a query with a target, or the backbone's layers are not all
    loaded."""
    check_limit(limit)
    config = config or LocalizationConfig()
    reader, before = backbone.head_reader(backbone.mllm.unlimited_layers), list[str]()
    observed = _Observations()
    for sample in islice(data, limit):
        targets = sample.drawn().targets
        own = list(dict.fromkeys(target.query for target in targets if target.present))
        if own:
            absent = [target.query for target in targets if not target.present]
            foreign = [query for query in [*absent, *before] if query not in own][: len(own)]
            read = reader.read(reader.open(sample.image), [*own, *foreign])
            maps, mass = maps_and_masses(read)
            observed.add(mass[0], choose(maps, mass, reader.heads, config.chosen, config.first_layer)[0], len(own))
            before = own
        tick()
    if observed.images < FEWEST_IMAGES:
        raise ValueError(
            f"heads are found on queries with a target about at least {FEWEST_IMAGES} images, and the data has them "
            f"about {observed.images}; choose other data, or more of it"
        )
    return _choice(backbone, observed, reader.heads, config, note or {})


def _choice(
    backbone: Backbone, observed: _Observations, width: int, config: LocalizationConfig, note: dict[str, Any]
) -> HeadChoice:
    mass, own = torch.stack(observed.mass), torch.tensor(observed.own)
    counts = torch.stack(observed.chosen).flatten().bincount(minlength=mass.shape[1])
    best = counts.argsort(descending=True, stable=True)[: config.chosen]
    pairs = tuple((int(k) // width, int(k) % width) for k in best)
    run = (max(layer for layer, _ in pairs) + 1) * width  # heads of the layers that run in any case
    attends = (mass[:, :run] > 0).any(0)  # the others are in layers without attention
    presence = int(separation(mass[:, :run], own).where(attends, -1).argmax())
    threshold, kept, refused = separated(mass[:, presence], own)
    origin = Origin.of(backbone.name, backbone.revision or hub_commit(backbone.name))
    share = counts[best] / len(observed.chosen)
    return HeadChoice(
        origin.name,
        origin.revision,
        pairs,
        threshold if (kept + refused) / 2 >= RELIABLE else None,
        (presence // width, presence % width),
        {
            **note,
            "images": observed.images,
            "queries": len(observed.chosen),
            "others": int((~own).sum()),
            "chosen": [round(float(one), 4) for one in share],
            "own_kept": round(kept, 4),
            "others_refused": round(refused, 4),
        },
    )


def separation(mass: Float[Tensor, "q k"], own: Bool[Tensor, " q"]) -> Float[Tensor, " k"]:
    """Of every head, the share of pairs of a picture's own phrase and another in which the own one has the greater mass
    (the area under the ROC curve; a tie counts one half)."""
    above = mass[own][:, None] - mass[~own][None]
    return (above.sign() + 1).mean((0, 1)) / 2 if above.numel() else mass.new_zeros(mass.shape[1])


def separated(mass: Float[Tensor, " q"], own: Bool[Tensor, " q"]) -> tuple[float, float, float]:
    """The mass at `LENIENT` of the way from the median of other pictures' phrases to the median of a picture's own
    phrases; the share of the own ones above it, and of the others below.

    Medians, because up to half of the other phrases may name something that the picture shows, too."""
    if not (own.any() and (~own).any()):
        return 0.5, 1.0, 0.0
    others = mass[~own].quantile(0.5)
    threshold = float(others + LENIENT * (mass[own].quantile(0.5) - others))
    kept, refused = mass[own] > threshold, mass[~own] <= threshold
    return threshold, float(kept.float().mean()), float(refused.float().mean())
