"""The data of a training, from its text: what may be trained on, in which prompts, and with which queries for things
that an image does not show."""

from __future__ import annotations

from seglens.data import Dataset, load_data
from seglens.data.dataset import faults_of
from seglens.data.head_prompt import prompt_of, with_head_prompt
from seglens.data.mixing import Mixed, load_mixture, names_a_mixture
from seglens.data.negatives import for_training, has_absent
from seglens.data.spec import parse, write
from seglens.features.cache import Cache, left_out
from seglens.training.example_stream import ExampleStream, PartlyCachedStream, SampledStream
from seglens.training.presets import Recipe


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


def trained_prompt(data: Dataset | Mixed) -> str:
    """The templates in which queries are trained."""
    return data.prompt if isinstance(data, Mixed) else prompt_of(data) or "none"


def validation_data(text: str, data: Dataset, prompt: str) -> tuple[Dataset, str]:
    """Data to validate on, in the templates in which the head is asked, and its name with them: its cached features
    are those of the templates."""
    asked = with_head_prompt(data, prompt)
    return asked, text if asked is data else f"{text} in {prompt}"


def any_absent(data: Dataset | Mixed) -> bool:
    """Whether a head can learn from the data that something is not there."""
    if not isinstance(data, Mixed):
        return has_absent(data)
    rates, sources = data.mixture.rates, zip(data.mixture.sources, data.datasets, strict=True)
    return any(rates[source.group] and has_absent(dataset) for source, dataset in sources)


def bad_records(data: Dataset | Mixed, stream: ExampleStream) -> list[str]:
    """The bad records that the data and the caches of it have left out, by name."""
    faults = [fault for one in (data.datasets if isinstance(data, Mixed) else [data]) for fault in faults_of(one)]
    sources = stream.sources if isinstance(stream, SampledStream) else ()
    sources = tuple(stream.caches.values()) if isinstance(stream, PartlyCachedStream) else sources
    return left_out(faults, [one for source in sources if isinstance(source, Cache) for one in source.skipped])
