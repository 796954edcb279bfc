"""A transformers cache has had two names, and more arguments with every version: ours take all of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seglens.backbones import Backbone
from seglens.backbones.transformers_cache import PrefixCache, QuestionCache, as_cache


class Old(nn.Module):
    def forward(self, hidden: torch.Tensor, past_key_values: object = None) -> torch.Tensor:
        return hidden


class New(nn.Module):
    def forward(self, hidden: torch.Tensor, cache: object = None, **more: object) -> torch.Tensor:
        return hidden


class Other(nn.Module):
    def forward(self, hidden: torch.Tensor, states: object = None, **more: object) -> torch.Tensor:
        return hidden


def test_a_cache_is_given_by_the_name_that_a_layer_takes():
    assert as_cache(Old(), 1) == {"past_key_values": 1}
    assert as_cache(New(), 1) == {"cache": 1}
    with pytest.raises(ImportError, match=r"Other of the installed transformers takes no cache as cache or past_key"):
        as_cache(Other(), 1)


def test_the_installed_layers_and_models_take_a_cache(backbone: Backbone):
    for module in (backbone.module, backbone.module.get_decoder().layers[0]):
        assert len(as_cache(module, None)) == 1


@pytest.mark.parametrize("more", [((), {}), ((3,), {}), ((3, {"position": 1}), {}), ((3,), {"kwargs": {}, "x": 1})])
def test_a_stand_in_takes_all_that_a_version_says_of_keys_and_values(more: tuple[tuple, dict]):
    keys, values = torch.ones(1, 2, 3, 4), torch.zeros(1, 2, 3, 4)
    recorder = PrefixCache()
    assert recorder.update(keys, values, *more[0], **more[1]) == (keys, values) == recorder.memory
    longer, _ = QuestionCache((keys, values)).update(keys, values, *more[0], **more[1])
    assert longer.shape == (1, 2, 6, 4)
