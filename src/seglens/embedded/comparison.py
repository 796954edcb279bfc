"""All methods side by side: one backbone (the embedded InternVL), one data (the drawn world), one protocol and one
budget; and the ablations of SELF1E and MLLMSeg by the same rules."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

import torch

from seglens.backbones import hide_loading_bars
from seglens.core.files import write_atomic, write_json
from seglens.core.names import check_name
from seglens.embedded.comparison_rows import ROWS, TABLES, Plan, seeds_of, trained
from seglens.embedded.comparison_units import BARE, MLLM, READING, SAM, Bench, run_unit
from seglens.embedded.row_means import Finished
from seglens.embedded.subprocess_jobs import StageError, side_by_side
from seglens.embedded.table_report import Standings
from seglens.methods import METHODS


def tabulate(
    out: Path,
    weights: Path | None = None,
    plan: Plan | None = None,
    seeds: int = 3,
    jobs: int = 2,
    only: str | None = None,
    show: bool = False,
) -> Standings:
    """Run every unit that has no report yet, `jobs` side by side, unless `show`; then the tables from what is finished,
    also as `table.md` and `table.json` in `out`.

    Raises ValueError when `only` names no table or the weights are not there, StageError when a unit fails."""
    tables = dict(TABLES)
    if only is not None:
        check_name(only, TABLES, "table")
        tables = {only: TABLES[only]}
    bench = Bench(plan or Plan(), out, weights or Path(str(files("seglens"))) / "weights")
    for part in (MLLM, SAM):
        if not (bench.weights / part).is_dir():
            raise ValueError(f"{bench.weights} has no folder {part!r}; give --weights a folder with {MLLM} and {SAM}")
    rows = list(dict.fromkeys(name for names in tables.values() for name in names))
    if not show:
        _run_all(bench, rows, seeds, jobs)
    standings = _standings(bench, tables, rows, seeds)
    if standings.finished:
        write_atomic(out / "table.md", (standings.markdown() + "\n").encode())
        write_json(out / "table.json", standings.to_dict())
    return standings


def _run_all(bench: Bench, rows: list[str], seeds: int, jobs: int) -> None:
    units = [(BARE, 0)] if any(name in METHODS for name in rows) else []
    frozen = {name for name in rows if trained(name) and not METHODS[ROWS[name].method].tuned}
    units += [(READING, 0)] if frozen else []
    units += [(name, seed) for name in rows for seed in seeds_of(name, seeds)]
    waiting = [unit for unit in units if bench.report(*unit) is None]
    label = "{0[0]}, seed {0[1]}".format
    done = len(units) - len(waiting)

    def command(name: str, seed: int) -> tuple[str, str]:
        unit = {"name": name, "seed": seed, "out": str(bench.out), "weights": str(bench.weights)}
        return "seglens.embedded.comparison", json.dumps({**unit, "plan": asdict(bench.plan)})

    def finished(name: str, seconds: float) -> None:
        nonlocal done
        done += 1
        print(f"{done} of {len(units)}: {name}, {seconds:.0f} s", file=sys.stderr, flush=True)

    needs = {label(unit): {label((READING, 0))} for unit in waiting if unit[0] in frozen}
    side_by_side({label(unit): command(*unit) for unit in waiting}, jobs, needs, finished)
    missing = [label(unit) for unit in waiting if bench.report(*unit) is None]
    if missing:
        raise StageError(f"the weights changed while {missing[0]} was run; the same command runs it again")


def _standings(bench: Bench, tables: Mapping[str, tuple[str, ...]], rows: list[str], seeds: int) -> Standings:
    reports = {name: {seed: bench.report(name, seed) for seed in seeds_of(name, seeds)} for name in rows}
    finished = {name: {s: report for s, report in by.items() if report is not None} for name, by in reports.items()}
    return Standings(
        tables=tables,
        seeds=seeds,
        plan=asdict(bench.plan),
        finished={name: Finished(ROWS[name].method, own) for name, own in finished.items() if own},
        bare=bench.report(BARE),
        reading=bench.report(READING),
    )


def work(text: str) -> None:
    """Run one unit of `tabulate`, given as JSON."""
    unit = json.loads(text)
    bench = Bench(Plan(**unit["plan"]), Path(unit["out"]), Path(unit["weights"]))
    run_unit(bench, unit["name"], unit["seed"])


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    hide_loading_bars()
    work(sys.argv[1])
