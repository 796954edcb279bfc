"""The examples of a method that tunes its MLLM."""

from __future__ import annotations

from dataclasses import replace

import pytest

from seglens.backbones import Backbone
from seglens.core.types import Sample
from seglens.data.query_templates import prompted
from seglens.methods import build_method
from seglens.methods.tuned import TunedMethod
from seglens.methods.ufo import UfoConfig
from seglens.training.tuned_examples import ExampleMaker


@pytest.fixture(scope="module")
def method(backbone: Backbone) -> TunedMethod:
    method = build_method(UfoConfig(), backbone, None)
    assert isinstance(method, TunedMethod)
    return method


def test_an_explanation_is_learnt_where_the_query_asks_for_it(method: TunedMethod, scene: Sample) -> None:
    """One sample in LISA's templates, of which half ask for the reason."""
    answered = replace(scene, targets=tuple(replace(t, answer="because it is red") for t in scene.targets) * 4)
    sample = prompted(answered, "lisa")
    assert {"explain" in t.query or "explanation" in t.query for t in sample.targets} == {True, False}
    silent = replace(sample, targets=tuple(replace(t, answer=None, explained=False) for t in sample.targets))
    maker = ExampleMaker(method.mllm, None, method.mask_side)
    explained, bare = (maker.example(each) for each in (sample, silent))
    for target, answer, without in zip(sample.targets, explained.answers, bare.answers, strict=True):
        assert target.explained == ("expla" in target.query)
        assert (len(answer.ids) > len(without.ids)) == target.explained
        assert answer.places == without.places
