"""The recipe from nothing to a segmenter that loads, two steps a stage: its connections, not its quality."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from seglens import Segmenter
from seglens.data.world import WorldData
from seglens.embedded import ablations, build, head_stages
from seglens.embedded import chat_stage as chat_stage
from seglens.embedded import familiarity_stage as familiar
from seglens.embedded import language_stages as stages
from seglens.embedded import sam_stage as sam_stage
from seglens.embedded import vision_stage as vision
from seglens.embedded.stage import Budget
from seglens.world.world import World

pytestmark = pytest.mark.slow


def nothing() -> dict[str, float]:
    return {}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps a stage and no evaluation."""
    budgets = {name: replace(budget, steps=2, batch=2, warmup=1) for name, budget in build.BUDGETS.items()}
    monkeypatch.setattr(build, "BUDGETS", budgets)
    monkeypatch.setattr(head_stages, "HEAD_DATA", WorldData(n=4, seed=6, split="train", queries=3))
    monkeypatch.setattr(
        head_stages, "HEAD_TRAINING", replace(head_stages.HEAD_TRAINING, steps=2, images=2, save_every=1)
    )
    monkeypatch.setattr(
        head_stages, "TUNED", {name: replace(budget, steps=2, images=2) for name, budget in head_stages.TUNED.items()}
    )
    for name in ("SCENES", "ODD", "HELD_OUT", "STEPS"):
        monkeypatch.setattr(familiar, name, 4)
    monkeypatch.setattr(vision, "evaluator", lambda *_: nothing)
    monkeypatch.setattr(sam_stage, "evaluator", lambda *_: nothing)
    monkeypatch.setattr(chat_stage, "evaluator", lambda *_: nothing)
    monkeypatch.setattr(stages.Learner, "evaluator", lambda *_: nothing)


def test_every_stage_leads_to_a_segmenter(short: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, weights = tmp_path / "out", tmp_path / "weights"
    for stage in build.NEEDS:
        build.build(out, weights, [stage])
    size = sum(f.stat().st_size for f in weights.rglob("*") if f.is_file())
    assert size < 25e6, f"the embedded models weigh {size / 1e6:.2f} MB, the limit is 25"
    scene = World("test", 3).scene(0)
    for head in ("lens", *head_stages.TUNED):
        prediction = Segmenter.from_pretrained(weights / head).segment(scene.image, "the largest thing")
        assert prediction.mask.shape == scene.ids.shape
        assert np.isfinite(prediction.mask_logits).all()
    # the same parts serve the ablations
    monkeypatch.setattr(ablations, "HEAD_TRAINING", head_stages.HEAD_TRAINING)
    monkeypatch.setattr(ablations, "DATA", head_stages.HEAD_DATA)
    monkeypatch.setattr(ablations, "EXAM", WorldData(n=6, seed=21))
    monkeypatch.setattr(ablations, "ROWS", {name: ablations.ROWS[name] for name in ("default", "authors")})
    for name in ablations.ROWS:
        ablations.run_row(name, out, weights, steps=2)
    table = ablations.ablate(out, weights, steps=2)  # all rows are there: nothing runs
    assert [line.split(" |")[0] for line in table.splitlines()[4:]] == [
        "| default",
        "| keypoints removed at test",
        "| global removed at test",
        "| authors",
    ]


def test_a_stage_is_refused_while_one_before_it_is_unfinished(
    short: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"run the stage 'vision' first"):
        build.build(tmp_path, tmp_path / "weights", ["alignment"])
    build.build(tmp_path, tmp_path / "weights", ["vision"])
    saved = torch.load(tmp_path / "vision.ckpt", weights_only=True)
    torch.save({**saved, "step": 1}, tmp_path / "vision.ckpt")
    with pytest.raises(ValueError, match=r"stopped at step 1 of 2"):
        build.build(tmp_path, tmp_path / "weights", ["alignment"])


def test_an_unknown_stage_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no stage 'visoin'; choose from vision"):
        build.build(tmp_path, tmp_path, ["visoin"])


def test_the_rate_warms_up_holds_and_falls() -> None:
    budget = Budget(steps=1000, batch=1, lr=1.0, warmup=100, hold=0.5)
    rates = [budget.rate(step) for step in (0, 99, 400, 750, 999)]
    assert rates[0] == pytest.approx(0.0101)
    assert rates[1] == rates[2] == pytest.approx(1.01)
    assert rates[3] == pytest.approx(0.51)
    assert rates[4] < 0.02
