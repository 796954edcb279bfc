"""A stage of the recipe resumes exactly, and its checkpoint is whole or not there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from seglens.embedded import stage as module
from seglens.embedded.stage import Budget, Stage, scene_numbers

BUDGET = Budget(steps=6, batch=4, lr=0.02, warmup=2)


class KilledError(Exception):
    pass


def _stage(out: Path) -> Stage:
    torch.manual_seed(0)
    body, head = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7)), nn.ModuleDict({"readout": nn.Linear(7, 3)})
    return Stage("toy", {"body": body, "head": head}, BUDGET, out, gains={"body": 0.5})


def _train(stage: Stage, until: int = 99) -> None:
    def terms_of(step: int) -> Mapping[str, Tensor]:
        if step == until:
            raise KilledError
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        y = stage.modules["head"]["readout"](stage.modules["body"](x))  # type: ignore[index]
        return {"square": y.square().mean(), "linear": 0.1 * y.sum()}

    stage.run(terms_of, lambda: {"score": 1.0}, evaluate_every=2)


def _state(stage: Stage) -> list[Tensor]:
    moments = [v for o in stage.optimisers for s in o.state_dict()["state"].values() for v in s.values()]
    return [*stage.modules.state_dict().values(), *(v for v in moments if isinstance(v, Tensor))]


def test_a_killed_stage_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _stage(tmp_path / "whole")
    start = [v.clone() for v in _state(whole)]
    assert len(whole.optimisers) == 2
    assert not whole.resume()
    _train(whole)

    monkeypatch.setattr(module, "SAVE_EVERY", -1.0)  # after every step
    killed = _stage(tmp_path / "killed")
    with pytest.raises(KilledError):
        _train(killed, until=3)
    again = _stage(tmp_path / "killed")
    with torch.no_grad():
        for parameter in again.modules.parameters():
            parameter.fill_(9.0)  # what it starts from must not matter
    assert again.resume()
    assert again.step == 3
    _train(again)

    assert again.done
    assert len(_state(again)) > len(start)  # both optimisers hold moments
    assert all(torch.equal(a, b) for a, b in zip(_state(whole), _state(again), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(start, _state(whole), strict=False))


def test_a_finished_stage_does_nothing_more(tmp_path: Path) -> None:
    first = _stage(tmp_path)
    _train(first)
    again = _stage(tmp_path)
    assert again.resume()
    _train(again, until=6)
    assert torch.equal(_state(first)[0], _state(again)[0])


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = _stage(tmp_path)
    stage.save()
    before = stage.checkpoint.read_bytes()

    def full(_: int) -> None:
        raise OSError("disk full")

    stage.step = 4
    with monkeypatch.context() as patch:
        patch.setattr("seglens.core.files.os.fsync", full)
        with pytest.raises(OSError, match="disk full"):
            stage.save()
    assert stage.checkpoint.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["toy.ckpt"]
    stage.save()
    assert stage.resume()
    assert stage.step == 4


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    first = _stage(tmp_path)
    first.save()
    network = Stage("toy", {"body": nn.Linear(5, 7)}, BUDGET, tmp_path)
    budget = Stage("toy", dict(_stage(tmp_path).modules.items()), replace(BUDGET, lr=2 * BUDGET.lr), tmp_path)
    changed = _stage(tmp_path)
    with torch.no_grad():
        next(changed.modules.parameters()).add_(1)
    ground = Stage("toy", dict(changed.modules.items()), BUDGET, tmp_path)
    for other in (network, budget, ground):
        with pytest.raises(ValueError, match="another budget or from other weights"):
            other.resume()
    assert _stage(tmp_path).resume()


def test_only_hidden_matrices_are_orthogonalised(tmp_path: Path) -> None:
    adam, muon = _stage(tmp_path).optimisers
    assert [tuple(p.shape) for group in muon.param_groups for p in group["params"]] == [(7, 5)]
    assert sum(len(group["params"]) for group in adam.param_groups) == 5
    assert [group["gain"] for group in adam.param_groups] == [0.5, 0.5, 0.5, 1.0, 1.0]


def test_the_rate_warms_up_holds_and_falls() -> None:
    budget = Budget(steps=100, batch=1, lr=1.0, warmup=10)
    rates = [budget.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.101)
    assert rates[9:35] == pytest.approx([1.01] * 26)
    assert all(a > b for a, b in pairwise(rates[35:]))
    assert rates[-1] < 0.02


def test_steps_share_no_scene() -> None:
    indices = [index for step in range(5) for index in scene_numbers(step, 3)]
    assert indices == list(range(15))
