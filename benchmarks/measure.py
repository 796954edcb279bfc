"""Timing, machines and tables: what all benchmarks share."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

Work = Callable[[], object]


@dataclass(frozen=True)
class Ratio:
    """A measured ratio and the aim to compare it with; without an aim it is only reported."""

    name: str
    value: float
    aim: float | None = None
    most: bool = False  # the aim is an upper bound

    @property
    def reached(self) -> bool | None:
        if self.aim is None:
            return None
        return self.value <= self.aim if self.most else self.value >= self.aim

    def line(self) -> str:
        text = f"{self.name}: {self.value:.3g}"
        if self.aim is None:
            return text
        bound = "at most" if self.most else "at least"
        return f"{text} (aim: {bound} {self.aim:g}): {'reached' if self.reached else 'NOT reached'}"


@dataclass(frozen=True)
class Report:
    """The results of a benchmark: rows of numbers in named units, ratios, and the notes that belong to them."""

    what: str
    size: str
    unit: str
    rows: Mapping[str, float]
    ratios: Sequence[Ratio]
    notes: Sequence[str] = ()
    machine: Mapping[str, Any] = field(default_factory=lambda: {})

    def show(self, as_json: bool) -> None:
        if as_json:
            ratios = [{**vars(ratio), "reached": ratio.reached} for ratio in self.ratios]
            print(json.dumps({**vars(self), "ratios": ratios}, indent=1))
            return
        print(f"{self.what}, size {self.size}; " + ", ".join(f"{k} {v}" for k, v in self.machine.items()))
        width = max(map(len, self.rows), default=0) + 2
        for name, value in self.rows.items():
            print(f"  {name:<{width}}{value:12.4g} {self.unit}")
        for note in self.notes:
            print(f"  {note}")
        for ratio in self.ratios:
            print(ratio.line())


def options(what: str, sizes: Sequence[str] = ("small", "tiny", "7b"), rounds: int = 5) -> argparse.ArgumentParser:
    """The command line that every benchmark has; the first size is the default."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--size", choices=sizes, default=sizes[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--rounds", type=int, default=rounds, help="medians are taken over")
    parser.add_argument("--json", action="store_true")
    return parser


def machine(device: torch.device | str, threads: int) -> dict[str, Any]:
    """Where the numbers come from."""
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    if torch.device(device).type == "cuda":
        return {"device": torch.cuda.get_device_name(device), **versions}
    return {"device": _processor(), "threads": threads, **versions}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
    return names[0] if info.is_file() and names else platform.processor() or platform.machine()


def synchronise(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Work, device: torch.device | str, times: int = 1, wall: bool = False) -> float:
    """Of one call, when `times` are made in a row. On a single thread of a CPU these are seconds of computing, so that
    what others do on the same cores does not count; elsewhere, or when asked for, they are of the `wall`."""
    alone = torch.device(device).type == "cpu" and torch.get_num_threads() == 1 and not wall
    clock = time.process_time if alone else time.perf_counter
    synchronise(device)
    began = clock()
    for _ in range(times):
        work()
    synchronise(device)
    return (clock() - began) / times


def medians(
    flows: Mapping[str, Work],
    device: torch.device | str,
    rounds: int,
    least: float = 0.3,
    long: float = 5.0,
    wall: bool = False,
) -> dict[str, float]:
    """Median seconds of each flow. All run in turn in every round, so that what else the machine does hits all of
    them. A quick one runs for `least` seconds of a round. The first call of each warms up and does not count, unless it
    takes `long`: then a first call is no slower than others."""
    spent = {name: list[float]() for name in flows}
    times = dict.fromkeys(flows, 1)
    for number in range(rounds + 1):
        for name, work in flows.items():
            if len(spent[name]) == rounds:
                continue
            duration = seconds(work, device, times[name], wall)
            if number or duration >= long:
                spent[name].append(duration)
            times[name] = max(1, min(50, round(least / duration)))
    return {name: statistics.median(duration) for name, duration in spent.items()}
