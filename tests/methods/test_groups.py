"""Parameters in groups: which rate is whose, and what weight decay leaves alone, by names written out here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from seglens.backbones import load_backbone
from seglens.methods import build_method, mllmseg, self1e
from seglens.methods.base import Method
from seglens.methods.groups import groups
from seglens.training.presets import recipe
from tiny import KINDS

LAYER = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


@pytest.fixture(scope="module")
def internvl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    KINDS["internvl"].save(folder := tmp_path_factory.mktemp("kinds") / "internvl")
    return folder


def built(config: Any, internvl: Path) -> Method:
    return build_method(config, load_backbone(internvl), None)


def split(method: Method, *rule: Any) -> dict[tuple[float, float], set[str]]:
    """Names by rate and decay; every trained parameter once."""
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    by_rates = groups(method, *rule)
    everything = [id(parameter) for group in by_rates for parameter in group.parameters]
    assert sorted(everything) == sorted(id(p) for p in method.parameters() if p.requires_grad)
    return {(g.lr, g.weight_decay): {names[id(p)] for p in g.parameters} for g in by_rates}


def test_self1e_8b_learns_at_two_rates(internvl: Path) -> None:
    """6e-5 for what its code names language_model (updates of its layers, both ends of its vocabulary), 1e-4 for the
    vision tower's updates, the projector and the MLPs; nothing decays."""
    training = recipe("authors-8b", "self1e").training
    rule = (training.lr, training.language_lr, training.weight_decay, training.decay)
    config = replace(self1e.PRESETS["authors-8b"].config, rank=2)
    by_rates = split(built(config, internvl), *rule)
    assert set(by_rates) == {(6e-5, 0.0), (1e-4, 0.0)}
    layers = {name.split(".")[2] for name in by_rates[6e-5, 0.0] if name.startswith("adapter.language.")}
    updates = {f"adapter.language.{n}.{part}.{side}" for n in layers for part in LAYER for side in "AB"}
    ends = {"adapter.words.new_input", "adapter.words.new_output", "adapter.words.input", "adapter.words.output"}
    assert by_rates[6e-5, 0.0] == updates | ends & by_rates[6e-5, 0.0]
    assert {"adapter.words.new_input", "adapter.words.new_output", "adapter.words.input"} <= by_rates[6e-5, 0.0]
    assert {name.split(".")[0] + "." + name.split(".")[1] for name in by_rates[1e-4, 0.0]} == {
        "adapter.vision",
        "adapter.projector",
        "amplifiers.image",
        "amplifiers.given",
        "combine.first",
        "combine.second",
    }


def test_one_rate_is_one_group(internvl: Path) -> None:
    for name in ("authors", "paper"):
        training = recipe(name, "self1e").training
        assert (training.lr, training.language_lr, training.weight_decay) == (1e-4, None, 0.0)
    method = built(replace(self1e.PRESETS["authors"].config, rank=2), internvl)
    assert set(split(method, 1e-4, None, 0.0, "all")) == {(1e-4, 0.0)}


def test_mllmseg_decays_neither_biases_nor_norms(internvl: Path) -> None:
    """As the Trainer of transformers 4.37 has it: by the class LayerNorm (and RMSNorm), so that the weights of the
    batch norm do decay."""
    training = recipe("authors", "mllmseg").training
    assert (training.lr, training.weight_decay, training.decay) == (4e-5, 0.05, "weights")
    assert recipe("paper", "mllmseg").training.decay == "all"
    small = {"width": 16, "heads": 2, "feed_forward": 16, "subpixels": 2, "rank": 2}
    method = built(replace(mllmseg.PRESETS["authors"].config, **small), internvl)
    by_rates = split(method, training.lr, None, training.weight_decay, training.decay)
    assert set(by_rates) == {(4e-5, 0.05), (4e-5, 0.0)}
    free = {name for name, _ in method.named_parameters() if name.endswith("bias")}
    free |= {f"decoder.{block}.norms.{n}.weight" for block in ("fuse.enhance", "condition") for n in range(4)}
    free |= {"adapter.norm.weight"}
    assert by_rates[4e-5, 0.0] == free
    assert {"decoder.head.norm.weight", "adapter.words.new_input", "decoder.condition.own.in_proj_weight"} <= by_rates[
        4e-5, 0.05
    ]
    assert "decoder.condition.own.in_proj_bias" in free


def test_a_rate_for_a_language_model_that_is_not_trained() -> None:
    with pytest.raises(ValueError, match="language_lr=6e-05, and this method trains nothing inside the language model"):
        groups(nn.Linear(2, 2), 1e-4, 6e-5, 0.0, "all")
