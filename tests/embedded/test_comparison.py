"""The tables end to end on tiny random models: what runs, what runs again, what is printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from command import Run
from seglens.backbones import Backbone
from seglens.embedded import comparison as table
from seglens.embedded import comparison_rows as rows
from seglens.embedded import comparison_units as units
from seglens.embedded import paper_scores as published
from seglens.embedded.row_means import Finished, Mean
from seglens.methods import METHODS
from tiny import KINDS

SMALL = ("--steps", 2, "--images", 2, "--queries", 2, "--scenes", 1, "--seeds", 2)
UNITS = ["bare, seed 0", "reading, seed 0", "lens, seed 0", "lens, seed 1", "self1e, seed 0", "self1e, seed 1"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, sam: Path) -> Path:
    """Tiny frozen parts where the command expects them."""
    folder = tmp_path_factory.mktemp("weights")
    KINDS["internvl"].save(folder / "internvl")
    (folder / "sam").symlink_to(sam)
    return folder


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short answers, and few questions that are timed."""
    for name, few in {"TIMED": 1, "ASKED": 2, "LONGEST": 3}.items():
        monkeypatch.setattr(units, name, few)


@dataclass
class Worker:
    """Runs in this process, one after the other, what the command would run in separate processes."""

    ran: list[str] = field(default_factory=list)
    killed: str | None = None  # the unit at which everything ends

    def side_by_side(
        self,
        commands: Mapping[str, Sequence[str]],
        jobs: int,
        needs: Mapping[str, Collection[str]],
        finished: Callable[[str, float], None],
    ) -> None:
        for name, (module, arguments) in commands.items():
            assert module == "seglens.embedded.comparison"
            assert not set(needs.get(name, ())) & commands.keys() - set(self.ran)
            if name == self.killed:
                raise KeyboardInterrupt
            table.work(arguments)
            self.ran.append(name)
            finished(name, 0.0)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    """Two methods, one that leaves the MLLM frozen and one that tunes it."""
    worker = Worker()
    monkeypatch.setattr(table, "side_by_side", worker.side_by_side)
    monkeypatch.setattr(table, "TABLES", {"methods": ("lens", "self1e"), "self1e": ("self1e", "no un-shuffle")})
    quick(monkeypatch)
    return worker


@pytest.mark.slow
def test_a_table_of_two_methods(
    seglens: Run, weights: Path, tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("embedded", "table", "--only", "methods", "--weights", weights, "--out", tmp_path, *SMALL)
    code, out, _ = seglens(*command, "--show")
    assert (code, worker.ran) == (0, [])
    assert "| lens |" not in out

    worker.killed = "self1e, seed 1"
    assert seglens(*command)[0] == 130
    assert worker.ran == UNITS[:-1]
    _, out, _ = seglens(*command, "--show")
    assert [line.split(" | ")[1] for line in out.splitlines() if line.startswith(("| lens |", "| self1e ("))] == [
        "2",
        "1",
        "2",
        "1",
        "2",
        "1",
    ]

    worker.ran, worker.killed = [], None
    code, out, err = seglens(*command)
    assert (code, worker.ran) == (0, UNITS[-1:])
    assert err.endswith("6 of 6: self1e, seed 1, 0 s\n")
    assert (tmp_path / "table.md").read_text() == out
    assert "±" in out
    exam = json.loads((tmp_path / "table.json").read_text())["rows"]["lens"]["reports"][0]["exam"]
    assert f"| gIoU (n = {exam['with_target']['n']}) |" in out
    kind, row = next((kind, row) for kind, row in exam["by_kind"].items() if row)
    assert f"| {kind} (n = {row['n']}) |" in out
    assert "| self1e (not trained: vision tower's adapter, projector and vocabulary) | 2 |" in out
    assert not list(tmp_path.rglob("run"))

    seglens(*command)
    assert worker.ran == UNITS[-1:]  # nothing runs twice
    monkeypatch.setitem(rows.ROWS, "self1e", rows.ComparisonRow("self1e", {"bce_weight": 1.0}))
    seglens(*command)
    assert worker.ran == [*UNITS[-1:], *UNITS[-2:]]  # its rows alone
    _check_numbers(json.loads((tmp_path / "table.json").read_text()))


def _check_numbers(numbers: Mapping[str, Any]) -> None:
    lens, self1e = numbers["rows"]["lens"], numbers["rows"]["self1e"]
    assert numbers["as_before"] == [4, 4]
    assert [report["on"] for report in lens["reports"]] == [None, None]
    for row in (lens, self1e):
        one, two = row["reports"]
        assert one["training"]["terms"] != two["training"]["terms"]  # a seed each
        assert one["off"] == numbers["bare"]
        assert 0 < one["training"]["seconds"] < 600
        assert one["milliseconds"].keys() == {"first", "tenth"}
        scores = [report["exam"]["with_target"]["gIoU"] for report in row["reports"]]
        assert row["means"]["gIoU"]["mean"] == pytest.approx(sum(scores) / 2)
        assert row["means"]["gIoU"]["half"] == pytest.approx(12.706 * abs(scores[0] - scores[1]) / 2)
    assert numbers["reading"]["seconds"] > 0
    assert {"mean": float(self1e["reports"][0]["trainable"]), "half": 0.0, "n": 2} == self1e["means"]["trainable"]


def test_the_adapter_is_off_in_a_bare_model(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers "off" are generated after training, by a backbone without an adapter; a broken one is detected."""
    bench = units.Bench(rows.Plan(steps=1, images=1, queries=1, scenes=1), tmp_path, weights)
    quick(monkeypatch)
    fit, calls = units.fit, list[Any]()
    generate = Backbone.generate

    def train(head: Any, *args: Any, **options: Any) -> dict[str, float]:
        terms = fit(head, *args, **options)
        calls.append("trained")
        return terms

    def generate_and_note(self: Backbone, *args: Any) -> str:
        calls.append(self)
        return generate(self, *args)

    monkeypatch.setattr(units, "fit", train)
    monkeypatch.setattr(Backbone, "generate", generate_and_note)
    units.run_unit(bench, "bare", 0)
    bare = len(calls)
    units.run_unit(bench, "lisa", 0)
    assert calls[bare] == "trained"
    assert len(calls) == 2 * bare + 1  # as often as the bare model; with the adapter on, another answers
    assert not any("lora" in name for name, _ in calls[-1].module.named_parameters())
    assert bench.report("lisa")["off"] == bench.report("bare")
    standings = table._standings(bench, {"methods": ("lisa",)}, ["lisa"], 1)
    assert standings.as_before() == (1, 1)

    def broken(head: Any, *args: Any, **options: Any) -> dict[str, float]:
        terms = fit(head, *args, **options)
        with torch.no_grad():
            head.mllm.tuned.model.get_decoder().norm.weight.neg_()  # a weight that both share
        return terms

    monkeypatch.setattr(units, "fit", broken)
    units.run_unit(bench, "lisa", 0)
    assert table._standings(bench, {"methods": ("lisa",)}, ["lisa"], 1).as_before() == (0, 1)


def test_a_row_without_training_runs_once_and_has_a_budget_of_no_steps(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same exam and the same answers in words as the others, from the frozen parts alone."""
    quick(monkeypatch)
    worker = Worker()
    monkeypatch.setattr(table, "side_by_side", worker.side_by_side)
    monkeypatch.setattr(table, "TABLES", {"methods": ("localization",)})
    monkeypatch.setattr(units, "fit", lambda *_, **__: pytest.fail("nothing is to be trained"))
    plan = rows.Plan(steps=1, images=1, queries=1, scenes=1)
    standings = table.tabulate(tmp_path, weights, plan, seeds=3, jobs=1)
    assert worker.ran == ["bare, seed 0", "localization, seed 0"]
    report = standings.finished["localization"].reports[0]
    assert (report["training"], report["trainable"], report["on"]) == (None, 0, None)
    assert report["off"] == standings.bare
    assert standings.as_before() is None  # of trainings
    exam, text = report["exam"]["with_target"], standings.markdown()
    quality, _, costs = (line for line in text.splitlines() if line.startswith("| localization"))
    assert quality.startswith(f"| localization (0 steps: nothing is trained) | 1 | {exam['gIoU']:.3f} |")
    assert f"gIoU (n = {exam['n']})" in text
    assert costs.split(" | ")[2:5] == ["0", "–", "–"]  # parameters, seconds of training


@pytest.mark.slow
def test_units_run_in_separate_processes(
    seglens: Run, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "TABLES", {"mllmseg": ("without the raw patches",)})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = ("embedded", "table", "--only", "mllmseg", "--weights", weights, "--out", tmp_path, *SMALL)
    code, out, err = seglens(*command, "--seeds", 1, "--json")
    assert (code, err.splitlines()[-1][:40]) == (0, "1 of 1: without the raw patches, seed 0,")
    assert json.loads(out)["rows"]["without the raw patches"]["seeds"] == 1


def test_the_interval_is_that_of_student() -> None:
    assert Mean.of([0.5]) == Mean(0.5, None, 1)
    assert Mean.of([0.5]).shown(3) == "0.500"
    # mean 2, deviation 1, t(2 degrees of freedom) = 4.303: half is 4.303 / sqrt(3)
    three = Mean.of([1.0, 2.0, 3.0])
    assert (three.mean, three.half, three.n) == (2.0, pytest.approx(2.4843, abs=1e-4), 3)
    assert three.shown(1) == "2.0 ± 2.5"
    # five values with deviation sqrt(2.5), t(4) = 2.776
    assert Mean.of([1.0, 2.0, 3.0, 4.0, 5.0]).half == pytest.approx(1.9629, abs=1e-3)
    assert Mean.of([4.0, 4.0]).shown(0) == "4"  # no interval about what never differs


def test_rows_are_compared_seed_by_seed() -> None:
    """Two rows whose seeds differ much more than the rows do."""
    default = Finished("self1e", {0: _report(0.1), 1: _report(0.5), 2: _report(0.9)})
    other = Finished("self1e", {1: _report(0.4), 2: _report(0.8)})
    difference = other.beyond(default)
    assert difference is not None
    assert (difference.mean, difference.half, difference.n) == (pytest.approx(-0.1), pytest.approx(0.0, abs=1e-12), 2)
    assert other.beyond(Finished("self1e", {0: _report(0.1)})) is None


def _report(giou: float) -> dict[str, Any]:
    """Of one seed, with its gIoU alone."""
    exam = {
        "with_target": {"gIoU": giou},
        "by_kind": {},
        "by_size": {"small": None},
        "presence": {"absent_refused": None, "present_kept": None},
    }
    training = {"seconds": 1.0, "processor": 1.0, "peak": None}
    return {"exam": exam, "training": training, "trainable": 1, "milliseconds": {}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--only", "self1"),
            "there is no table 'self1'; choose from methods, mllmseg, self1e; did you mean 'self1e'?",
        ),
        (("--steps", 0), "the table got steps=0; it must be 1 or more"),
    ],
)
def test_a_wrong_option_is_an_error_of_one_line(
    seglens: Run, tmp_path: Path, options: Sequence[object], message: str
) -> None:
    code, out, err = seglens("embedded", "table", "--out", tmp_path / "out", "--weights", tmp_path, *options)
    assert (code, out) == (2, "")
    assert message in err
    code, _, err = seglens("embedded", "table", "--out", tmp_path / "out", "--weights", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "has no folder 'internvl'" in err
    assert not (tmp_path / "out").exists()


def test_every_row_can_be_built(weights: Path, tmp_path: Path) -> None:
    """Rows are in a table, change something, and fit the tiny model."""
    named = {name for names in table.TABLES.values() for name in names}
    assert named == set(rows.ROWS)
    assert set(published.SELF1E) == set(table.TABLES["self1e"])
    bench = units.Bench(rows.Plan(), tmp_path, weights)
    parts = bench.parts()
    for name, row in rows.ROWS.items():
        default = rows.ROWS[row.method].config()
        assert (row.config() == default) == (not row.changes), name
        decoder = parts.decoder if METHODS[row.method].needs_decoder else None
        head = units.build_method(row.config(), parts.backbone, decoder)
        assert any(p.requires_grad for p in head.parameters()) == rows.trained(name)
