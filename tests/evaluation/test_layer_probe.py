"""Which layer to read: the pointing game on maps made by hand, on tiny models, and on the embedded one."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from command import Run
from seglens.backbones import AttentionReader, Backbone, load_backbone
from seglens.core.types import Sample, Target
from seglens.data.world import WorldData
from seglens.evaluation.layer_probe import Curve, LayerScore, _standard_error, _tally, probe
from tiny import KINDS

WEIGHTS = Path(__file__).parents[2] / "src" / "seglens" / "weights"


# ---------------------------------------------------------------- one image


def half() -> tuple[Sample, Target]:
    """An image twice as wide as high on a canvas of 4 x 4 cells; the target is its right half, 2 x 2 cells."""
    mask = np.zeros((40, 80), bool)
    mask[:, 40:] = True
    target = Target("the right half", mask)
    return Sample("half", np.zeros((40, 80, 3), np.uint8), (target,)), target


def peaked(row: int, column: int) -> Tensor:
    """A map of one layer and one query: .4 in one cell, .04 in each of the other fifteen."""
    heat = torch.full((1, 1, 4, 4), 0.04)
    heat[0, 0, row, column] = 0.4
    return heat


@pytest.mark.parametrize(
    ("row", "column", "hit"),
    [(0, 2, True), (1, 3, True), (0, 1, False), (1, 0, False), (2, 3, False)],  # the last lies in the padding
)
def test_a_hit_is_a_peak_on_the_target(row: int, column: int, hit: bool) -> None:
    sample, target = half()
    tally = _tally(peaked(row, column), sample, [target], 0)
    assert tally.hits.tolist() == [[hit]]
    assert tally.mass.item() == pytest.approx(0.52 if hit else 0.16)  # three or four cells of .04
    assert tally.area.item() == tally.centres.item() == 4 / 16


def test_a_thin_target_between_centres_cannot_be_hit() -> None:
    sample, _ = half()
    mask = np.zeros((40, 80), bool)
    mask[:, 18:22] = True  # over the border of two cells
    tally = _tally(peaked(0, 0), sample, [Target("a line", mask)], 0)
    assert (tally.hits.item(), tally.centres.item()) == (False, 0)
    assert tally.area.item() == pytest.approx(4 * 40 / 80**2)


def test_ignored_pixels_count_neither_for_nor_against() -> None:
    sample, target = half()
    ignore = np.zeros((40, 80), bool)
    ignore[:, :20] = True  # two cells
    ignore[:, 60:] = True  # and half of the target
    tally = _tally(peaked(0, 0), sample, [replace(target, ignore=ignore)], 0)
    assert tally.centres.item() == tally.area.item() == pytest.approx(2 / 12)
    assert tally.mass.item() == pytest.approx(2 / 12)  # what remains of the map is even
    heat = peaked(0, 0)
    heat[0, 0, 1, 2] = 0.1  # the peak of what counts
    assert _tally(heat, sample, [replace(target, ignore=ignore)], 0).hits.item()


def test_each_query_has_its_own_target() -> None:
    sample, target = half()
    left = Target("the left half", ~target.mask)
    maps = torch.cat([torch.cat([peaked(0, 3), peaked(0, 0)]), torch.cat([peaked(0, 3), peaked(0, 0)])], 1)
    tally = _tally(maps, sample, [target, left], 7)  # two layers, two queries with the same maps
    assert tally.hits.tolist() == [[True, False], [False, True]]
    assert tally.image.tolist() == [7, 7]


# ---------------------------------------------------------------- the choice


def curve(*pointing: float, error: float = 0.0, readable: range = range(1, 5)) -> Curve:
    scores = tuple(LayerScore(k, p, error, (p, p), 1.0, (1.0, 1.0)) for k, p in enumerate(pointing))
    return Curve(scores, readable, 10, 5, 0.1, 1.0, 0)


def test_the_best_layer_that_can_be_read() -> None:
    pointing = curve(0.9, 0.2, 0.3, 0.5, 0.4, 0.8)
    assert (pointing.best.layer, pointing.chosen.layer) == (3, 3)


def test_of_equals_the_earliest() -> None:
    assert curve(0.9, 0.2, 0.5, 0.5, 0.4, 0.8).chosen.layer == 2
    assert curve(0.9, 0.2, 0.46, 0.5, 0.5, 0.8, error=0.05).chosen.layer == 2  # within one standard error
    assert curve(0.9, 0.2, 0.44, 0.5, 0.5, 0.8, error=0.05).chosen.layer == 3
    assert curve(0.9, 0.2, 0.46, 0.5, 0.5, 0.8, error=0.05).best.layer == 3


def test_the_standard_error_is_over_images() -> None:
    hits = torch.tensor([1.0, 0, 1, 1, 0, 1, 0, 1])
    n, p = len(hits), hits.mean().item()
    alone = _standard_error(hits, torch.arange(n), n)
    assert alone == pytest.approx(math.sqrt(p * (1 - p) / (n - 1)))  # a query per image: the usual one
    twice = _standard_error(hits.repeat(2), torch.arange(n).repeat(2), n)
    assert twice == pytest.approx(alone)  # asking each image the same twice adds nothing


# ---------------------------------------------------------------- models


def test_a_model_that_attends_to_the_target(backbone: Backbone) -> None:
    """The maps themselves give every layer's peak: a target put there is hit, one elsewhere is not."""
    image = np.random.default_rng(3).integers(0, 256, (84, 84, 3), dtype=np.uint8)
    maps, cell = AttentionReader(backbone).maps(image, ["the cat"]), 84 // backbone.grid[0]
    peaks = maps[:, 0].flatten(1).argmax(1)

    def on_cell(n: int) -> Target:
        row, column = divmod(n, backbone.grid[1])
        mask = np.zeros((84, 84), bool)
        mask[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = True
        return Target("the cat", mask)

    for layer, peak in enumerate(peaks.tolist()):
        measured = probe(backbone, [Sample(str(n), image, (on_cell(peak),)) for n in range(2)])
        assert [s.pointing for s in measured.scores] == (peaks == peak).double().tolist()
        share = (maps[layer, 0].max() / maps[layer, 0].sum()).item()
        assert measured.scores[layer].lift == pytest.approx(share * len(maps[layer, 0].flatten()), rel=1e-4)
        assert measured.chance == pytest.approx(1 / maps[layer, 0].numel())


def test_every_family(family: Path) -> None:
    backbone = load_backbone(family, **KINDS[family.name].options)
    measured = probe(backbone, WorldData(n=3, seed=2, queries=3))
    assert [s.layer for s in measured.scores] == list(range(backbone.depth))
    assert measured.chosen.layer in measured.readable == backbone.readable
    json.dumps(measured.to_dict(), allow_nan=False)


@pytest.fixture(scope="module")
def embedded() -> Backbone:
    return load_backbone(WEIGHTS / "mllm", dtype=torch.float32)


def test_the_embedded_model_is_read_where_it_points_best(embedded: Backbone) -> None:
    """On 60 scenes: .027, .212, .665, .619, .554, .431, with a standard error of .037."""
    measured = probe(embedded, WorldData(n=20, seed=1))
    assert measured.best.layer in (2, 3)
    assert measured.chosen.layer == 2
    assert measured.scores[2].pointing > 0.5
    assert measured.scores[0].pointing < 0.1 < measured.scores[1].pointing < 0.4
    assert all(s.interval[0] <= s.pointing <= s.interval[1] for s in measured.scores)
    assert all(s.lift_interval[0] <= s.lift <= s.lift_interval[1] for s in measured.scores)
    assert measured.chance < 0.1 < 0.9 < measured.ceiling <= 1


def test_only_queries_with_a_target_count(embedded: Backbone) -> None:
    data = WorldData(n=6, seed=1)
    present = [replace(s, targets=tuple(t for t in s.targets if t.present)) for s in data]
    assert sum(map(len, (s.targets for s in present))) < sum(map(len, (s.targets for s in data)))
    ticks: list[None] = []
    measured = probe(embedded, data, tick=lambda: ticks.append(None))
    assert measured.queries == sum(len(s.targets) for s in present)
    assert len(ticks) == 6
    assert measured == probe(embedded, present)
    assert probe(embedded, data, limit=3) == probe(embedded, WorldData(n=3, seed=1))


def test_data_that_cannot_be_probed(backbone: Backbone) -> None:
    sample, target = half()
    absent = replace(sample, targets=(replace(target, mask=np.zeros_like(target.mask)),))
    unsure = replace(sample, targets=(replace(target, ignore=target.mask),))
    for data in ([], [sample], [sample, absent], [absent, absent], [sample, sample], [sample, unsure]):
        with pytest.raises(ValueError, match=r"a target about at least 2 images") as caught:
            probe(backbone, data)
        assert "\n" not in str(caught.value)
    for limit in (1, 0, -1):
        with pytest.raises(ValueError, match=f"got a limit of {limit} images"):
            probe(backbone, [sample], limit)


# ---------------------------------------------------------------- the command


def test_the_command_writes_config_and_curve(seglens: Run, llava: Path, tmp_path: Path) -> None:
    arguments = ("probe", "--backbone", llava, "--data", "world:n=5,seed=2", "--limit", 3)
    code, out, _ = seglens(*arguments, "--out", tmp_path / "new")
    assert code == 0
    report: dict[str, Any] = json.loads((tmp_path / "new" / "probe.json").read_text())
    assert report["backbone"] == {"name": str(llava.resolve()), "revision": None}
    assert (report["family"], report["image_size"], report["grid"]) == ("llava", 84, "6x6")
    assert (report["data"], report["limit"], report["images"], report["seed"]) == ("world:n=5,seed=2", 3, 3, 0)
    assert [point["layer"] for point in report["curve"]] == list(range(8))
    assert report["readable"] == [1, 6]
    with Image.open(tmp_path / "new" / "probe.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500
    lines = out.splitlines()
    assert sum(line.endswith("<- read this one") for line in lines) == 1
    assert next(line for line in lines if "read this one" in line).split()[0] == str(report["layer"])
    use = shlex.split(lines[-1])
    assert use[:2] == ["seglens", "train"]
    assert use[use.index("--probe") + 1] == str(tmp_path / "new" / "probe.json")
    code, out, err = seglens(*arguments, "--json", "--out", tmp_path / "mine.json")
    printed = json.loads(out)
    assert (code, err) == (0, "")
    assert printed.pop("files") == {"config": str(tmp_path / "mine.json"), "curve": str(tmp_path / "mine.png")}
    assert printed == json.loads((tmp_path / "mine.json").read_text())
    assert {**printed, "use": report["use"]} == report


def test_a_training_uses_the_probed_layer(seglens: Run, llava: Path, sam: Path, tmp_path: Path) -> None:
    probed = {"backbone": {"name": str(llava.resolve()), "revision": None}, "layer": 2, "image_size": 84}
    (tmp_path / "probe.json").write_text(json.dumps(probed))
    settings = ("--set", "steps=1", "--set", "images=1", "--set", "descriptor_width=16", "--set", "encoder_width=16")
    arguments = (
        "train",
        "--probe",
        tmp_path / "probe.json",
        "--decoder",
        sam,
        "--data",
        "world:n=1,split=train,queries=1",
    )
    assert seglens(*arguments, *settings, "--out", tmp_path / "run")[0] == 0
    config = json.loads((tmp_path / "run" / "head" / "config.json").read_text())
    assert (config["backbone"]["name"], config["layer"], config["image_size"]) == (str(llava.resolve()), 2, 84)
    code, _, err = seglens(*arguments, *settings, "--out", tmp_path / "other", "--backbone", "org/another")
    assert code == 2
    assert "is a probe of" in err
    (tmp_path / "probe.json").write_text("{}")
    code, _, err = seglens(*arguments, *settings, "--out", tmp_path / "other")
    assert code == 2
    assert "is no file of `seglens probe`" in err


def test_the_canvas_is_passed_on(seglens: Run, tmp_path: Path) -> None:
    KINDS["qwen2.5-vl"].save(tmp_path)
    arguments = ("probe", "--backbone", tmp_path, "--data", "world:n=2,seed=2", "--image-size", 40)
    code, out, _ = seglens(*arguments)
    assert code == 0
    assert "--image-size 40" in out.splitlines()[-1]
    assert [p for p in tmp_path.iterdir() if p.name.startswith("probe")] == []  # nothing is written unasked


def test_errors_are_one_line(seglens: Run, llava: Path, tmp_path: Path) -> None:
    def refused(message: str, *arguments: object) -> None:
        code, out, err = seglens("probe", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith("seglens: ")
        assert message in err

    refused("did you mean 'world'", "--backbone", llava, "--data", "wurld")
    refused("limit of 1 images", "--backbone", llava, "--data", "world:n=2", "--limit", 1)
    refused("n=0", "--backbone", llava, "--data", "world:n=0")
    refused("cannot be used here", "--backbone", llava, "--data", "world:n=2", "--device", "cuda:99")
    refused("image_size=33 cannot be had", "--backbone", llava, "--data", "world:n=2", "--image-size", 33)
    (tmp_path / "file").touch()
    refused("check the path", "--backbone", llava, "--data", "world:n=2", "--json", "--out", tmp_path / "file" / "x")
