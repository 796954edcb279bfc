"""Every benchmark runs, at a size whose times mean nothing, and prints what docs/benchmarks.md is made of."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
OWN = (
    "attacks",
    "batch",
    "clients",
    "crowds",
    "errands",
    "faults",
    "flips",
    "hostile",
    "kills",
    "large",
    "lisa",
    "loops",
    "lora",
    "measure",
    "memory",
    "models",
    "operations",
    "photograph",
    "questions",
    "quantised_cache",
    "served",
    "serving",
    "shortages",
    "threads",
    "training",
    "trials",
    "untrained",
    "wire",
)
HURRY = ["--size", "tiny", "--rounds", "1", "--json"]
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a script in this process, as a user runs it from the folder, and gives its report."""
    monkeypatch.syspath_prepend(FOLDER)
    for name in OWN:  # other tests have modules of such names too
        monkeypatch.delitem(sys.modules, name, raising=False)

    def report(script: str, *more: str) -> dict[str, Any]:
        importlib.import_module(script).main([*HURRY, *more])
        printed = json.loads(capsys.readouterr().out)
        assert printed["size"] == "tiny"
        assert {"device", "torch", "transformers"} <= printed["machine"].keys()
        for value in [*printed["rows"].values(), *(ratio["value"] for ratio in printed["ratios"])]:
            assert math.isfinite(value)
        return printed

    yield report
    for name in OWN:
        sys.modules.pop(name, None)


def aims(report: dict[str, Any]) -> list[float]:
    return [round(ratio["aim"], 3) for ratio in report["ratios"] if ratio["aim"] is not None]


@pytest.mark.slow
def test_untrained(run: Run) -> None:
    report = run("untrained")
    spent = report["rows"]
    lens, free = (spent[f"question n, {name}"] for name in ("LENS", "without a trained head"))
    assert report["ratios"][1]["value"] == pytest.approx(free / lens)


@pytest.mark.slow
def test_questions(run: Run) -> None:
    report = run("questions")
    assert aims(report) == [25, 25, 0.6]
    spent = report["rows"]
    whole, embedded, first = list(spent.values())[:3]
    assert whole > 0 < embedded
    in_turn = spent["first question, the encoders one after the other"]
    assert [ratio["value"] for ratio in report["ratios"][-2:]] == pytest.approx([first / whole, in_turn / whole])
    assert {f"of question n: {lap}" for lap in ("read", "head", "upsample")} < spent.keys()


@pytest.mark.slow
def test_questions_to_the_model_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: Run
) -> None:
    importlib.import_module("questions").main(["--model", "embedded", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert "size embedded" in printed
    assert re.search(r"\(aim: at least 25\): (NOT )?reached", printed)


@pytest.mark.slow
def test_clients(run: Run) -> None:
    report = run("clients", "--against", str(ROOT / "src"))
    assert aims(report) == [4, 0, 1.6]
    spent = report["rows"]
    assert spent["this version: requests"] == spent["the other version: requests"] == 6
    assert spent["this version: wrong or refused"] == 0
    speeds = [spent[f"{which}: requests per second"] for which in ("this version", "the other version")]
    assert report["ratios"][-1]["value"] == pytest.approx(speeds[0] / speeds[1])


@pytest.mark.slow
def test_batch(run: Run) -> None:
    report = run("batch", "--images", "3", "--folder", "5")
    assert aims(report) == [1.5, 2.7, 1.02]
    single, batched, folder, folder_batched, two = report["rows"].values()
    values = [ratio["value"] for ratio in report["ratios"]]
    assert values[:3] == pytest.approx([single / batched, 2 * single / two, folder / folder_batched])


@pytest.mark.slow
def test_threads(run: Run) -> None:
    report = run("threads")
    assert aims(report) == [2.2]
    chosen_idle, chosen_busy, own_idle, own_busy = report["rows"].values()
    values = [ratio["value"] for ratio in report["ratios"]]
    assert values == pytest.approx(
        [chosen_busy / chosen_idle, own_busy / own_idle, chosen_idle / own_idle, chosen_busy / own_busy]
    )


@pytest.mark.slow
def test_training(run: Run) -> None:
    report = run("training")
    assert aims(report) == [8]
    whole, live, cached = report["rows"].values()
    assert report["ratios"][0]["value"] == pytest.approx(cached / whole)
    assert report["ratios"][1]["value"] == pytest.approx(live / whole)


def test_all_layers_give_what_was_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run) -> None:
    """The yardstick of training computes real features: those of the cache, up to another rendering of the image."""
    import torch

    training, models = (importlib.import_module(name) for name in ("training", "models"))
    size = models.SIZES["tiny"]
    models.save(size, tmp_path, "cpu")
    parts = models.load(size, tmp_path, "cpu")
    data = training.Kept(tuple(training.WorldData(n=2, seed=3, split="train", queries=training.QUESTIONS)))
    cache = parts.cached(data, "world", tmp_path / "cache")
    whole, cached = training.WholeModel(parts, data, cache)(), training.Turns(cache)()
    for one, other in zip(whole, cached, strict=True):
        assert [a.rows.shape for a in one.questions] == [a.rows.shape for a in other.questions]
        torch.testing.assert_close(one.embedding.coarse, other.embedding.coarse)
        before = size.cells**2
        torch.testing.assert_close(one.prefix[:-before], other.prefix[:-before])  # words before the image
        apart = (one.prefix - other.prefix).norm() / other.prefix.norm()
        assert apart < 0.1, apart


@pytest.mark.slow
def test_large(run: Run) -> None:
    report = run("large")
    assert aims(report) == [2, 1, 1, 1]
    spent = report["rows"]
    assert {"1 click: seconds", "100 clicks: MB", "16 queries: seconds", "32 queries to a tool: MB"} < spent.keys()
    assert report["ratios"][2]["value"] == pytest.approx(spent["100 clicks: seconds"] / spent["1 click: seconds"])


def test_loops(run: Run) -> None:
    report = run("loops")
    assert len(report["ratios"]) == 3
    assert all(ratio["value"] > 0 for ratio in report["ratios"])
    assert len(report["notes"]) == 3  # the differences; above a bound the script stops


@pytest.mark.slow
def test_memory(run: Run) -> None:
    report = run("memory", "--no-check")
    assert aims(report) == [0.333] * 5
    peaks = {name: value for name, value in report["rows"].items() if not name.startswith("between")}
    assert len(peaks) == 7
    for name, peak in peaks.items():
        assert peak > report["rows"][f"between steps: {name}"] > 0
    assert peaks["LISA-style LoRA"] > peaks["LISA-style LoRA, gradient checkpointing"]
    assert peaks["LISA-style LoRA"] > peaks["LoRA without words"]
    assert any("not a measured GPU" in note for note in report["notes"])


def test_the_account_of_a_known_step(run: Run) -> None:
    """Weights, gradients, two moments, and nothing twice."""
    import torch
    from torch._subclasses import FakeTensorMode

    memory = importlib.import_module("memory")
    layer, account = torch.nn.Linear(1024, 1024, bias=False, device="meta"), None
    with FakeTensorMode():
        memory.pretend(layer)
        account = memory.Account()
        account.hold(layer.weight)
        weight = 4 * 1024 * 1024
        assert account.now == weight
        with account:
            stepper = memory.optimiser(layer, fused=True)
            rows = torch.randn(1, 1024)
            layer(rows).sum().backward()
            stepper.step()
            stepper.zero_grad()
            assert weight * 3 <= account.now < weight * 3.01  # the weight and two moments
            assert weight * 4 <= account.peak < weight * 4.01  # and the gradient


@pytest.mark.slow
def test_operations(run: Run) -> None:
    report = run("operations")
    parts = report["rows"]
    assert parts["SAM's mask decoder"] < parts["SAM's image encoder"]
    assert parts["layers that are read, image"] < parts["all layers, image and question"]


@pytest.mark.slow
def test_operations_are_those_of_the_shapes(run: Run) -> None:
    """A written token: two for every weight of the layers, and attention to itself alone."""
    operations, models = (importlib.import_module(name) for name in ("operations", "models"))
    size = models.SIZES["tiny"]
    weights = size.layers * (4 * size.width**2 + 3 * size.width * size.feed_forward)
    assert 1e12 * operations.counted(size)["all layers, a written token"] == pytest.approx(2 * weights, rel=0.01)


@pytest.mark.slow
def test_photograph(run: Run) -> None:
    """Half precision halves the weights, and every peak holds its weights."""
    rows = run("photograph")["rows"]
    assert rows["GB: MLLM in bf16, weights"] < 0.6 * rows["GB: MLLM in fp32, weights"]
    parts = [name.removesuffix(", peak") for name in rows if name.endswith(", peak")]
    assert len(parts) == 3
    assert all(rows[f"{part}, weights"] < rows[f"{part}, peak"] for part in parts)
    # facebook/sam2.1-hiera-large has 224 M parameters, of which 8 M are its memory for videos
    assert rows["GB: SAM 2.1 L in fp32, weights"] == pytest.approx(4 * 0.217, rel=0.01)


@pytest.mark.slow
def test_quantised_cache(run: Run) -> None:
    report = run("quantised_cache")
    assert aims(report) == [0.3, 0.3]
    assert all(0 < score <= 100 for score in report["rows"].values())
    rows = report["rows"]
    assert rows["the package's head, auto features"] == pytest.approx(rows["the package's head, int8 features"], abs=1)


@pytest.mark.slow
def test_serving(run: Run) -> None:
    report = run("serving")
    assert aims(report) == [3, 3, 0.25]
    spent = report["rows"]
    one, _, packed = (value for name, value in spent.items() if name.startswith("4 questions"))
    assert report["ratios"][1]["value"] == pytest.approx(one / packed)
    assert spent["upload, open: median"] < spent["first question: upload, open, ask: median"]


@pytest.mark.slow
def test_a_crowd_of_which_a_part_is_hostile(capsys: pytest.CaptureFixture[str], run: Run) -> None:
    """Every kind of attack, and good requests beside: none wrong, none lost, no attack answered otherwise than it
    should be. The whole crowd is `python benchmarks/hostile.py`."""
    hostile, attacks = (importlib.import_module(name) for name in ("hostile", "attacks"))
    small = {"--clients": 16, "--requests": 160, "--hostile": 0.25, "--patience": 1.5, "--images-bytes": 32 * 2**20}
    hostile.main([*(str(word) for pair in small.items() for word in pair), "--threads", "1", "--json"])
    tally = json.loads(capsys.readouterr().out)
    assert tally["wrong"] == tally["lost"] == tally["surprises"] == []
    assert tally["attacked"].keys() == attacks.ATTACKS.keys()
    assert tally["good"] == 120
    assert tally["memory"]


def test_the_crowd_notices(run: Run) -> None:
    """A wrong mask, and an answer that is none."""
    import numpy as np

    from seglens.data.masks import encode_rle

    errands, wire = (importlib.import_module(name) for name in ("errands", "wire"))
    mask = np.zeros((20, 20), bool)
    mask[5:9] = True
    errand = errands.Errand(b"", ("the cup",), (mask,), (True,), None, mask, "4")
    answer = {"found": True, "segmentation": encode_rle(mask)}
    others = [{**answer, "found": False}, {**answer, "segmentation": encode_rle(mask.T)}]
    replies = [wire.Reply(200, json.dumps({"answers": [one]}).encode()) for one in (answer, *others)]
    assert [errand.right(one, [0]).right for one in replies] == [True, False, False]
    assert not errand.right(wire.Reply(503), [0]).right
    assert not errand.right(replies[0], [0, 0]).right


def test_a_ratio_reports_whether_its_aim_is_reached(run: Run) -> None:
    ratio = importlib.import_module("measure").Ratio
    assert [ratio("a", value, 8).reached for value in (7.9, 8.0)] == [False, True]
    assert [ratio("a", value, 0.6, most=True).reached for value in (0.6, 0.61)] == [True, False]
    assert ratio("a", 1.0).reached is None
    assert ratio("a", 7.9, 8).line() == "a: 7.9 (aim: at least 8): NOT reached"


def test_every_script_is_in_the_docs() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    scripts = {path.stem for path in FOLDER.glob("*.py") if "__main__" in path.read_text()}
    assert {script for script in scripts if f"benchmarks/{script}.py" not in page} <= {"cache"}


@pytest.mark.skipif(sys.platform != "linux", reason="limits and locks are Linux's")
@pytest.mark.slow  # a minute: each trial is a separate command
def test_a_trial_of_faults() -> None:
    """One fault of every kind that is cheap holds. All of them: `python benchmarks/faults.py`."""
    words = [sys.executable, FOLDER / "faults.py", "--size", "tiny", "--json", "--seed", "1"]
    kinds = ["kills", "flips", "disks", "pairs", "memory"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([*words, "--only", *kinds], capture_output=True, text=True, env=environment)
    report = json.loads(done.stdout)
    native = "little memory: train"  # torch's own backward pass may end a process that gets no memory
    assert [one for one in report["failed"] if one["kind"] != native] == [], done.stderr
    counts = report["kinds"]
    assert {"SIGKILL during train", "two runs of train in one folder", native} < counts.keys()
    assert all(count["tried"] > 0 for count in counts.values())


def test_a_fault_that_is_not_handled_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: Run
) -> None:
    faults, trials = (importlib.import_module(name) for name in ("faults", "trials"))
    trials_of_kind = [trials.Trial("a kind", "one", True), trials.Trial("a kind", "two", False, "why")]
    monkeypatch.setattr(faults, "ready", lambda: None)
    monkeypatch.setattr(faults, "KINDS", {"kills": lambda *_: iter(trials_of_kind)})
    with pytest.raises(SystemExit) as left:
        faults.main(["--only", "kills"])
    printed = capsys.readouterr()
    assert left.value.code == 1
    assert "a kind: 2 tried, 1 held" in printed.out
    assert "did not hold: a kind: two: why" in printed.err
