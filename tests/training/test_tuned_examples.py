"""What a method that tunes its MLLM is shown of a sample."""

from __future__ import annotations

from dataclasses import replace

import pytest

from seglens.backbones import Backbone
from seglens.core.types import Sample
from seglens.data.prompts import prompted
from seglens.methods import build_method
from seglens.methods.tuned import TunedMethod
from seglens.methods.ufo import UfoConfig
from seglens.training.tuned_examples import ExampleMaker


@pytest.fixture(scope="module")
def method(backbone: Backbone) -> TunedMethod:
    made = build_method(UfoConfig(), backbone, None)
    assert isinstance(made, TunedMethod)
    return made


def test_an_explanation_is_taught_where_it_is_asked_for(method: TunedMethod, scene: Sample) -> None:
    """One sample in LISA's templates, of which half ask for the reason."""
    answered = replace(scene, targets=tuple(replace(t, answer="because it is red") for t in scene.targets) * 4)
    sample = prompted(answered, "lisa")
    assert {"explain" in t.query or "explanation" in t.query for t in sample.targets} == {True, False}
    silent = replace(sample, targets=tuple(replace(t, answer=None, explained=False) for t in sample.targets))
    maker = ExampleMaker(method.mllm, None, method.mask_side)
    taught, bare = (maker.example(each) for each in (sample, silent))
    for target, words, without in zip(sample.targets, taught.answers, bare.answers, strict=True):
        assert target.explained == ("expla" in target.query)
        assert (len(words.ids) > len(without.ids)) == target.explained
        assert words.places == without.places
