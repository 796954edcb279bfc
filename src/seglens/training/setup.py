"""Everything that a training needs, from names to parts in place."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from seglens.checkpoints.config import INIT, HeadConfig, Presence
from seglens.checkpoints.origin import Origin
from seglens.core.devices import AUTO
from seglens.core.distributed import Ranks
from seglens.data import Dataset, load_data
from seglens.data.head_prompt import HeadPrompt
from seglens.data.mixing import Mixed
from seglens.data.spec import parse
from seglens.features.examples import ExampleSource, LiveExamples
from seglens.inference.frozen_models import Parts
from seglens.methods import METHODS, Method, build_method, name_of
from seglens.methods.tuned import TunedMethod
from seglens.training.example_stream import (
    ExampleStream,
    datasets_named,
    frozen_source,
    frozen_stream,
    tuned_stream,
)
from seglens.training.initial_head import InitialHead
from seglens.training.launch import need_extras
from seglens.training.presets import Recipe
from seglens.training.run_folder import LEFT_OUT, keep_lines
from seglens.training.sample_readers import usual_readers
from seglens.training.trainer import fit
from seglens.training.training_data import any_absent, bad_records, open_data, trained_prompt, validation_data
from seglens.training.tuned_examples import ExampleMaker

UNTRAINED = (
    "no target of this data is absent, so that the head cannot learn that something is not there: it will show "
    "a mask for every query (presence: untrained in its config). Data with a list of classes takes negatives=0.2; "
    "other data needs absent targets of its own"
)
ADDED = (
    "the data is asked for classes that an image does not show, too (negatives={}), so that the head learns to refuse; "
    "where an image shows more than is annotated, leave them out with negatives=0"
)


@dataclass(frozen=True)
class TrainingRun:
    """A fresh head with its config, the examples that it learns from and, if there is one, what it is validated on."""

    recipe: Recipe
    head: Method
    config: HeadConfig
    stream: ExampleStream
    validation: ExampleSource | None
    data: Dataset | Mixed
    start: str | None = None  # where the weights come from, for a person

    def left_out(self) -> list[str]:
        """The bad records that the data has left out so far, by name: of what is read live, more may be found."""
        return bad_records(self.data, self.stream)

    def notices(self) -> list[str]:
        """What a person should know before it begins: its start, and whether the data holds queries for things that
        are not there, from which a head learns to refuse."""
        start = [] if self.start is None else [self.start]
        if self.config.presence == "untrained":
            return [*start, UNTRAINED]
        options = parse(self.config.trained["data"])[1] if self.config.trained else {}
        return [*start, *([ADDED.format(options["negatives"])] if "negatives" in options else [])]

    def run(self, out: Path, quiet: bool = False) -> dict[str, float]:
        """Train the head, or go on with it. With each checkpoint the bad records that were left out so far are listed
        in `out`, each process in a file of its own. Returns the last smoothed terms."""
        training = self.recipe.training
        ranks = Ranks.here()
        file = out / LEFT_OUT.format("" if ranks.first else f"_{ranks.rank}")
        saved = partial(keep_lines, file, self.left_out)
        return fit(self.head, self.stream, training, self.config, out, self.validation, quiet, saved)


def prepare(
    recipe: Recipe,
    data: str,
    out: Path,
    exam: str | None = None,
    cache: Path | None = None,
    live: bool = False,
    device: str = AUTO,
    image_size: int | None = None,
    init: str | Path | None = None,
    cached: str | None = None,
    readers: int | None = None,
    load_in: str | None = None,
) -> TrainingRun:
    """Load the frozen parts, open the data and build the head.

    `data` is a dataset, every image of it once per epoch, or a mixture such as "lisa:root=/data". A dataset is read
    once and its features are kept in `cache` (by default in `out`) unless `live`; a mixture is read live unless `cache`
    is given or it is a small one, because new prompts at every draw are worth more than the disk; of the datasets that
    `cached` names ("reasonseg,refcoco") the features are kept, and the others are read live in the same run. `exam` is
    data to validate on, whose features are kept in `out`. `init` is a trained head (a folder or a hub id) whose weights
    this training starts from, adapter included.

    `load_in` packs the weights of a frozen MLLM ("8bit" or "4bit").

    Raises ValueError when the data is kept for tests, a part cannot be had, `cache` holds something else, or `init` is
    a head of another method, of other frozen parts or of another shape."""
    need_extras(recipe.training.trackers)
    _check(recipe, cache, cached)
    _check_packing(recipe, load_in)
    if live and cached is not None:
        raise ValueError(f"got live together with the cached datasets {cached}; leave out one of them")
    recipe.training.passes(Ranks.here().world)
    start = None if init is None else InitialHead.of(init, recipe)
    opened, data = open_data(data, recipe)  # before the parts are loaded: a wrong name is refused at once
    _check_frozen(recipe, opened, data)
    chosen = None if cached is None else datasets_named(opened, cached)
    if readers and not isinstance(opened, Mixed):
        raise ValueError(
            f"got {readers} readers for {data}, which is no mixture; only samples of a mixture are read by other "
            "processes, so leave out --readers"
        )
    examined = None if exam is None else load_data(exam)
    parts = _load_parts(recipe, device, image_size, load_in)
    torch.manual_seed(recipe.training.seed)
    head = build_method(recipe.method, parts.backbone, parts.decoder).to(parts.device)
    if start is not None:
        start.load_into(head, _layer(recipe, parts))
    if isinstance(head, TunedMethod):
        parameters = sum(p.numel() for p in parts.backbone.module.parameters())
        head.mllm.recompute(recipe.training.recomputes(parameters))
    own, count = out / "features", usual_readers() if readers is None else readers
    if isinstance(head, TunedMethod):
        stream = tuned_stream(parts, opened, data, head, recipe.training.seed, count)
    else:
        read_live = live or (isinstance(opened, Mixed) and not opened.read_once and cache is None and chosen is None)
        folder = None if read_live else cache or own
        stream = frozen_stream(parts, opened, data, folder, recipe.training.seed, chosen, count)
    validation = None
    if examined is not None and exam is not None:
        named = validation_data(exam, examined, trained_prompt(opened))
        validation = _validation(parts, head, *named, None if live else own)
    config = _head_config(recipe, parts, data, opened, len(bad_records(opened, stream)))
    if start is None:
        return TrainingRun(recipe, head, config, stream, validation, opened)
    config = replace(config, trained={**(config.trained or {}), INIT: start.note()})
    return TrainingRun(recipe, head, config, stream, validation, opened, start.notice(out))


def _check(recipe: Recipe, cache: Path | None, cached: str | None) -> None:
    """Raises ValueError when the recipe names no MLLM or no mask decoder that its method needs, or cannot be trained,
    or not from a cache."""
    name = name_of(recipe.method)
    kind = METHODS[name]
    if recipe.backbone is None or (recipe.decoder is None and kind.needs_decoder):
        needed = (
            "no MLLM and no mask decoder; give --backbone and --decoder"
            if kind.needs_decoder
            else "no MLLM; give --backbone"
        )
        raise ValueError(f"this preset names {needed}")
    if not kind.trained:
        raise ValueError(f"{name} has nothing to train; use it as it is (--backbone and --decoder without --model)")
    if kind.tuned and (cache is not None or cached is not None):
        raise ValueError(
            f"{name} trains an adapter inside the MLLM, so that the states of the MLLM change with every step and no "
            f"cache of them holds ({cache or cached}); leave out --cache{'' if cached is None else '-datasets'}, or "
            "train a method that leaves the MLLM frozen (lens)"
        )


def _check_frozen(recipe: Recipe, opened: Dataset | Mixed, data: str) -> None:
    name = name_of(recipe.method)
    if isinstance(opened, Mixed) and opened.spoken and not METHODS[name].tuned:
        raise ValueError(
            f"{data!r} holds questions that are answered in words, and {name} leaves the MLLM frozen: it learns masks "
            "alone; take rates without them (rates=paper), or a method that tunes the MLLM (lisa)"
        )


def _check_packing(recipe: Recipe, load_in: str | None) -> None:
    """Raises ValueError for a method that trains inside the MLLM: its weights must be whole."""
    name = name_of(recipe.method)
    if load_in is not None and METHODS[name].tuned:
        raise ValueError(
            f"{name} trains inside the MLLM, and is trained on whole weights alone, not in {load_in}; leave out "
            "--load-in, or train a method that leaves the MLLM frozen (lens)"
        )


def _load_parts(recipe: Recipe, device: str, image_size: int | None, load_in: str | None = None) -> Parts:
    kind = METHODS[name_of(recipe.method)]
    assert recipe.backbone is not None
    parts = Parts.load(
        Origin.of(recipe.backbone),
        Origin.of(recipe.decoder) if kind.needs_decoder and recipe.decoder else None,
        layer=recipe.layer,
        image_size=image_size,
        canvas=recipe.canvas,
        floors=recipe.floors,
        device=device,
        segmentation_only=not kind.tuned,
        load_in=load_in,
    )
    return recipe.with_system(parts)


def _layer(recipe: Recipe, parts: Parts) -> int | None:
    """At which a frozen MLLM is read; None of one that is tuned."""
    return None if METHODS[name_of(recipe.method)].tuned else parts.backbone.layer


def _validation(parts: Parts, head: Method, data: Dataset, name: str, folder: Path | None) -> ExampleSource:
    if not isinstance(head, TunedMethod):
        return frozen_source(parts, data, name, folder)
    maker = ExampleMaker(head.mllm, parts.decoder, head.mask_side)  # without the training format: as it will be used
    return LiveExamples(data, maker.example, name, parts.key)


def _head_config(recipe: Recipe, parts: Parts, data: str, opened: Dataset | Mixed, bad: int) -> HeadConfig:
    backbone, decoder = parts.origins()
    presence: Presence = "trained" if any_absent(opened) else "untrained"
    return HeadConfig(
        name_of(recipe.method),
        asdict(recipe.method),
        backbone,
        _layer(recipe, parts),
        decoder,
        parts.backbone.image_size,
        parts.backbone.canvas,
        presence=presence,
        prompt=HeadPrompt.of(trained_prompt(opened), parts.backbone.reading.system),
        trained={"data": data, "left_out": bad, "training": asdict(recipe.training)},
    )
