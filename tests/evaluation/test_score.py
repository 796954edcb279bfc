"""Files of predictions: the published numbers from run lengths, and every fault named."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

import published
from command import Run
from seglens.core.metrics import extent
from seglens.data.faults import DataError
from seglens.data.masks import decode_rle, encode_rle, read_rle
from seglens.evaluation.score import Scored, compare, read_predictions, run_counts, run_extent, score
from shared import shared

quick = settings(deadline=None, database=None, max_examples=100)
Row = dict[str, Any]


def mask(*lines: str) -> np.ndarray:
    return np.array([[character == "#" for character in line] for line in lines])


def uncompressed(pixels: np.ndarray) -> Row:
    edges = np.flatnonzero(np.diff(pixels.T.ravel(), prepend=False, append=not pixels[-1, -1]))
    return {"size": list(pixels.shape), "counts": np.diff(edges, prepend=0).tolist()}


def row(name: Any, prediction: np.ndarray, target: np.ndarray, **more: Any) -> Row:
    return {"id": name, "prediction": encode_rle(prediction), "target": encode_rle(target), **more}


def write(path: Path, rows: list[Row | str | bytes]) -> Path:
    lines = [line if isinstance(line, str | bytes) else json.dumps(line) for line in rows]
    path.write_bytes(b"".join((x.encode() if isinstance(x, str) else x) + b"\n" for x in lines))
    return path


HALF, FULL, NONE = mask("##..", "...."), mask("####", "...."), mask("....", "....")


# ---------------------------------------------------------------- the published numbers


@quick
@given(st.integers(0, 2**31 - 1), st.floats(0, 1), st.integers(1, 7), st.integers(1, 7))
def test_runs_are_counted_as_pixels(seed: int, density: float, height: int, width: int) -> None:
    dice = np.random.default_rng(seed)
    masks = [dice.random((height, width)) < density * dice.integers(0, 2) for _ in range(3)]
    p, t, i = masks
    runs = [read_rle(encode_rle(one))[1] for one in masks]
    p, t = p & ~i, t & ~i
    assert run_counts(*runs) == ((p & t).sum(), (p | t).sum(), p.sum(), t.sum())
    assert run_extent(runs[0], height) == extent(masks[0])


def test_boxes_of_predictions(tmp_path: Path) -> None:
    """A found box, one of a line that gives the target's own, a refusal, and a target that is not there."""
    tall = mask("....", ".##.", ".##.", ".##.")
    lines = [row(1, tall, tall), row(2, tall, tall, box=[0, 0, 4, 4]), row(3, tall & False, tall)]
    scored = read_predictions(write(tmp_path / "p.jsonl", [*lines, row(4, tall, tall & False)]))
    assert [one.boxes for one in scored.outcomes] == [1, 2 / 16, 0, None]
    assert score(scored, "rec")["box_P@0.5"] == 1 / 3
    for box in ([1, 2, 3], "x", [1, 2, 3, None]):
        with pytest.raises(DataError, match=r"as box; it needs x, y, width and height"):
            read_predictions(write(tmp_path / "p.jsonl", [row(1, tall, tall, box=box)]))


def test_runs_of_no_pixels() -> None:
    split = np.array([0, 2, 0, 3, 1])  # foreground 2, background 0, foreground 3, background 1
    rle = {"size": [2, 3], "counts": split.tolist()}
    assert decode_rle(rle).sum() == 5
    assert run_counts(split, np.array([0, 5, 1]), np.array([6])) == (5, 5, 5, 5)


@quick
@given(st.integers(0, 2**31 - 1), st.floats(0, 1), st.integers(1, 6))
def test_the_published_loops_give_the_same(
    tmp_path_factory: pytest.TempPathFactory, seed: int, density: float, n: int
) -> None:
    dice = np.random.default_rng(seed)
    prediction, target, ignore = (dice.random((n, 4, 5)) < density * dice.integers(0, 2, (n, 1, 1)) for _ in range(3))
    rows = [row(k, prediction[k], target[k], ignore=uncompressed(ignore[k])) for k in range(n)]
    path = write(tmp_path_factory.getbasetemp() / "predictions.jsonl", rows)
    report = score(read_predictions(path))
    mean, cumulative, _ = published.lisa(list(prediction), list(np.where(ignore, published.IGNORED, target)))
    assert report["gIoU"] == pytest.approx(mean, abs=1e-9)
    assert report["cIoU"] == pytest.approx(cumulative, abs=1e-9)

    refused = [bool(x) if x < 2 else None for x in dice.integers(0, 3, n)]  # None: as the mask is
    rows = [row(k, prediction[k], target[k], no_target=refused[k]) for k in range(n)]
    report = score(read_predictions(write(path, rows)), "gres")
    no_target = [not prediction[k].any() if refused[k] is None else refused[k] for k in range(n)]
    expected = published.rela(list(prediction), list(target), no_target)
    for name, value in expected.items():
        assert report[name] == (None if value is None else pytest.approx(value, abs=1e-9)), name


def test_real_masks(tmp_path: Path) -> None:
    """COCO's own objects, each predicted by a shifted copy; crowds are ignored pixels of their image."""
    record = json.loads(shared("coco/annotations/instances_train2017.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in record["images"]}
    crowds = {a["image_id"]: a["segmentation"] for a in record["annotations"] if a["iscrowd"]}
    rows, predictions, label_maps = [], [], []
    for annotation in [a for a in record["annotations"] if not a["iscrowd"]][:150]:
        size = sizes[annotation["image_id"]]
        target = decode_rle(coco.merge(coco.frPyObjects(annotation["segmentation"], *size)))
        prediction = np.roll(target, len(rows) % 9, axis=1)
        crowd = crowds.get(annotation["image_id"])
        ignore = np.zeros(size, bool) if crowd is None else decode_rle(crowd, size)
        rows.append(row(annotation["id"], prediction, target, **({} if crowd is None else {"ignore": crowd})))
        predictions.append(prediction)
        label_maps.append(np.where(ignore, published.IGNORED, target))
    report = score(read_predictions(write(tmp_path / "coco.jsonl", rows)))
    mean, cumulative, _ = published.lisa(predictions, label_maps)
    assert any("ignore" in one for one in rows)
    assert report["gIoU"] == pytest.approx(mean, abs=1e-9)
    assert report["cIoU"] == pytest.approx(cumulative, abs=1e-9)
    assert 0.3 < report["gIoU"] < 1


def test_kinds_and_images_are_read(tmp_path: Path) -> None:
    rows = [row(k, HALF, FULL, image="one", kind=("short", "long")[k % 2]) for k in range(4)]
    report = score(read_predictions(write(tmp_path / "p.jsonl", rows)))
    assert (report["queries"], report["images"]) == (4, 1)
    assert set(report["by_kind"]) == {"short", "long"}


def test_a_long_file_is_never_held_as_masks(tmp_path: Path) -> None:
    side, lines = 3000, 200
    large = encode_rle(np.pad(np.ones((900, 900), bool), ((100, side - 1000), (50, side - 950))))
    path = write(tmp_path / "p.jsonl", [{"id": k, "prediction": large, "target": large} for k in range(lines)])
    tracemalloc.start()
    predictions = read_predictions(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert score(predictions)["gIoU"] == pytest.approx(1)
    assert peak < side * side / 4  # a quarter of one mask: nothing was drawn


# ---------------------------------------------------------------- bad files

GOOD = json.dumps(row("good", HALF, FULL))
BAD: dict[str, tuple[str | bytes, str]] = {
    "not json": ("{'id': 1}", "not JSON"),
    "cut": (GOOD[:40], "not JSON"),
    "not utf-8": (b'{"id": "\xff"}', "not UTF-8"),
    "a list": ("[1]", "holds list"),
    "deep": ("[" * 100_000, "not usable JSON"),
    "long number": ('{"id": ' + "9" * 5000 + "}", "not usable JSON"),
    "no id": (json.dumps({k: v for k, v in row(1, HALF, FULL).items() if k != "id"}), "as id; it needs"),
    "id a list": (json.dumps(row([1], HALF, FULL)), "as id; it needs"),
    "no prediction": (json.dumps({"id": "x", "target": encode_rle(FULL)}), "prediction is missing"),
    "no target": (json.dumps({"id": "x", "prediction": encode_rle(FULL)}), "target is missing"),
    "mask a path": (json.dumps({**row("x", HALF, FULL), "target": "mask.png"}), "target is str"),
    "sizes": (json.dumps(row("x", HALF.T, FULL)), "prediction: decode_rle got an RLE of 4 x 2"),
    "ignore size": (json.dumps(row("x", HALF, FULL, ignore=encode_rle(HALF.T))), "ignore: decode_rle got"),
    "not filled": (json.dumps({**row("x", HALF, FULL), "target": {"size": [2, 4], "counts": [3, 4]}}), "do not fill"),
    "half pixels": (
        json.dumps({**row("x", HALF, FULL), "target": {"size": [1, 2], "counts": [1.5, 1]}}),
        "target: decode_rle got",
    ),
    "huge": (json.dumps({**row("x", HALF, FULL), "target": {"size": [9**9, 9**9], "counts": [9**18]}}), "pixels"),
    "flag": (json.dumps(row("x", HALF, FULL, no_target="yes")), "as no_target"),
    "image": (json.dumps(row("x", HALF, FULL, image=["a"])), "as image"),
    "twice": (GOOD, "taken by line 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named_or_left_out(tmp_path: Path, name: str) -> None:
    line, says = BAD[name]
    path = write(tmp_path / "p.jsonl", [GOOD, line, json.dumps(row("last", FULL, FULL))])
    with pytest.raises(DataError, match="has 1 bad line:") as refused:
        read_predictions(path)
    assert f"{path}:2: " in str(refused.value)
    assert says in str(refused.value)
    assert "--bad skip" in str(refused.value)
    assert "\n" not in str(refused.value)
    report = score(read_predictions(path, "skip"))
    assert (report["queries"], report["skipped"]) == (2, 1)
    assert says in report["faults"][0]
    json.dumps(report, allow_nan=False)


def test_faults_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    rows = [row(f"n{k}", HALF.T, FULL) for k in range(20)]
    with pytest.raises(DataError, match=r"20 bad lines: .*p.jsonl:1: id 'n0': .*; and 15 more; mend them"):
        read_predictions(write(tmp_path / "p.jsonl", rows))
    with pytest.raises(DataError, match="no line is usable"):
        read_predictions(tmp_path / "p.jsonl", "skip")


def test_files_that_hold_nothing(tmp_path: Path) -> None:
    for content in (b"", b"\n  \n"):
        (tmp_path / "p.jsonl").write_bytes(content)
        with pytest.raises(DataError, match="is empty"):
            read_predictions(tmp_path / "p.jsonl")
    with pytest.raises(FileNotFoundError):
        read_predictions(tmp_path / "absent.jsonl")


def test_a_byte_order_mark_and_blank_lines_are_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode() + b"\r\n\r\n")
    assert score(read_predictions(path))["queries"] == 1


def test_a_file_without_line_ends_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seglens.evaluation.score.LONGEST_LINE", 1000)
    path = write(tmp_path / "p.jsonl", [GOOD, "x" * 5000])
    with pytest.raises(DataError, match=r"p.jsonl:2: the line is longer than 1000 bytes"):
        read_predictions(path, "skip")


# ---------------------------------------------------------------- two files


def scored(path: Path, predictions: list[np.ndarray], targets: list[np.ndarray]) -> Scored:
    rows = [row(k, p, t) for k, (p, t) in enumerate(zip(predictions, targets, strict=True))]
    return read_predictions(write(path, rows))


def test_a_paired_comparison(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    targets = [dice.random((8, 8)) < 0.5 for _ in range(60)]
    worse = [t ^ (dice.random((8, 8)) < 0.2) for t in targets]
    better = [np.where(np.arange(8) < 4, t, w) for t, w in zip(targets, worse, strict=True)]  # right in half the image
    a, b = scored(tmp_path / "a", better, targets), scored(tmp_path / "b", worse, targets)
    report = compare(a, b)
    for name in ("gIoU", "cIoU"):
        low, high = report[name]["difference_95"]
        assert 0 < low < report[name]["difference"] < high
        assert report[name]["file"] == score(a)[name]
        assert report[name]["against"] == score(b)[name]
        assert report[name]["verdict"] == "higher"
        assert compare(b, a)[name]["verdict"] == "lower"
        # Much narrower than if the samples were not paired.
        assert high - low < 0.8 * (score(a)[f"{name}_95"][1] - score(a)[f"{name}_95"][0] + 0.02)
    same = compare(a, a, "gres")["gIoU"]
    assert (same["difference"], same["verdict"]) == (0, "equal")


def test_the_order_of_lines_does_not_matter(tmp_path: Path) -> None:
    rows = [row(k, HALF if k % 3 else FULL, FULL) for k in range(9)]
    a = read_predictions(write(tmp_path / "a", rows))
    b = read_predictions(write(tmp_path / "b", rows[::-1]))
    assert compare(a, b)["gIoU"]["difference_95"] == [0, 0]


def test_other_samples_are_refused(tmp_path: Path) -> None:
    a = read_predictions(write(tmp_path / "a", [row("x", HALF, FULL), row("y", HALF, FULL)]))
    b = read_predictions(write(tmp_path / "b", [row("x", HALF, FULL)]))
    for first, second in ((a, b), (b, a)):
        with pytest.raises(DataError, match=r"1 ids are only in .*a: 'y'"):
            compare(first, second)
    c = read_predictions(write(tmp_path / "c", [row("x", HALF, HALF), row("y", HALF, FULL)]))
    with pytest.raises(DataError, match=r"1 ids have another target .*: 'x'"):
        compare(a, c)


@pytest.mark.parametrize("counts", [[0, 1, 0, 1, 6], [0, 2, 6, 0], [0, 2, 3, 0, 3], [0, 0, 0, 2, 6]])
def test_the_same_truth_written_otherwise_is_the_same(tmp_path: Path, counts: list[int]) -> None:
    target = mask("#...", "#...")
    one = row("x", HALF, target)
    other = {**one, "target": {"size": [2, 4], "counts": counts}, "ignore": encode_rle(NONE)}
    assert np.array_equal(decode_rle(other["target"]), target)
    a, b = (read_predictions(write(tmp_path / name, [r])) for name, r in (("a", one), ("b", other)))
    assert compare(a, b)["queries"] == 1


# ---------------------------------------------------------------- the command


def test_the_command(tmp_path: Path, seglens: Run) -> None:
    path = write(tmp_path / "p.jsonl", [row("a", HALF, FULL), row("b", NONE, NONE), row("c", HALF, NONE)])
    code, out, err = seglens("score", path, "--protocol", "gres")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert (report["gIoU"], report["cIoU"]) == (0.5, 2 / 6)
    assert (report["N_acc"], report["T_acc"], report["P@0.5"], report["P@0.6"]) == (0.5, 1, 1, 0)
    assert "no model is needed" in seglens("score", "--help")[1]
    assert json.loads(seglens("score", path)[1])["protocol"] == "lisa"
    assert json.loads(seglens("score", path, "--against", path)[1])["cIoU"]["difference"] == 0


def test_the_command_in_error(tmp_path: Path, seglens: Run) -> None:
    path = write(tmp_path / "p.jsonl", [GOOD, "nonsense"])
    for arguments, says in (
        ((path,), f"{path}:2: line 2: not JSON"),
        ((tmp_path / "absent",), "No such file"),
        ((tmp_path,), "Is a directory"),
        ((path, "--protocol", "lissa"), "no protocol 'lissa'"),
    ):
        code, out, err = seglens("score", *arguments)
        assert (code, out) == (2, "")
        assert says in err
        assert len(err.splitlines()) == 1
    code, out, _ = seglens("score", path, "--bad", "skip")
    assert code == 0
    assert json.loads(out)["skipped"] == 1
