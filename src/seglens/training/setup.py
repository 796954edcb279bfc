"""Everything that a training needs, from names to parts in place."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from seglens.checkpoints.config import INIT, HeadConfig, Presence, read_config, weights_sum
from seglens.checkpoints.head import MisfitError, few, load_state
from seglens.checkpoints.origin import Origin
from seglens.convert.published import head_folder
from seglens.core.devices import AUTO
from seglens.core.distributed import Ranks
from seglens.core.progress import progress
from seglens.data import Dataset, load_data
from seglens.data.dataset import faults_of
from seglens.data.head_prompt import HeadPrompt, prompt_of, with_head_prompt
from seglens.data.mixing import Epochs, Mixed, load_mixture, names_a_mixture
from seglens.data.negatives import for_training, has_absent
from seglens.data.prompts import Prompted
from seglens.data.spec import parse, write
from seglens.features.cache import MANIFEST, Cache, left_out
from seglens.features.frozen import FeatureSource, Live
from seglens.inference.frozen_models import Parts
from seglens.inference.prediction import slug
from seglens.methods import METHODS, Method, build_method, method_settings, name_of
from seglens.methods.tuned import TunedMethod
from seglens.training.example_stream import DatasetStream, ExampleStream, FeatureStream
from seglens.training.launch import need_extras
from seglens.training.presets import Recipe
from seglens.training.trainer import fit
from seglens.training.tuned_examples import ExampleMaker

UNTRAINED = (
    "no target of this data is absent, so that the head cannot learn to say that something is not there: it will show "
    "a mask for every query (presence: untrained in its config). Data with a list of classes takes negatives=0.2; "
    "other data needs absent targets of its own"
)
ADDED = (
    "the data is asked for classes that an image does not show, too (negatives={}), so that the head learns to refuse; "
    "where an image shows more than is annotated, leave them out with negatives=0"
)


@dataclass(frozen=True)
class FeatureStorage:
    """Where frozen features come from: a folder that is a finished cache (`seglens cache build`), a folder in which the
    caches of datasets are kept by their names, or the parts themselves, `live` at every step."""

    folder: Path
    live: bool = False

    def source(self, parts: Parts, data: Dataset, name: str) -> FeatureSource:
        """Of a dataset by its name. Computes what is missing in the folder.

        Raises CacheError when the folder is, or holds under that name, a cache of something else."""
        if self.live:
            return parts.live(data, name)
        if (self.folder / MANIFEST).exists():
            return Cache.open(self.folder, parts.key, name)
        with progress("reading", len(data)) as advance:
            folder = slug(name.replace("+", "plus"), longest=80)  # refcoco and refcoco+ are two datasets
            return parts.cached(data, name, self.folder / folder, tick=advance)


@dataclass(frozen=True)
class TrainingRun:
    """A fresh head with its config, what it learns from and, if there is one, what it is examined on meanwhile."""

    recipe: Recipe
    head: Method
    config: HeadConfig
    lessons: ExampleStream
    exam: FeatureSource | None
    data: Dataset | Mixed
    told: tuple[str, ...] = ()  # of how it begins, for a person

    def left_out(self) -> list[str]:
        """The bad records that the data has left out so far, by name: of what is read live, more may be found."""
        return _left_out(self.data, self.lessons)

    def notices(self) -> list[str]:
        """What to know of how it begins, and of the queries for things that are not there, which teach a head to
        refuse."""
        if self.config.presence == "untrained":
            return [*self.told, UNTRAINED]
        asked = parse(self.config.trained["data"])[1] if self.config.trained else {}
        return [*self.told, *([ADDED.format(asked["negatives"])] if "negatives" in asked else [])]

    def run(self, out: Path, quiet: bool = False) -> dict[str, float]:
        """Train the head, or go on with it. Returns the last smoothed terms."""
        return fit(self.head, self.lessons, self.recipe.training, self.config, out, self.exam, quiet)


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
) -> TrainingRun:
    """Load the frozen parts, open the data and build the head.

    `data` is a dataset, every image of it once per epoch, or a mixture such as "lisa:root=/data". A dataset is read
    once and its features are kept in `cache` (by default in `out`) unless `live`; a mixture is read live unless `cache`
    is given, because new prompts at every draw are worth more than the disk that they would need. What is examined on
    is kept in `out`. `init` is a trained head (a folder or a hub id) whose weights this training starts from, adapter
    included.

    Raises ValueError when the data is kept for tests, a part cannot be had, `cache` holds something else, or `init` is
    a head of another method, of other frozen parts or of another shape."""
    need_extras(recipe.training.trackers)
    name = name_of(recipe.method)
    kind = METHODS[name]
    if recipe.backbone is None or (recipe.decoder is None and kind.needs_decoder):
        needed = (
            "no MLLM and no mask decoder; give --backbone and --decoder"
            if kind.needs_decoder
            else ("no MLLM; give --backbone")
        )
        raise ValueError(f"this preset names {needed}")
    if not kind.trained:
        raise ValueError(f"{name} has nothing to train; use it as it is (--backbone and --decoder without --model)")
    if kind.tuned and cache is not None:
        raise ValueError(
            f"{name} trains an adapter inside the MLLM, so that what the MLLM says changes with every step and no "
            f"cache of it holds ({cache}); leave out --cache, or train a method that leaves the MLLM frozen (lens)"
        )
    recipe.training.passes(Ranks.here().world)
    start = None if init is None else Start.of(init, recipe)
    opened, data = open_data(data, recipe)  # before the parts are loaded: a wrong name is told at once
    if isinstance(opened, Mixed) and opened.spoken and not kind.tuned:
        raise ValueError(
            f"{data!r} holds questions that are answered in words, and {name} leaves the MLLM frozen: it learns masks "
            "alone; take rates without them (rates=paper), or a method that tunes the MLLM (lisa)"
        )
    examined = None if exam is None else load_data(exam)
    parts = Parts.load(
        Origin.of(recipe.backbone),
        Origin.of(recipe.decoder) if kind.needs_decoder and recipe.decoder else None,
        layer=recipe.layer,
        image_size=image_size,
        canvas=recipe.canvas,
        floors=recipe.floors,
        device=device,
        segmentation_only=not kind.tuned,
    )
    parts, preset = recipe.told(parts), _preset_of(opened)
    torch.manual_seed(recipe.training.seed)
    head = build_method(recipe.method, parts.backbone, parts.decoder).to(parts.device)
    if start is not None:
        start.give(head, None if kind.tuned else parts.backbone.layer)
    asked: FeatureSource | None = None
    if isinstance(head, TunedMethod):
        examiner = ExampleMaker(head.mllm, parts.decoder, head.mask_side)
        lessons = practise(parts, opened, data, head, recipe.training.seed)
        if examined is not None and exam is not None:
            asked = Live(
                with_head_prompt(examined, preset), examiner.read, _exam_name(exam, examined, preset), parts.key
            )
    else:
        features = FeatureStorage(cache or out / "features", live or (isinstance(opened, Mixed) and cache is None))
        lessons = teach(parts, opened, data, features, recipe.training.seed)
        kept = FeatureStorage(out / "features", live)
        if examined is not None and exam is not None:
            asked = kept.source(parts, with_head_prompt(examined, preset), _exam_name(exam, examined, preset))
    config = _head_config(recipe, parts, data, len(_left_out(opened, lessons)), any_absent(opened))
    config = replace(config, prompt=HeadPrompt.of(preset, parts.backbone.reading.system))
    if start is None:
        return TrainingRun(recipe, head, config, lessons, asked, opened)
    config = replace(config, trained={**(config.trained or {}), INIT: start.note()})
    return TrainingRun(recipe, head, config, lessons, asked, opened, start.told(out))


@dataclass(frozen=True)
class Start:
    """A trained head that a training starts from: MLLMSeg's GRES stage and UFO's last stages are such."""

    name: str
    folder: Path
    recipe: Recipe

    @classmethod
    def of(cls, name: str | Path, recipe: Recipe) -> Start:
        """Raises ValueError for a head of another method, or of other frozen parts."""
        folder = head_folder(name)
        config, method = read_config(folder), name_of(recipe.method)
        if config.method != method:
            raise ValueError(
                f"{name} is a head of {config.method}, and {method} is trained here; give a head of {method} to start "
                "from"
            )
        parts = {"MLLM": (config.backbone, recipe.backbone), "mask decoder": (config.decoder, recipe.decoder)}
        for what, (theirs, ours) in parts.items():
            if theirs is None or ours is None:  # a method that has no mask decoder
                continue
            if theirs.resolve(folder) != Origin.of(ours).resolve():
                raise ValueError(
                    f"{name} is a head for the {what} {theirs.name}, and {ours} is given here; train on the same one, "
                    "or start from another head"
                )
        return cls(str(name), folder, recipe)

    def give(self, head: Method, layer: int | None) -> None:
        """Its weights, adapter included. Raises ValueError for another shape or layer."""
        theirs = read_config(self.folder).layer
        if theirs != layer:
            raise ValueError(
                f"{self.name} reads the MLLM at layer {theirs}, and layer {layer} is given here; give --layer {theirs}"
            )
        try:
            load_state(self.folder, head)
        except MisfitError as error:
            raise ValueError(
                f"{self.name} cannot start this training, whose head has another shape ({few(error.faults)}); take the "
                f"settings that it was trained with: {self._differing() or 'the same image size'}"
            ) from error

    def _differing(self) -> str:
        """Its settings that are others here, as a user would give them: numbers and choices first, a few of them."""
        config = read_config(self.folder)
        settings: Any = method_settings(config.method, config.settings)
        pairs: list[tuple[Any, Any]] = [(settings, self.recipe.method), (config.canvas, self.recipe.canvas)]
        other = {
            field.name: getattr(theirs, field.name)
            for theirs, ours in pairs
            for field in fields(theirs)
            if getattr(theirs, field.name) != getattr(ours, field.name)
        }
        told = sorted(f"{name}={value}" for name, value in other.items())
        return few(sorted(told, key=lambda one: " " in one))  # what is said in words last

    def note(self) -> dict[str, str]:
        return {"head": self.name, "weights": weights_sum(self.folder)}

    def told(self, out: Path) -> tuple[str, ...]:
        if newest := max((int(path.name.split("_")[1]) for path in out.glob("step_*")), default=0):
            return (f"the run in {out} goes on from its step {newest}; {self.name} is what it started from, no more",)
        other = self._differing()
        return (f"starting from the weights of {self.name}" + (f", trained with {other}" if other else ""),)


def open_data(text: str, recipe: Recipe) -> tuple[Dataset | Mixed, str]:
    """A mixture, by default in the recipe's rates, or a dataset that may be trained on; by default in the recipe's
    templates, with its share of queries for what an image does not show. And its text with that.

    Raises ValueError when it is kept for tests."""
    if names_a_mixture(text):
        wanted = {} if recipe.prompt is None else {"prompt": recipe.prompt}
        usual = {"rates": recipe.rates, "seed": recipe.training.seed, "negatives": recipe.negatives, **wanted}
        return load_mixture(text, **usual), text
    data = load_data(text)
    if not data.trainable:
        raise ValueError(f"{text!r} is kept for tests and cannot train a head; add split=train")
    if recipe.prompt not in (None, "none") and prompt_of(data) is None:
        name, options = parse(text)
        text = write(name, {**options, "prompt": str(recipe.prompt)})
        data = load_data(text)
    return for_training(text, data, recipe.negatives)


def _preset_of(data: Dataset | Mixed) -> str:
    """The templates that queries are trained in."""
    return data.prompt if isinstance(data, Mixed) else prompt_of(data) or "none"


def _exam_name(name: str, data: Dataset, preset: str) -> str:
    """Of what is examined on, as the head is asked: its cached features are those of its templates."""
    asked = with_head_prompt(data, preset)
    return name if asked is data else f"{name} in {preset}"


def any_absent(data: Dataset | Mixed) -> bool:
    """Whether a head can learn from the data that something is not there."""
    if not isinstance(data, Mixed):
        return has_absent(data)
    rates, sources = data.mixture.rates, zip(data.mixture.sources, data.datasets, strict=True)
    return any(rates[source.group] and has_absent(one) for source, one in sources)


def practise(parts: Parts, data: Dataset | Mixed, name: str, head: TunedMethod, seed: int) -> ExampleStream:
    """The stream that a method which tunes its MLLM learns from: pictures and words."""
    examiner = ExampleMaker(head.mllm, parts.decoder, head.mask_side, head.practice, seed)
    if isinstance(data, Mixed):
        return DatasetStream(data, lambda sample, number: examiner.exercise(sample, number=number), parts.key)
    source = Live(data, examiner.read, name, parts.key)
    return FeatureStream([source], Epochs(len(source), source.questions, seed))


def teach(parts: Parts, data: Dataset | Mixed, name: str, features: FeatureStorage, seed: int) -> ExampleStream:
    """The stream that a head on frozen parts learns from."""
    if not isinstance(data, Mixed):
        source = features.source(parts, data, name)
        return FeatureStream([source], Epochs(len(source), source.questions, seed))
    if features.live:
        return DatasetStream(data, lambda sample, _: parts.read(sample), parts.key)
    each = [
        features.source(parts, Prompted(dataset, data.prompt), f"{dataset.name} {data.prompt}")
        for dataset in data.datasets
    ]
    drawn = zip(data.mixture.sources, each, strict=True)
    sources = tuple(replace(source, images=len(kept), count=kept.questions) for source, kept in drawn)
    return FeatureStream(each, replace(data.mixture, sources=sources))


def _left_out(data: Dataset | Mixed, lessons: ExampleStream) -> list[str]:
    faults = [fault for one in (data.datasets if isinstance(data, Mixed) else [data]) for fault in faults_of(one)]
    sources = lessons.sources if isinstance(lessons, FeatureStream) else ()
    return left_out(faults, [one for source in sources if isinstance(source, Cache) for one in source.skipped])


def _head_config(recipe: Recipe, parts: Parts, data: str, lacks: int, absent: bool) -> HeadConfig:
    backbone, decoder = parts.origins()
    note = {"data": data, "left_out": lacks, "training": asdict(recipe.training)}
    name = name_of(recipe.method)
    layer = None if METHODS[name].tuned else parts.backbone.layer
    settings = asdict(recipe.method)
    presence: Presence = "trained" if absent else "untrained"
    size, canvas = parts.backbone.image_size, parts.backbone.canvas
    return HeadConfig(name, settings, backbone, layer, decoder, size, canvas, presence=presence, trained=note)
