"""Answers in shards: the same bytes whoever computes them, each once, and nothing of anybody's lost."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow.parquet import read_table, write_table

from command import Run
from seglens.core.ray_actors import Actors, connect
from seglens.core.schema import ShardLine
from seglens.data import load_data
from seglens.data.image_decoding import ImageError
from seglens.data.masks import decode_rle
from seglens.exports import Command
from seglens.exports.shards import ImageList, ShardOutcome, ShardPlan, ShardRun
from seglens.inference.segmenter import Segmenter

QUERIES = ("the largest thing", "the deer")
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four drawn scenes in two folders, and a file that is cut short."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more").mkdir()
    for name, sample in zip(("0", "1", "more/2", "more/3"), load_data("world:n=4,seed=6"), strict=True):
        Image.fromarray(sample.image).save(folder / f"{name}.png")
    (folder / "bad.png").write_bytes((folder / "0.png").read_bytes()[:200])
    return folder


def plan_of(images: ImageList, format: str = "parquet", queries: Sequence[str] = QUERIES) -> ShardPlan:
    return ShardPlan(format, Command(queries, {"each": None}), images.digest, len(images), 2)


def run_of(pictures: Path, out: Path, segmenter: Segmenter, **changes: Any) -> ShardRun:
    images = ImageList.of([str(pictures)])
    return replace(ShardRun(plan_of(images), images, out, lambda: segmenter), **changes)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def never() -> Segmenter:
    raise AssertionError("nothing is left to compute")


def test_rows_hold_what_the_segmenter_answers(pictures: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    outcomes = list(run_of(pictures, tmp_path, segmenter).outcomes())
    assert [(one.file.name, one.record.images, one.record.bad, one.known) for one in outcomes] == [
        ("masks-00000-of-00003.parquet", 2, 0, False),
        ("masks-00001-of-00003.parquet", 2, 1, False),
        ("masks-00002-of-00003.parquet", 1, 0, False),
    ]
    rows = [row for one in outcomes for row in read_table(one.file).to_pylist()]
    assert [(row["number"], row["image"], row["query"]) for row in rows] == [
        *((0, "0.png", query) for query in QUERIES),
        *((1, "1.png", query) for query in QUERIES),
        (2, "bad.png", None),
        *((3, "more/2.png", query) for query in QUERIES),
        *((4, "more/3.png", query) for query in QUERIES),
    ]
    bad = rows.pop(4)
    assert "bad.png" in bad["error"]
    assert bad["counts"] is bad["found"] is None
    answers = [
        one
        for name in ("0", "1", "more/2", "more/3")
        for one in segmenter.open(pictures / f"{name}.png").segment(QUERIES)
    ]
    for row, answer in zip(rows, answers, strict=True):
        assert (row["found"], row["reason"], row["error"]) == (answer.found, answer.reason, None)
        mask = decode_rle({"size": row["size"], "counts": row["counts"]})
        assert np.count_nonzero(mask != answer.mask) <= 0.002 * mask.size  # images that share a pass: to rounding
        assert row["area"] == mask.sum()
    about = json.loads(read_table(outcomes[0].file).schema.metadata[b"seglens"])
    assert about == {"queries": list(QUERIES), "each": None}


def test_a_second_run_does_what_is_missing(pictures: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    run = run_of(pictures, tmp_path, segmenter)
    first = list(run.outcomes())
    whole = content(tmp_path)
    assert all(one.known for one in replace(run, load=never).outcomes())
    first[1].file.unlink()
    (tmp_path / f".{'0a' * 8}.tmp").write_bytes(b"of a run that was killed")
    again = list(run.outcomes())
    assert [(one.file.name, one.known) for one in again] == [
        (first[0].file.name, True),
        (first[2].file.name, True),
        (first[1].file.name, False),
    ]
    assert content(tmp_path) == whole


def test_a_picture_that_changed_is_computed_again(pictures: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    copy = tmp_path / "a"
    copy.mkdir()
    for name in ("0.png", "1.png"):
        (copy / name).write_bytes((pictures / name).read_bytes())
    run = run_of(copy, tmp_path / "out", segmenter)
    (before,) = run.outcomes()
    (copy / "0.png").write_bytes((pictures / "more/2.png").read_bytes())
    os.utime(copy / "0.png", ns=(1, 1))
    (after,) = run.outcomes()
    assert not after.known
    assert before.record.digest != after.record.digest


def test_what_others_wrote_is_left_alone(pictures: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    run = run_of(pictures, tmp_path, segmenter)
    (tmp_path / run.plan.file(1)).write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"masks-00001-of-00003.parquet' is there already, .* \(--overwrite"):
        list(run.outcomes())
    assert (tmp_path / run.plan.file(1)).read_bytes() == b"mine"
    assert all(not one.known for one in replace(run, overwrite=True).outcomes())
    assert read_table(tmp_path / run.plan.file(1)).num_rows == 3
    for other, why in (
        ({"plan": plan_of(run.images, queries=QUERIES[:1])}, r"queries: \[.*'the deer'\] there, \[.*\] here"),
        ({"plan": plan_of(run.images, "coco")}, "format: parquet there, coco here"),
        ({"plan": replace(run.plan, names="x")}, "other images"),
    ):
        with pytest.raises(ValueError, match=rf"holds another run in shards \({why}\); choose another folder"):
            list(replace(run, **other).outcomes())  # type: ignore[arg-type]


def test_a_run_that_wrote_nothing_does_not_keep_the_folder(
    pictures: Path, tmp_path: Path, segmenter: Segmenter
) -> None:
    def fail() -> Segmenter:
        raise ImportError("no such model")

    with pytest.raises(ImportError, match="no such model"):
        list(run_of(pictures, tmp_path, segmenter, load=fail).outcomes())
    images = ImageList.of([str(pictures)])
    assert len(list(run_of(pictures, tmp_path, segmenter, plan=plan_of(images, queries=("the cup",))).outcomes())) == 3


def test_a_damaged_record_is_refused(pictures: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    run = run_of(pictures, tmp_path, segmenter)
    list(run.outcomes())
    (record,) = tmp_path.glob(".seglens/shards/*00001*")
    record.write_text("{")
    with pytest.raises(ValueError, match=r"00001.*is damaged; delete it, and the same command"):
        list(run.outcomes())


def test_shards_of_coco_are_joined_by_joining_their_lists(pictures: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    images = ImageList.of([str(pictures)])
    outcomes = list(run_of(pictures, tmp_path, segmenter, plan=plan_of(images, "coco")).outcomes())
    parts = [json.loads(one.file.read_text()) for one in outcomes]
    assert [image["file_name"] for part in parts for image in part["images"]] == [
        "0.png",
        "1.png",
        "more/2.png",
        "more/3.png",
    ]
    assert [image["id"] for part in parts for image in part["images"]] == [1, 2, 4, 5]
    things = [thing for part in parts for thing in part["annotations"]]
    assert len({thing["id"] for thing in things}) == len(things) > 2
    assert {thing["image_id"] for thing in things} <= {1, 2, 4, 5}
    for part in parts:
        assert [(one["id"], one["name"]) for one in part["categories"]] == [(1, QUERIES[0]), (2, QUERIES[1])]


def test_lists_and_tables_name_the_same_images(pictures: Path, tmp_path: Path) -> None:
    paths = [pictures / "0.png", pictures / "more/2.png"]
    (tmp_path / "list.txt").write_text(f"{paths[0]}\n\n{paths[1]}\n{paths[0]}\n", "utf-8")
    data = [path.read_bytes() for path in paths]
    columns = {
        "bytes": data,
        "path": [str(path) for path in paths],
        "image": [{"bytes": one, "path": None} for one in data],
    }
    for name, values in columns.items():
        write_table(pyarrow.table({"id": [0, 1], name: values}), tmp_path / f"{name}.parquet", row_group_size=1)
    for name in ("list.txt", "bytes.parquet", "path.parquet", "image.parquet"):
        images = ImageList.of([str(tmp_path / name)])
        assert len(images) == 2, name
        for image, path in zip(images, paths, strict=True):
            assert np.array_equal(image.pixels, np.array(Image.open(path).convert("RGB"))), name
    assert [one.name for one in ImageList.of([str(tmp_path / "bytes.parquet")])] == [
        "bytes.parquet:0",
        "bytes.parquet:1",
    ]
    assert [one.name for one in ImageList.of([str(tmp_path / "list.txt")])] == ["0.png", "more/2.png"]
    both = ImageList.of([str(tmp_path / "bytes.parquet"), str(pictures)])
    assert [one.name for one in both][1:4] == ["bytes.parquet:1", "0.png", "1.png"]


def test_what_names_no_image_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "no.parquet").write_bytes(b"PAR1")
    (tmp_path / "clip.mp4").write_bytes(b"")
    write_table(pyarrow.table({"id": [0]}), tmp_path / "other.parquet")
    for name, why in (
        ("empty.txt", "is empty; need a path in each line"),
        ("no.parquet", "is no Parquet file that can be read"),
        ("other.parquet", "has the columns id; need one of image, bytes, path"),
        ("clip.mp4", "is a video; shards are of images"),
    ):
        with pytest.raises(ImageError, match=why):
            ImageList.of([str(tmp_path / name)])
    write_table(pyarrow.table({"path": [None, "nothing.png"]}), tmp_path / "gaps.parquet")
    gap, missing = ImageList.of([str(tmp_path / "gaps.parquet")])
    with pytest.raises(ImageError, match=r"row 0 of .* has no image"):
        _ = gap.pixels
    with pytest.raises(ImageError, match=r"nothing.png' does not exist"):
        _ = missing.pixels


def test_the_command(seglens: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["segment", str(pictures), *QUERIES, "--out", "out", "--shard", "2"]
    code, out, err = seglens(*words, "--json")
    assert code == 1
    lines = [ShardLine.model_validate_json(line) for line in out.splitlines()]
    assert [(Path(line.file).name, line.images, line.bad, line.known) for line in lines] == [
        ("masks-00000-of-00003.parquet", 2, 0, False),
        ("masks-00001-of-00003.parquet", 2, 1, False),
        ("masks-00002-of-00003.parquet", 1, 0, False),
    ]
    assert "1 of 5 images could not be segmented" in err
    code, out, err = seglens(*words)
    assert (code, len(out.splitlines())) == (1, 3)
    assert "3 of 3 shards were done before" in err
    for more, why in (
        (["--format", "overlay"], "got --format overlay for shards; they have one format"),
        (["--workers", "2"], "got --workers 2 for shards; actors of Ray share these: --ray 2"),
        (["--ray-gpus", "1"], "got --ray-gpus without --ray"),
        (["--ray", "1", "--ray-address", "127.0.0.1:1"], "no Ray answers at 127.0.0.1:1"),
    ):
        code, out, err = seglens("segment", str(pictures), *QUERIES, "--out", "other", "--shard", "2", *more)
        assert (code, out) == (2, "")
        assert why in err


def test_a_ray_without_gpus_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    with pytest.raises(ValueError, match=r"each actor asks for 0\.5 GPU, and no machine of this Ray has more than 0"):
        connect(Actors(1, 0.5))


@pytest.mark.slow  # two Rays and their actors
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'seglens[ray]'")
def test_two_machines_of_which_one_dies_write_the_same_bytes(
    pictures: Path, tmp_path: Path, segmenter: Segmenter
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)])}
    command = [sys.executable, HERE / "two_machines.py", pictures, tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == {"machines": 2, "killed": True, "written": 3, "again": [True, True, True]}
    outcomes: list[ShardOutcome] = list(run_of(pictures, tmp_path / "alone", segmenter).outcomes())
    assert len(outcomes) == 3
    assert content(tmp_path / "out") == content(tmp_path / "alone")
