"""What the page suggests must work: a newcomer tries it first."""

from __future__ import annotations

import numpy as np
import pytest

from seglens.agent import Agent
from seglens.inference.segmenter import Segmenter
from seglens.serving.web.examples import EXAMPLES, SEED, Example
from seglens.world.world import World

# The things that a suggestion means, by their names in the scene; no name: nothing does. The rest is answered in words.
MASKS = {
    "segment the cat.": {"cat"},
    "the thing that wakes you in the morning": {"clock"},
    "segment all the things from home.": {"clock", "cup"},
    "segment each of the snowmen.": {"snowman"},
    "segment each bus.": {"bus"},
    "segment the scissors.": {"scissors"},
    "segment the elephant.": set(),
    "segment each of the glasses.": {"glasses"},
    "the thing that keeps you dry": {"umbrella"},
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: str(one.index))
def test_suggestions_give_the_results_they_describe(segmenter: Segmenter, example: Example) -> None:
    scene = World("test", SEED).scene(example.index)
    talk = Agent(segmenter).start(example.image)
    for words in example.suggestions:
        reply = talk.say(words)
        if words.endswith("?"):
            assert reply.route.intent == "dialogue", words
            assert reply.text
            continue
        assert reply.route.intent == "segmentation", words
        (prediction,) = reply.predictions
        assert prediction.found == (MASKS.get(words) != set()), words
        if MASKS.get(words):
            truth = np.isin(scene.ids, [thing.index for thing in scene.things if thing.name in MASKS[words]])
            assert (prediction.mask & truth).sum() / (prediction.mask | truth).sum() > 0.6, words
        if " each " in words:
            assert len(prediction.instances) > 1, words


def test_every_example_is_described_in_words() -> None:
    """For those who cannot see the picture: by the names of what it shows."""
    for example in EXAMPLES:
        for thing in World("test", SEED).scene(example.index).things:
            assert any(name in example.description for name in (thing.name, thing.concept.plural)), (
                example.index,
                thing.name,
            )
