"""Algorithm S1 on the embedded model."""

from __future__ import annotations

import pytest

from seglens.agent import Agent
from seglens.agent.conversation import GENERATED
from seglens.segmenter import Segmenter
from seglens.types import Sample


@pytest.fixture(scope="module")
def agent(segmenter: Segmenter) -> Agent:
    return Agent(segmenter)


def test_three_routes(agent: Agent, scene: Sample) -> None:
    talk = agent.start(scene.image)
    words = talk.say("how many things are there?")
    assert (words.route.intent, words.predictions, words.overlay) == ("dialogue", (), None)
    mask = talk.say("where is the red cup?", route="segmentation")
    assert mask.route.given
    assert (mask.text, talk.predictions) == (GENERATED, mask.predictions)
    assert mask.overlay is not None
    about = talk.say("what colour is it?")
    assert about.route.intent == "followup"
    assert [turn.reply for turn in talk.turns] == [words, mask, about]
