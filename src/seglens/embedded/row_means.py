"""The numbers of one row of a table: means over seeds with their intervals."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom; beyond them the last, which is too wide
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
MB = 1e6


@dataclass(frozen=True)
class Mean:
    """Of `n` values; `half` is half the width of the 95 % interval of Student's t, None of a single value."""

    mean: float
    half: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        if len(values) < 2:
            return cls(values[0], None, 1)
        quantile = STUDENT[min(len(values) - 1, len(STUDENT)) - 1]
        return cls(statistics.mean(values), quantile * statistics.stdev(values) / len(values) ** 0.5, len(values))

    def shown(self, digits: int) -> str:
        half = "" if not self.half else f" ± {self.half:.{digits}f}"
        return f"{self.mean:,.{digits}f}{half}"


@dataclass(frozen=True)
class Finished:
    """The reports of one row, by seed."""

    method: str
    reports: Mapping[int, Mapping[str, Any]]

    def means(self) -> dict[str, Mean]:
        """By the name of each number that all seeds have."""
        each = [_numbers(report) for report in self.reports.values()]
        shared = [name for name in each[0] if all(one.get(name) is not None for one in each)]
        return {name: Mean.of([float(one[name]) for one in each]) for name in shared}

    def beyond(self, other: Finished) -> Mean | None:
        """By how much its gIoU is above another row's, seed by seed: the same examples in the same order, so that the
        effect of a seed on both is not counted. None when they share no seed."""
        pairs = [(self.reports[seed], other.reports[seed]) for seed in self.reports.keys() & other.reports.keys()]
        above = [_numbers(mine)["gIoU"] - _numbers(its)["gIoU"] for mine, its in pairs]
        return Mean.of(above) if above else None


def _numbers(report: Mapping[str, Any]) -> dict[str, Any]:
    exam, training = report["exam"], report["training"] or dict.fromkeys(("seconds", "processor", "peak"))
    whole, kinds = exam["with_target"] or {}, {**exam["by_kind"], "small": exam["by_size"]["small"]}
    return {
        **{name: whole.get(name) for name in ("gIoU", "cIoU")},
        **{f"gIoU {kind}": None if row is None else row["gIoU"] for kind, row in kinds.items()},
        "absent refused": exam["presence"]["absent_refused"],
        "present kept": exam["presence"]["present_kept"],
        **{f"VQA {side}": (report.get(side) or {}).get("accuracy") for side in ("off", "on")},
        "trainable": report["trainable"],
        "training s": training["seconds"],
        "processor s": training["processor"],
        "peak MB": None if training["peak"] is None else training["peak"] / MB,
        **{f"{turn} ms": time for turn, time in report["milliseconds"].items()},
    }
