"""The published mixtures of training data by name: which datasets, in which shares. (How they are drawn: `sampling`.)

    lisa:root=/data,rates=lisa          LISA, LENS (rates=paper): a dataset of a group drawn as often as any other
    mllmseg:root=/data                  MLLMSeg (arXiv 2508.04107): RefCLEF, RefCOCO, + and g; stage=gres: gRefCOCO
    self1e:root=/data                   SELF1E (arXiv 2603.19026, table 8): every dataset as often as it is large
    self1e-seg:root=/data               the same, what has masks repeated
    quick:root=/data                    no paper's: 2,000 images each of RefCOCO, + and g and ReasonSeg, read once;
                                        and of gRefCOCO where it is present, whose absent targets teach to refuse

All are in LISA's folders (see `lisa_tree`), where SELF1E adds InternVL's `data/`. Queries have no template unless
`prompt` names one, except in `lisa`, which uses LENS's templates: methods that tune their MLLM have their own requests.
Bad records are left out and reported while they are few (bad=few); with bad=refuse the first one ends the run, and
bad=skip leaves out any number, incomplete datasets too. `held_out=yes` leaves out every photograph of the val and test
sets of RefCOCO, + and g below `root`: their training sets hold some of each other's. (GQA names its photographs
differently; what it shares with COCO is not detected.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from pathlib import Path
from typing import Literal, cast

from seglens.core.names import check_name
from seglens.data import build, load_data
from seglens.data.faults import DataError
from seglens.data.lisa_tree import LISA_TREE, TREE, DatasetPlace, missing
from seglens.data.negatives import with_negatives
from seglens.data.records import Bad, Records
from seglens.data.refer import parts
from seglens.data.sampling import ATTEMPTS as ATTEMPTS
from seglens.data.sampling import VQA, Mixture, SamplingSource
from seglens.data.sampling import Epochs as Epochs
from seglens.data.sampling import Mixed as Mixed
from seglens.data.sampling import SampledImage as SampledImage
from seglens.data.spec import parse, write
from seglens.data.split_leakage import image_key, to_hold_out

GROUPS = ("sem_seg", "refer_seg", VQA, "reason_seg")
# In the order of GROUPS. LENS's paper follows LISA without questions and answers; its released code has three others.
RATES: dict[str, tuple[float | int, ...]] = {
    "lisa": (9, 3, 3, 1),
    "paper": (9, 3, 0, 1),
    "authors": (3, 1, 0, 1),  # configs/default.yaml
    "authors-dataclass": (3, 3, 0, 1),  # lens/config.py
    "authors-variants": (9, 1, 0, 1),  # other backbones and sizes of SAM
}
MLLMSEG: dict[str, tuple[str, ...]] = {
    "res": ("refclef", "refcoco", "refcoco+", "refcocog"),
    "gres": ("grefcoco",),
}
# Table 8 of SELF1E, without Mapillary and, though the released code lists it, without RefCLEF
SELF1E = (
    "ade20k",
    "cocostuff",
    "pascal_part",
    "paco",
    "refcoco",
    "refcoco+",
    "refcocog",
    "reasonseg",
    "llava_150k",
    "vqav2",
    "okvqa",
    "textvqa",
    "vizwiz",
    "gqa",
)
# The largest number of images that counts: the table has fewer of these two than there are
SELF1E_MOST = {"cocostuff": 30_000, "paco": 30_000}
SELF1E_REPEATS: dict[str, Mapping[str, int]] = {
    "self1e": {"sem_seg": 1, "refer_seg": 1, VQA: 1, "reason_seg": 1},
    "self1e-seg": {"sem_seg": 6, "refer_seg": 20, VQA: 1, "reason_seg": 6},
}
QUICK = ("refcoco", "refcoco+", "refcocog", "reasonseg")
QUICK_MORE = "grefcoco"
Answer = Literal["no", "yes"]
HELD_OUT = ("refcoco", "refcoco+", "refcocog")  # their val and test sets are not trained on with held_out=yes


def parse_rates(text: str) -> dict[str, float]:
    """Rates by group, of a preset ("paper") or of one's own, in the order of GROUPS ("9-3-0-1")."""
    if re.fullmatch(r"\d+(\.\d+)?(-\d+(\.\d+)?)*", text):
        rates = tuple(map(float, text.split("-")))
        if len(rates) != len(GROUPS):
            raise ValueError(f"got {len(rates)} rates in {text!r}; need one each for {', '.join(GROUPS)}")
    else:
        check_name(text, RATES, "set of rates")
        rates = RATES[text]
    return dict(zip(GROUPS, map(float, rates), strict=True))


def present_in(root: Path, mixture: str, wanted: Mapping[str, DatasetPlace], bad: Bad) -> dict[str, DatasetPlace]:
    """Those of the wanted datasets that are below `root`.

    Raises DataError that names every missing folder at once; with bad="skip" datasets that lack any are left out, but
    not a whole group."""
    incomplete = {name: files for name, place in wanted.items() if (files := missing(root, place.needs))}
    if incomplete and bad != "skip":
        lacking = "; ".join(f"{name}: {', '.join(files)}" for name, files in incomplete.items())
        raise DataError(
            f"{mixture}'s data in {str(root)!r} is not complete ({lacking}); fetch it, or go without it by bad=skip"
        )
    present = {name: place for name, place in wanted.items() if name not in incomplete}
    empty = sorted({place.group for place in wanted.values()} - {place.group for place in present.values()})
    if empty:
        raise DataError(f"{str(root)!r} holds no dataset of {', '.join(empty)}; fetch one, or do without them")
    return present


def opened(
    root: Path, places: Mapping[str, DatasetPlace], bad: Bad, held_out: Answer, negatives: float = 0.0
) -> dict[str, Records]:
    """The datasets by their names, without the photographs that are reserved for tests if `held_out` is "yes". Datasets
    of classes also get queries for what an image does not show, in the share of `negatives`."""
    datasets = {name: cast(Records, load_data(place.spec(name, root, bad))) for name, place in places.items()}
    for name, data in datasets.items() if negatives else ():
        if len(data.vocabulary) > 1:
            datasets[name] = cast(Records, with_negatives(data, negatives))
    if held_out == "no":
        return datasets
    reserved = [part for part in parts(root / "refer_seg") if part.name.partition("(")[0] in HELD_OUT]
    keys = frozenset(to_hold_out(reserved))
    if not keys:
        raise DataError(f"{str(root / 'refer_seg')!r} has no val or test set of {', '.join(HELD_OUT)} to hold out")
    return {name: data.without(lambda entry: image_key(entry.image) in keys) for name, data in datasets.items()}


def lisa(
    root: Path,
    rates: str = "paper",
    prompt: str = "lens",
    queries: int = 3,
    seed: int = 0,
    bad: Bad = "few",
    held_out: Answer = "no",
    negatives: float = 0.0,
) -> Mixed:
    """LISA's datasets in LISA's shares; rates=lisa are those with questions answered in words (LLaVA-150k)."""
    shares = parse_rates(rates)
    places = present_in(root, "LISA", {name: place for name, place in LISA_TREE.items() if shares[place.group]}, bad)
    datasets = opened(root, places, bad, held_out, negatives)
    return Mixed(list(datasets.values()), Mixture(_sources(datasets), shares, seed, queries), prompt)


def mllmseg(
    root: Path,
    stage: Literal["res", "gres"] = "res",
    prompt: str = "none",
    queries: int = 5,
    seed: int = 0,
    bad: Bad = "few",
    held_out: Answer = "no",
) -> Mixed:
    """A dataset drawn as often as any other, then an image, then up to five expressions of it."""
    places = present_in(root, "MLLMSeg", {name: TREE[name] for name in MLLMSEG[stage]}, bad)
    datasets = opened(root, places, bad, held_out)
    return Mixed(list(datasets.values()), Mixture(_sources(datasets), {"refer_seg": 1}, seed, queries), prompt)


def self1e_weights(variant: str, sizes: Mapping[str, int]) -> dict[str, int]:
    """How often each dataset of `sizes` images (of VQA: records) is drawn, relative to the others: table 8."""
    counted = {name: min(size, SELF1E_MOST.get(name, size)) for name, size in sizes.items()}
    return {name: SELF1E_REPEATS[variant][TREE[name].group] * size for name, size in counted.items()}


def _self1e(variant: str) -> Callable[..., Mixed]:
    def build(
        root: Path,
        refclef: Answer = "no",
        vqa: Answer = "yes",
        prompt: str = "none",
        queries: int = 3,
        seed: int = 0,
        bad: Bad = "few",
        held_out: Answer = "no",
        negatives: float = 0.0,
    ) -> Mixed:
        """Images (of VQA: records) drawn uniformly from all datasets, each repeated as often as its group is."""
        wanted = {name: TREE[name] for name in (*SELF1E, *(["refclef"] if refclef == "yes" else []))}
        places = present_in(
            root, "SELF1E", {k: place for k, place in wanted.items() if vqa == "yes" or place.group != VQA}, bad
        )
        datasets = opened(root, places, bad, held_out, negatives)
        weights = self1e_weights(variant, {name: len(data) for name, data in datasets.items()})
        sources = tuple(
            SamplingSource(places[name].group, len(data), data.count, weights[name]) for name, data in datasets.items()
        )
        return Mixed(list(datasets.values()), Mixture(sources, _by_size(sources), seed, queries), prompt)

    return build


def quick(
    root: Path,
    limit: int = 2000,
    prompt: str = "lens",
    queries: int = 3,
    seed: int = 0,
    bad: Bad = "few",
    held_out: Answer = "yes",
) -> Mixed:
    """Small enough to be read once, with at most `limit` images of a dataset. Nine draws in ten are of a RefCOCO, each
    of them as often as the others; one is of ReasonSeg."""
    if limit < 1:
        raise ValueError(f"quick got limit={limit}; it must be at least 1")
    more = () if missing(root, TREE[QUICK_MORE].needs) else (QUICK_MORE,)
    places = present_in(root, "quick", {name: TREE[name] for name in (*QUICK, *more)}, bad)
    datasets = {name: data.some(limit) for name, data in opened(root, places, bad, held_out).items()}
    mixture = Mixture(_sources(datasets), {"refer_seg": 9, "reason_seg": 1}, seed, queries)
    return Mixed(list(datasets.values()), mixture, prompt, read_once=True)


def _sources(datasets: Mapping[str, Records]) -> tuple[SamplingSource, ...]:
    """Each dataset of a group drawn as often as any other."""
    return tuple(SamplingSource(TREE[name].group, len(data), data.count) for name, data in datasets.items())


def _by_size(sources: Iterable[SamplingSource]) -> dict[str, float]:
    """Rates under which every dataset of every group is drawn by its weight."""
    rates = dict[str, float]()
    for source in sources:
        rates[source.group] = rates.get(source.group, 0.0) + source.weight
    return rates


MIXTURES: dict[str, Callable[..., Mixed]] = {
    "lisa": lisa,
    "mllmseg": mllmseg,
    "quick": quick,
    **{name: _self1e(name) for name in SELF1E_REPEATS},
}


def load_mixture(text: str, **usual: object) -> Mixed:
    """A mixture from its name and options: "lisa:root=/data,rates=paper". Raises ValueError as `load_data` does.

    `usual` are options for a mixture that has them, where `text` does not give them."""
    name, options = parse(text)
    known = signature(MIXTURES[name]).parameters if name in MIXTURES else {}
    return build(write(name, {key: usual[key] for key in usual if key in known} | options), MIXTURES, "mixture")


def names_a_mixture(text: str) -> bool:
    return parse(text)[0] in MIXTURES
