"""Samples that other processes decode are those that this one would, in order, with their faults and errors."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data.lisa_files import stripes, write_ade20k
from seglens.data.records import Bad, Records
from seglens.data.sampling import DrawnSample, Mixed, Mixture, SamplingSource
from seglens.data.semantic import ade20k
from seglens.training import sample_readers
from seglens.training.checkpoint import RunError
from seglens.training.sample_readers import draws_ahead, usual_readers


@pytest.fixture
def mixed(tmp_path: Path) -> Callable[[Bad], Mixed]:
    """Three pictures, one of them with a label that no class has."""
    write_ade20k(tmp_path, a=stripes(1, 2), b=stripes(3), c=stripes(1, 200))

    def build(bad: Bad) -> Mixed:
        data = Records("d", ade20k(tmp_path).entries, trainable=True, bad=bad)
        return Mixed([data], Mixture((SamplingSource("sem_seg", 3, data.count),), {"sem_seg": 1}, seed=5), "lens")

    return build


def same(one: DrawnSample, other: DrawnSample) -> bool:
    assert one.sample is not None
    assert other.sample is not None
    texts = [[(target.query, target.mask.tobytes()) for target in each.sample.targets] for each in (one, other)]  # type: ignore[union-attr]
    pixels = one.sample.image.tobytes() == other.sample.image.tobytes()
    return pixels and texts[0] == texts[1] and (one.number, one.tried) == (other.number, other.tried)


@pytest.mark.parametrize("readers", [1, 2])
def test_draws_come_in_order_whatever_the_number_of_processes(mixed: Callable[[Bad], Mixed], readers: int) -> None:
    """From any place on, as after a resumed run; what is bad is counted here, once."""
    data = mixed("skip")
    here = [data.draw(number) for number in range(4, 16)]
    ahead = list(draws_ahead(data, iter(range(4, 16)), readers))
    assert len(ahead) == 12
    assert all(map(same, here, ahead))
    assert not data.datasets[0].faults
    for one in ahead:
        data.noted(one)
    (fault,) = data.datasets[0].faults
    assert "holds the label 200" in fault.message


def test_an_error_of_another_process_is_raised_as_here(mixed: Callable[[Bad], Mixed]) -> None:
    data = mixed("refuse")

    def fail(number: int) -> DrawnSample:
        raise ValueError(f"draw {number} is not to be had")

    data.draw = fail  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"^draw 7 is not to be had$"):
        list(draws_ahead(data, [7], 1))


def test_a_process_that_is_killed_ends_the_training_in_a_sentence(mixed: Callable[[Bad], Mixed]) -> None:
    data = mixed("skip")

    def die(number: int) -> DrawnSample:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    data.draw = die  # type: ignore[method-assign]
    with pytest.raises(RunError, match=r"^a process that reads the data ended .* by --readers 0$"):
        list(draws_ahead(data, range(8), 1))


def test_small_machines_read_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """On larger ones each training process leaves a core for itself."""
    monkeypatch.setattr(torch.multiprocessing, "get_start_method", lambda *_: "fork")
    for cores, processes, count in ((2, 1, 0), (4, 1, 3), (64, 1, 8), (64, 8, 7), (8, 4, 0)):
        monkeypatch.setattr(sample_readers, "usable_cores", lambda cores=cores: cores)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert usual_readers() == count
    monkeypatch.setattr(torch.multiprocessing, "get_start_method", lambda *_: "spawn")
    assert usual_readers() == 0
