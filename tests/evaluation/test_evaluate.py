"""What is counted, from predictions made by hand."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import forked
from command import Run
from data.lisa_files import stripes, write_ade20k
from forked import Started, command
from seglens.core.distributed import Ranks, joined
from seglens.core.journal import JournalError
from seglens.core.types import Sample, Target
from seglens.data.faults import DataError, RecordFault
from seglens.data.image_record import DecodedMask, ImageRecord, QueryRecord
from seglens.data.records import Records
from seglens.data.world import WorldData
from seglens.evaluation.evaluate import run, run_shared
from seglens.evaluation.records import as_json, prediction_lines, record_of
from seglens.evaluation.score import read_predictions, score
from seglens.evaluation.shared_answers import AnswerJournal, SampleRow
from seglens.evaluation.summary import results, summarise
from seglens.inference.prediction import Prediction, on_mask
from seglens.inference.segmenter import Segmenter
from seglens.inference.thresholds import threshold_logit

SIDE = 20


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y0:y1, x0:x1] = True
    return mask


NOTHING = box(0, 0, 0, 0)


def prediction_of(full_mask: np.ndarray, found: bool = True, points: tuple = ((5.0, 5.0),)) -> Prediction:
    """A prediction that drew `drawn`, and shows it if `found`."""
    mask, keypoints = full_mask if found else NOTHING, np.array(points, np.float32).reshape(-1, 2)
    return Prediction(
        query="q",
        image=np.zeros((SIDE, SIDE, 3), np.uint8),
        mask=mask,
        logits=np.where(full_mask, 1, -1).astype(np.float32),
        score=0.9,
        presence=0.8 if found else 0.1,
        found=found,
        heat_map=None,
        keypoints=keypoints,
        keypoint_scores=np.ones(len(keypoints), np.float32),
        keypoint_labels=on_mask(mask, keypoints),
    )


def report(*pairs: tuple[Target, Prediction]) -> dict[str, Any]:
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    records = [record_of(Sample(str(n), image, (t,)), t, p, 0.0) for n, (t, p) in enumerate(pairs)]
    numbers = summarise(records)
    json.dumps([numbers, as_json(records)], allow_nan=False)  # whatever the data, the report is JSON
    return numbers


def test_overlap_is_counted_in_pixels() -> None:
    target = Target("a", box(0, 0, 10, 10), "name")
    numbers = report((target, prediction_of(box(0, 0, 10, 5))), (target, prediction_of(box(0, 0, 10, 10))))
    assert numbers["with_target"]["gIoU"] == pytest.approx(0.75)
    assert numbers["with_target"]["cIoU"] == pytest.approx(150 / 200)
    assert numbers["with_target"]["P@0.5"] == 1.0
    low, high = numbers["with_target"]["gIoU_95"]
    assert 0.5 <= low <= 0.75 <= high <= 1.0
    assert (numbers["queries"], numbers["images"]) == (2, 2)


def test_a_present_target_that_is_refused_counts_as_a_miss() -> None:
    target = Target("a", box(0, 0, 10, 10))
    numbers = report((target, prediction_of(box(0, 0, 10, 10), found=False)))
    assert numbers["with_target"]["gIoU"] == 0
    assert numbers["with_target"]["cIoU"] == 0
    assert numbers["drawn_gIoU"] == 1.0
    assert numbers["presence"] == {
        "absent": 0,
        "absent_refused": None,
        "present_kept": 0.0,
        "refusal_precision": 0.0,
    }
    sample = Sample("0", np.zeros((SIDE, SIDE, 3), np.uint8), (target,))
    record = record_of(sample, target, prediction_of(NOTHING, found=False), 0.0)
    assert (record.intersection, record.union, record.predicted, record.actual) == (0, 100, 0, 100)


def test_absent_targets_are_judged_apart() -> None:
    absent = Target("unicorn", NOTHING, "absent")
    present = Target("a", box(0, 0, 10, 10), "name")
    numbers = report(
        (absent, prediction_of(box(0, 0, 5, 5), found=False)),
        (absent, prediction_of(box(0, 0, 5, 5))),
        (present, prediction_of(box(0, 0, 10, 10))),
    )
    assert numbers["with_target"]["n"] == 1
    assert list(numbers["by_kind"]) == ["name"]
    assert numbers["presence"] == {
        "absent": 2,
        "absent_refused": 0.5,
        "present_kept": 1.0,
        "refusal_precision": 1.0,
    }
    alone = report((absent, prediction_of(NOTHING, found=False)))
    assert alone["with_target"] is None
    assert alone["keypoints"] == {"strongest_inside": None, "inside": None, "per_query": None}


def test_by_kind_and_by_size() -> None:
    small, medium, large = box(0, 0, 2, 2), box(0, 0, 4, 4), box(0, 0, SIDE, SIDE)
    numbers = report(
        (Target("a", small, "name"), prediction_of(small)),
        (Target("b", medium, "reasoning"), prediction_of(NOTHING)),
        (Target("c", large, "reasoning (held out)"), prediction_of(large)),
    )
    assert {size: row["n"] for size, row in numbers["by_size"].items()} == {"small": 1, "medium": 1, "large": 1}
    assert numbers["by_size"]["large"]["gIoU"] == 1.0  # a target as large as the image is a target
    assert {kind: row["gIoU"] for kind, row in numbers["by_kind"].items()} == {
        "name": 1.0,
        "reasoning": 0.0,
        "reasoning (held out)": 1.0,
    }
    assert numbers["reasoning_all"]["gIoU"] == 0.5


def test_keypoints_inside_the_target() -> None:
    target = Target("a", box(0, 0, 10, 10))
    points = ((5.0, 5.0), (15.0, 15.0), (5.0, 25.0))  # on it, off it, in the canvas's padding
    numbers = report(
        (target, prediction_of(target.mask, points=points)), (target, prediction_of(target.mask, points=points[1:]))
    )
    assert numbers["keypoints"] == {"strongest_inside": 0.5, "inside": 0.2, "per_query": 2.5}
    without = report((target, prediction_of(target.mask, points=())))
    assert without["keypoints"] == {"strongest_inside": None, "inside": None, "per_query": 0.0}


def test_what_was_drawn_is_drawn_at_the_segmenter_s_threshold(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmenter, "mask_threshold", 1e6)  # no logit is above it: nothing is drawn
    assert not any(r.drawn_intersection or r.found for r in run(segmenter, WorldData(n=1, seed=3, queries=3)))


def test_presence_that_no_head_judges_is_null() -> None:
    target = Target("a", box(0, 0, 10, 10))
    one = replace(prediction_of(target.mask), presence=None)
    record = record_of(Sample("0", one.image, (target,)), target, one, 0.0)
    assert json.loads(json.dumps(as_json([record]), allow_nan=False))[0]["presence"] is None
    assert summarise([record])["presence"]["present_kept"] == 1.0


def test_no_data_is_no_crash() -> None:
    numbers = summarise([])
    assert numbers["with_target"] is None
    json.dumps(numbers, allow_nan=False)


def test_a_segmenter_is_asked_every_query(segmenter: Segmenter) -> None:
    data, ticks = WorldData(n=2, seed=3, queries=3), []
    records = run(segmenter, data, lambda: ticks.append(1))
    assert [r.query for r in records] == [target.query for sample in data for target in sample.targets]
    assert len(ticks) == 2
    json.dumps([summarise(records), as_json(records)], allow_nan=False)


# ---------------------------------------------------------------- protocols, files, processes

DATA = WorldData(n=6, seed=3, queries=3)


def test_ignored_pixels_count_nowhere() -> None:
    target = Target("a", box(0, 0, 10, 10), ignore=box(0, 5, SIDE, SIDE))
    record = record_of(
        Sample("0", prediction_of(NOTHING).image, (target,)), target, prediction_of(box(0, 0, 10, 20)), 0.0, masks=True
    )
    assert (record.intersection, record.union, record.predicted, record.actual) == (50, 50, 50, 50)
    assert (record.drawn_intersection, record.drawn_union) == (50, 50)
    assert record.masks is not None
    assert set(record.masks) == {"prediction", "target", "ignore"}


def test_every_query_has_its_own_id(segmenter: Segmenter, scene: Sample) -> None:
    records = run(segmenter, [scene, replace(scene, id="other"), scene])
    places = [(scene.id, 0), ("other", 0), (scene.id, 3)]
    assert [r.id for r in records] == [f"{name}/{first + k}" for name, first in places for k in range(3)]
    assert {r.image for r in records} == {scene.id, "other"}


def test_a_query_is_found_by_the_id_of_its_record(segmenter: Segmenter, scene: Sample) -> None:
    """The number stands in where a record has no id, shares it, or would take another's place."""
    first = scene.targets[0]

    def ids(*names: str | None) -> list[str]:
        sample = Sample("image", scene.image, tuple(replace(first, id=name) for name in names))
        return [record.id.removeprefix("image/") for record in run(segmenter, [sample])]

    assert ids("a", "line 2", "a/b") == ["a", "line 2", "a/b"]
    assert ids("a", "line 2")[1:] == ids("line 2")  # the same when what stands before it is left out
    assert ids("x", "a", None, "a") == ["x", "1", "2", "3"]
    assert ids("1", None, "a", "a") == ["1", "2", "3", "4"]
    sample = Sample("image", scene.image, (replace(first, id="a"), replace(first, id="b")))
    twice = [record.id for record in run(segmenter, [sample, sample])]
    assert twice == ["image/a", "image/b", "image/2", "image/3"]


def test_predictions_on_disk_score_the_same(segmenter: Segmenter, tmp_path: Path) -> None:
    records = run(segmenter, DATA, masks=True)
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in prediction_lines(records)))
    again = read_predictions(path)
    assert again.outcomes == [r.outcome for r in records]
    for protocol in ("lisa", "gres", "rec", "fp-refcoco"):
        expected = {"file": str(path), "protocol": protocol, **results(records, protocol), "skipped": 0}
        assert score(again, protocol) == expected
    assert results(records, "world") == summarise(records)
    with pytest.raises(ValueError, match="no protocol 'x'"):
        results(records, "x")


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_shares_are_all_of_it_once(world: int) -> None:
    shares = [Ranks(rank, world).share(6) for rank in range(world)]
    assert sorted(index for share in shares for index in share) == list(range(6))


def test_ranks_that_make_no_sense_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with joined() as alone:
        assert alone == Ranks()
        assert alone.device("cuda") == "cuda"
        assert alone.launch == ""
    assert Ranks(3, 4, local=1).device("cuda") == "cuda:1"
    assert Ranks(3, 4, local=1).device("cpu") == "cpu"
    assert Ranks(3, 4).launch.startswith("4 processes")
    for rank, world in (("2", "2"), ("0", "two")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", world)
        with pytest.raises(ValueError, match="name no process"), joined():
            pass


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path: Path, seglens: Run) -> None:
    """Three samples for two: the odd one out is neither padded nor doubled."""
    options = ["eval", "--data", "world:n=3,seed=3,queries=2", "--protocol", "gres", "--json"]
    alone = json.loads(seglens(*options, "--predictions", tmp_path / "one.jsonl")[1])
    two = Started(forked.command, *options, "--predictions", tmp_path / "two.jsonl", processes=2)
    assert two.wait(120) == [0, 0], two.errors
    assert json.loads(two.printed) == alone  # printed once, by the first
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()


class Square:
    def draw(self, size: tuple[int, int]) -> DecodedMask:
        mask = np.zeros(size, bool)
        mask[2:9, 2:9] = True
        return DecodedMask(mask)


def images(folder: Path) -> Iterator[ImageRecord | RecordFault]:
    """Four records: a good one, one that the index refuses, one whose image is not there, a good one."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(folder / "here.png")
    for name in ("here", "gone"):
        yield ImageRecord(
            name,
            folder / f"{name}.png",
            "index.json",
            (QueryRecord("cat", Square(), "1"), QueryRecord("dog", Square(), "2")),
        )
        yield (
            RecordFault("index.json", "5", "no polygon")
            if name == "here"
            else ImageRecord("again", folder / "here.png", "index.json", (QueryRecord("cat", Square(), "3"),))
        )


def test_samples_that_cannot_be_read_are_reported(segmenter: Segmenter, tmp_path: Path) -> None:
    data = Records("photos", images(tmp_path), trainable=False, bad="skip")
    outcome = run_shared(segmenter, data, Ranks())
    assert outcome is not None
    assert [r.id for r in outcome.records] == ["here/1", "here/2", "again/3"]
    assert [fault.record for fault in outcome.faults] == ["5", "gone"]
    assert outcome.damaged == []


def test_a_damaged_picture_ends_nothing(segmenter: Segmenter, tmp_path: Path) -> None:
    """It is counted apart from what the data leaves out; where there is nothing else, it is an error."""
    entries = [entry for entry in images(tmp_path) if isinstance(entry, ImageRecord)]
    ticks, queries = list[int](), list[str]()
    outcome = run_shared(
        segmenter,
        Records("photos", entries, trainable=False),
        Ranks(),
        lambda: ticks.append(1),
        on_records=lambda records: queries.extend(record.query for record in records),
    )
    assert outcome is not None
    assert [r.id for r in outcome.records] == ["here/1", "here/2", "again/3"]
    assert [str(fault) for fault in outcome.damaged] == [
        str(fault) for fault in outcome.damaged if "gone.png" in str(fault)
    ]
    assert (len(outcome.damaged), outcome.faults, len(ticks)) == (1, [], 3)
    assert queries == ["cat", "dog", "cat"]
    with pytest.raises(DataError, match="gone"):
        run_shared(segmenter, Records("photos", entries[1:2], trainable=False), Ranks())


def test_stored_answers_are_not_computed_a_second_time(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after any sample, then gone on with: the same records, and each sample is asked once."""
    data = WorldData(n=4, seed=3, queries=2)
    whole = run_shared(segmenter, data, Ranks(), masks=True, size=1)
    opened, settings = list[int](), {"model": "one"}
    encode = segmenter.backbone.open_many

    def counted(images: list[np.ndarray]) -> object:
        opened.append(len(images))
        if len(opened) == 3:
            raise KeyboardInterrupt
        return encode(images)

    monkeypatch.setattr(segmenter.backbone, "open_many", counted)
    path = tmp_path / "p.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run_shared(segmenter, data, Ranks(), masks=True, journal=AnswerJournal(path, settings, Ranks()), size=1)
    stored = AnswerJournal(path, settings, Ranks())
    assert sorted(stored.rows) == [0, 1]
    assert run_shared(segmenter, data, Ranks(), masks=True, journal=stored, size=1) == whole
    assert opened == [1] * 5
    with pytest.raises(JournalError, match=r"p.jsonl.part is the journal of something else: .*; give another name"):
        AnswerJournal(path, {"model": "two"}, Ranks())
    assert AnswerJournal(path, {"model": "two"}, Ranks(), anew=True).rows == {}
    AnswerJournal(path, settings, Ranks()).close()
    assert list(tmp_path.iterdir()) == []


def test_samples_that_share_a_pass_have_the_same_records_wherever_a_run_stopped(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, also for two processes: the same samples are always together."""
    data, path = WorldData(n=5, seed=3, queries=2), tmp_path / "p.jsonl"
    journal = AnswerJournal(path, {}, Ranks())
    whole = run_shared(segmenter, data, Ranks(), journal=journal, size=2)
    assert whole is not None
    sizes, encode = list[int](), segmenter.backbone.open_many
    monkeypatch.setattr(segmenter.backbone, "open_many", lambda images: (sizes.append(len(images)), encode(images))[1])
    lines = path.with_name("p.jsonl.part").read_bytes().splitlines(keepends=True)
    path.with_name("p.jsonl.part").write_bytes(b"".join(lines[:4]))  # the header and three samples
    again = run_shared(segmenter, data, Ranks(), journal=AnswerJournal(path, {}, Ranks()), size=2)
    assert again == whole
    assert sizes == [2, 1]
    parts = [run_shared(segmenter, data, Share(rank, 2), size=2) for rank in range(2)]
    assert sorted((one for part in parts if part for one in part.records), key=lambda one: one.id) == sorted(
        whole.records, key=lambda one: one.id
    )


def test_processes_with_unlike_free_memory_leave_out_no_sample(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They divide the samples alike, and none asks one that another asks, however many fit into a pass of each."""
    data, images = WorldData(n=5, seed=3, queries=1), list[str]()
    monkeypatch.setattr("seglens.inference.image_batches.MOST", 2)
    for rank, free in enumerate((2**36, 2**20)):
        monkeypatch.setattr("seglens.inference.image_batches.free_memory", partial(int, free))
        part = run_shared(segmenter, data, Share(rank, 2))
        assert part is not None
        images += [record.image for record in part.records]
    assert sorted(images) == sorted(sample.id for sample in data)


class Share(Ranks):
    """One of several processes, which reports its own share."""

    def gather(self, mine: object) -> list[object]:
        return [mine]


def test_processes_go_on_with_what_others_kept(segmenter: Segmenter, tmp_path: Path) -> None:
    """One process goes on where two were stopped."""
    data, path = WorldData(n=4, seed=3, queries=2), tmp_path / "p.jsonl"
    for rank in range(2):
        AnswerJournal(path, {}, Ranks(rank, 2)).add(rank, SampleRow([]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.jsonl.part", "p.jsonl.part1"]
    outcome = run_shared(segmenter, data, Ranks(), journal=AnswerJournal(path, {}, Ranks()))
    assert outcome is not None
    assert {record.image for record in outcome.records} == {data[2].id, data[3].id}


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(seglens: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL, then the same command: the same files to the last byte, and nothing beside them."""
    monkeypatch.chdir(tmp_path)
    arguments = ["eval", "--data", "world:n=12,seed=3,queries=2", "--protocol", "lisa", "--json"]
    one = Started(command, *arguments, "--records", "r.jsonl", "--predictions", "p.jsonl")
    while one.running and not (Path("p.jsonl").exists() and Path("p.jsonl").read_bytes().count(b"\n") > 3):
        time.sleep(0.01)
    one.kill()
    assert one.wait() == [-signal.SIGKILL]
    assert Path("p.jsonl").read_bytes().count(b"\n") > 3  # written as they came
    code, out, err = seglens(*arguments, "--predictions", "other.jsonl")
    whole = json.loads(out)
    code, out, err = seglens(*arguments, "--predictions", "p.jsonl", "--records", "r.jsonl", "--mask-threshold", "0.6")
    assert (code, out) == (2, "")
    assert "p.jsonl.part is the journal of something else" in err
    code, out, err = seglens(*arguments, "--records", "r.jsonl", "--predictions", "p.jsonl")
    assert (code, json.loads(out)) == (0, whole)
    assert Path("p.jsonl").read_bytes() == Path("other.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.jsonl", "p.jsonl", "r.jsonl"]
    code, out, err = seglens(*arguments, "--predictions", "p.jsonl")
    assert (code, out) == (2, "")
    assert "'p.jsonl' is there already; choose another place" in err
    assert seglens(*arguments, "--predictions", "p.jsonl", "--overwrite")[0] == 0


def test_a_damaged_picture_and_the_command(seglens: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seglens("world", "sample", "--n", 3, "--seed", 7, "--out", "world")
    assert seglens("segment", "world", "the largest thing", "--format", "coco")[0] == 0
    Path("world/0001.png").write_bytes(Path("world/0001.png").read_bytes()[:3000])
    Path("classes.txt").write_text("the largest thing\nthe sky\n")
    for protocol, more in {"lisa": (), "miou": ("--classes", "classes.txt")}.items():
        arguments = (
            "eval",
            "--data",
            "coco:images=world,annotations=out/coco.json",
            "--protocol",
            protocol,
            "--json",
            *more,
        )
        code, out, err = seglens(*arguments, "--records", f"{protocol}.jsonl")
        report = json.loads(out)
        assert code == 1
        assert report["skipped"] == 1
        assert "'world/0001.png' is cut short" in report["faults"][0]
        assert "seglens: 1 of 3 images could not be evaluated:" in err
        assert Path(f"{protocol}.jsonl").read_bytes().count(b"\n") == 2
        assert list(tmp_path.glob("*.part")) == []


def test_thresholds_are_probabilities() -> None:
    assert threshold_logit(0.5) == 0
    assert 1 / (1 + math.exp(-threshold_logit(0.6))) == pytest.approx(0.6)
    for wrong in (0.0, 1.0, -2.0, 60.0, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            threshold_logit(wrong)


def test_the_command_with_protocols(tmp_path: Path, seglens: Run) -> None:
    evaluate = partial(seglens, "eval", "--data", "world:n=2,seed=3,queries=3")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    code, out, _ = evaluate("--protocol", "lisa")
    assert code == 0
    assert "gIoU" in out
    low = json.loads(evaluate("--protocol", "lisa", "--json", "--mask-threshold", "0.05")[1])
    high = json.loads(evaluate("--protocol", "lisa", "--json", "--mask-threshold", "0.9")[1])
    assert low["gIoU"] != high["gIoU"]
    assert low["skipped"] == 0
    for arguments, says in (
        (("--protocol", "rela"), "no protocol 'rela'"),
        (("--protocol", "miou"), "give --classes FILE"),
        (("--classes", str(tmp_path / "classes.txt")), "give --protocol miou"),
        (("--mask-threshold", "60"), "between 0 and 1"),
        (("--protocol", "miou", "--classes", str(tmp_path / "none.txt")), "none.txt"),
        (("--protocol", "miou", "--classes", str(tmp_path / "classes.txt"), "--predictions", "p"), "no --predictions"),
        (("--protocol", "miou", "--classes", str(tmp_path / "classes.txt")), "is not in the class list"),
    ):
        code, out, err = evaluate(*arguments)
        assert (code, out) == (2, "")
        assert says in err


def test_a_closed_vocabulary_brings_its_class_names(tmp_path: Path, seglens: Run) -> None:
    data = f"ade20k:root={write_ade20k(tmp_path, b=stripes(1, 2), a=stripes(13))},limit=1"
    own = json.loads(seglens("eval", "--data", data, "--protocol", "miou", "--json")[1])
    assert (own["classes"], own["classes_that_occur"]) == (150, 1)
    (tmp_path / "classes.txt").write_text("sky\nperson\n")
    arguments = ("eval", "--data", data, "--protocol", "miou", "--classes", tmp_path / "classes.txt", "--json")
    code, out, err = seglens(*arguments)
    assert (code, json.loads(out)["classes"]) == (0, 2), err
