"""`seglens train`: its messages before, during and after the training."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command import Run
from seglens.checkpoints.config import read_config
from seglens.checkpoints.origin import CheckpointError
from seglens.inference.segmenter import Segmenter
from seglens.methods import Lens
from seglens.training.config import TrainConfig

PARTS = ("--backbone", "embedded/mllm", "--decoder", "embedded/sam")
SMALL = ("--set", "steps=2", "--set", "images=2", "--set", "descriptor_width=16", "--set", "encoder_width=16")
Train = Callable[..., tuple[int, str, str]]


@pytest.fixture
def train(seglens: Run) -> Train:
    return lambda out, *more: seglens("train", *PARTS, "--out", out, *SMALL, *more)


def damaged(folder: Path) -> str:
    """A COCO file of eight images with nine bad records: of the file, of images, and several masks of one image."""
    triangle = [[2, 2, 20, 2, 20, 15]]
    images, annotations = [], []
    for n in range(1, 9):
        Image.fromarray(np.full((20, 30, 3), 20 * n, np.uint8)).save(folder / f"{n}.png")
        images.append({"id": n, "file_name": f"{n}.png", "height": 20, "width": 30})
    good = [(n, 1, triangle) for n in range(1, 9)]
    bad = [
        (1, 2, [[2, 2]]),
        (1, 3, [[2, 2]]),
        (2, 2, [[500, 500, 510, 500, 510, 510]]),
        (99, 1, triangle),
        (3, 2, {"size": [20, 30], "counts": [5, 5]}),
        (3, 3, {"size": [10, 30], "counts": [300]}),
        (4, 77, triangle),
    ]
    for image, category, segmentation in good + bad:
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": image,
                "category_id": category,
                "iscrowd": 0,
                "bbox": [2, 2, 18, 13],
                "segmentation": segmentation,
            }
        )
    (folder / "5.png").write_bytes((folder / "5.png").read_bytes()[:40])
    (folder / "6.png").unlink()
    categories = [{"id": n, "name": name} for n, name in enumerate(("box", "cup", "lid"), 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "a.json").write_text(json.dumps(content))
    return f"coco:images={folder},annotations={folder / 'a.json'},bad=skip"


def test_it_counts_the_bad_records_that_a_check_counts(seglens: Run, train: Train, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data = damaged(tmp_path / "data")
    checked = re.search(r"^(\d+) faults", seglens("data", "check", data)[1], re.MULTILINE)
    assert checked is not None
    for _ in range(2):  # computed, and read from its cache by a run that goes on
        code, _, err = train(tmp_path / "run", "--data", data)
        assert code == 0, err
        assert f"left out: {checked[1]} bad records: " in err
        assert f"2 steps done, {checked[1]} bad records left out" in err
    trained = read_config(tmp_path / "run" / "head").trained
    assert trained is not None
    assert trained["left_out"] == int(checked[1]) == 9


def test_it_says_how_the_heads_did(train: Train, tmp_path: Path) -> None:
    run, exam = tmp_path / "run", "world:n=2,seed=4,queries=3"
    data = ("--data", "world:n=2,split=train,queries=2")
    for _ in range(2):  # also when there was nothing left to do
        code, out, err = train(run, *data, "--exam", exam)
        assert (code, out.strip()) == (0, str(run / "head"))
        for name in ("head", "best"):
            scores = json.loads((run / f"{name}.json").read_text())
            line = f"{run / name}: gIoU {scores['gIoU']:.4f}, cIoU {scores['cIoU']:.4f} on {exam} after step 2"
            assert line in err
        assert re.search(r"losses, smoothed: dice \d+\.\d{4}, bce \d", err)
        assert err.endswith(f"for tables: seglens eval --data {exam} --model {run / 'head'}\n")
    code, _, err = train(tmp_path / "other", *data)
    assert f"nothing was measured; to do so: seglens eval --data TEST --model {tmp_path / 'other' / 'head'}" in err


def test_a_warm_up_that_is_longer_than_the_run_is_told(train: Train, tmp_path: Path) -> None:
    data = ("--data", "world:n=2,split=train,queries=2")
    warning = "warning: the warm-up of 100 steps is as long as the run of 2 or longer"
    assert train(tmp_path / "a", *data)[2].count(warning) == 1
    assert "warm-up" not in train(tmp_path / "b", *data, "--set", "warmup=1")[2]
    assert TrainConfig().doubts() == TrainConfig(steps=101, warmup=100).doubts() == []
    assert "give --set warmup=5, or more steps" in TrainConfig(steps=50, warmup=50).doubts()[0]


@pytest.mark.slow
def test_weights_of_attention_heads_start_from_those_of_the_package(seglens: Run, train: Train, tmp_path: Path) -> None:
    data, run, cache = ("--data", "world:n=2,split=train,queries=2"), tmp_path / "run", tmp_path / "cache"
    weights = ("--set", "head_weights=learned")
    assert seglens("cache", "build", *data, *PARTS, "--layer", "2", "--out", cache, *weights)[0] == 0
    more = ("--layer", "2", "--heads", "known", "--cache", cache, "--set", "warmup=1")
    assert train(run, *data, *more)[0] == 0
    settings = read_config(run / "head").settings
    assert (settings["head_weights"], settings["heads"]) == ("learned", [[2, 0], [3, 0], [3, 3]])
    method = Segmenter.from_pretrained(run / "head").method
    assert isinstance(method, Lens)
    assert method.head_weights is not None
    assert method.head_weights.logits.shape == (2, 4)
    code, _, err = train(tmp_path / "other", *data, "--layer", "3", "--heads", "known")
    assert code != 0
    assert "it reads layer 3 here and computes the attention of layers 3 and 4" in err


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What is needed of the folder of a training."""
    for name in ("head", "best"):
        (tmp_path / "run1" / name).mkdir(parents=True)
        for file in ("config.json", "head.safetensors"):
            (tmp_path / "run1" / name / file).touch()
    (tmp_path / "run1" / "step_2").mkdir()
    (tmp_path / "run1" / "train.json").write_text("{}")
    return tmp_path / "run1"


@pytest.mark.parametrize("command", [("segment", "a.png", "cat"), ("ask", "a.png", "what is it ?"), ("eval",)])
def test_the_folder_of_a_run_suggests_its_heads(
    command: tuple[str, ...], seglens: Run, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save("a.png")
    for named in (run, run / "step_2"):
        code, out, err = seglens(*command, "--model", named)
        assert (code, out) == (2, "")
        assert err.endswith(f"give the head of that training: {run / 'head'} or {run / 'best'}\n")
    code, _, err = seglens(*command, "--model", "run1")
    assert err.endswith("run1 holds no config.json; give the head of that training: run1/head or run1/best\n")


def test_a_run_without_heads(run: Path) -> None:
    for name in ("head", "best"):
        (run / name / "head.safetensors").unlink()
    with pytest.raises(CheckpointError, match="belongs to a training that has not ended"):
        Segmenter.from_pretrained(run)
    (run / "train.json").unlink()
    with pytest.raises(CheckpointError, match="a head folder has config"):
        Segmenter.from_pretrained(run)


@pytest.mark.parametrize("method", ["mllmseg", "self1e", "ufo"])
def test_a_mask_decoder_is_refused_by_a_method_that_uses_none(seglens: Run, tmp_path: Path, method: str) -> None:
    parts = ("--data", "world:n=2", "--backbone", "embedded/mllm", "--decoder", "embedded/sam")
    for more in ((), ("--plan", "--no-measure")):
        code, _, err = seglens("train", *parts, "--method", method, "--out", tmp_path / "out", *more)
        assert code != 0
        assert f"{method} needs no mask decoder, and would not use 'embedded/sam'; leave out --decoder" in err
    assert not (tmp_path / "out").exists()


def test_options_of_a_plan_are_refused_without_one(seglens: Run, tmp_path: Path) -> None:
    parts = ("train", "--data", "world:n=2,split=train", "--out", tmp_path / "run", *PARTS)
    for option in (("--gpu", "l4"), ("--json",), ("--no-measure",)):
        code, out, err = seglens(*parts, *option)
        assert (code, out) == (2, "")
        assert "belong to --plan; add it, or leave them out" in err
    assert not (tmp_path / "run").exists()
