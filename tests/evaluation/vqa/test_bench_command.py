"""`seglens bench` through the real model, and its one-line refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import vqa_files

from command import Run
from seglens.evaluation.vqa import BENCHMARKS
from seglens.inference.segmenter import Segmenter
from shared import shared


def test_the_embedded_model_answers_mme(seglens: Run, tmp_path: Path) -> None:
    """It was never taught photographs, so nothing is claimed of the height; the same answers score the same."""
    out, root = tmp_path / "answers.jsonl", shared("general/mme/mini")
    code, printed, _ = seglens("bench", "mme", "--root", root, "--out", out, "--json")
    assert code == 0
    report = json.loads(printed)
    assert {key: report[key] for key in ("benchmark", "model", "asked", "first_image_only")} == {
        "benchmark": "mme",
        "model": "embedded",
        "asked": 14,
        "first_image_only": 0,
    }
    scores = report["scores"]
    assert scores["perception"] is None
    assert set(scores["by_category"]) == {"color", "count", "position"}
    assert all(0 <= row["score"] <= 200 for row in scores["by_category"].values())
    assert 0 <= scores["other"] <= 14
    code, printed, _ = seglens("bench", "mme", "--root", root, "--answers", out, "--json")
    assert code == 0
    assert json.loads(printed)["scores"] == scores


def test_a_damaged_picture_ends_nothing(seglens: Run, tmp_path: Path) -> None:
    """It is listed with the questions about it, the others are scored, and a run on the mended data asks only these."""
    root, out = tmp_path / "mme", tmp_path / "answers.jsonl"
    shutil.copytree(shared("general/mme/mini"), root)
    options = ("bench", "mme", "--root", root, "--out", out, "--json")
    first, second = sorted(path for path in root.rglob("*") if path.suffix in (".jpg", ".png"))[:2]
    held = first.read_bytes()
    first.chmod(0o644)
    second.chmod(0o644)
    first.write_bytes(held[: len(held) // 2])
    second.rename(second.with_suffix(".gone"))
    code, printed, err = seglens(*options)
    report = json.loads(printed)
    assert (code, report["asked"]) == (1, 10)
    assert len(report["faults"]) == 4
    assert "seglens: 4 questions could not be asked, and are not scored:" in err
    assert "cut short or damaged" in err
    assert "does not exist" in err
    first.write_bytes(held)
    second.with_suffix(".gone").rename(second)
    before = out.read_bytes()
    code, printed, _ = seglens(*options)
    assert (code, json.loads(printed)["asked"]) == (0, 14)
    assert out.read_bytes().startswith(before)


def test_a_bare_backbone_answers_pope_alike(seglens: Run, segmenter: Segmenter) -> None:
    """Four images, 24 questions; with the head attached and without."""
    root = shared("general/pope/mini")
    reports = []
    for whom in (("--model", "embedded"), ("--backbone", segmenter.backbone.name)):
        code, printed, _ = seglens("bench", "pope", "--root", root, "--max-new-tokens", 8, *whom, "--json")
        assert code == 0
        reports.append(json.loads(printed))
    assert reports[0]["scores"] == reports[1]["scores"]
    assert reports[1]["backbone"] == segmenter.backbone.name
    assert set(reports[0]["scores"]["mean"]) == {"accuracy", "precision", "recall", "f1", "yes"}


def test_the_world_for_people(seglens: Run) -> None:
    code, printed, _ = seglens("bench", "world-vqa", "--root", "n=2,seed=3", "--limit", 5)
    assert code == 0
    assert "world-vqa: 5 answers of embedded" in printed
    assert "accuracy" in printed


def test_who_answers_for_people(seglens: Run) -> None:
    """An adapter that answers is not the untouched model, and the score states it."""
    code, printed, _ = seglens(
        "bench", "world-vqa", "--root", "n=1,seed=1", "--limit", 1, "--model", "embedded/self1e", "--adapter"
    )
    assert code == 0
    assert "world-vqa: 1 answers of embedded/self1e through its adapter, pictures as they came\n" in printed


def test_the_report_states_how_pictures_were_shown(seglens: Run, llava: Path, tmp_path: Path) -> None:
    """LLaVA-1.5's processor crops: padded or as they came are two scores, and answers of both never share a file."""
    out = tmp_path / "answers.jsonl"
    options = ("bench", "pope", "--root", shared("general/pope/mini"), "--backbone", llava, "--limit", 1, "--out", out)
    few = ("--max-new-tokens", 2)
    code, printed, _ = seglens(*options, *few, "--json")
    assert (code, json.loads(printed)["pictures"]) == (0, "padded to squares")
    code, _, err = seglens(*options, *few, "--as-is")
    assert code == 2
    assert "answers.jsonl holds the answers of" in err
    assert "pictures=padded to squares" in err
    out.unlink()
    code, printed, _ = seglens(*options, *few, "--as-is")
    assert code == 0
    assert ", pictures as they came" in printed


def test_published_outputs_for_people(seglens: Run) -> None:
    folder = shared("general/mmmu")
    code, printed, _ = seglens("bench", "mmmu", "--root", folder, "--answers", folder / "llava1.5_13b_val.json")
    assert code == 0
    rows = [line.replace("│", " ").split() for line in printed.splitlines()]
    assert ["overall", "0.36"] in rows


def test_secret_answers_give_a_submission_and_no_score(seglens: Run, tmp_path: Path) -> None:
    root = shared("general/mmbench")
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps({question.id: "A" for question in BENCHMARKS["mmbench"].read(str(root))}))
    arguments = ("bench", "mmbench", "--root", root, "--answers", answers, "--submission", tmp_path / "out.tsv")
    code, printed, _ = seglens(*arguments)
    assert (code, printed) == (0, f"20 answers of {answers} for the server: {tmp_path / 'out.tsv'}\n")
    assert (
        (tmp_path / "out.tsv")
        .read_text()
        .startswith("index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\tprediction\n")
    )


def test_results_of_another_tool_and_a_submission(seglens: Run, tmp_path: Path, encoded: str) -> None:
    """A list as VQA's own code takes it is scored, and one is written for the split whose answers are not published."""
    root, results = vqa_files.vqav2(tmp_path, encoded), tmp_path / "results.json"
    answers = {262148000: "down", 262148001: "no", 393225000: "2"}
    results.write_text(json.dumps([{"question_id": name, "answer": text} for name, text in answers.items()]))
    code, printed, _ = seglens("bench", "vqav2", "--root", root, "--answers", results, "--json")
    assert code == 0
    assert json.loads(printed)["scores"]["accuracy"] == pytest.approx((0.6 + 0 + 1) / 3)
    test = root / "v2_OpenEnded_mscoco_test-dev2015_questions.json"
    code, _, err = seglens("bench", "vqav2", "--root", test)
    assert code == 2
    assert "the right answer is not public; write the file for the server with --submission" in err
    code, _, _ = seglens("bench", "vqav2", "--root", test, "--model", "embedded", "--submission", tmp_path / "out.json")
    assert code == 0
    assert [row["question_id"] for row in json.loads((tmp_path / "out.json").read_text())] == [262148000, 262148001]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ("mmee",),
            "there is no benchmark 'mmee'; choose from gqa, mme, mmbench, mmbench-circular, mmmu, mmstar, "
            "okvqa, pope, textvqa, vizwiz, vqav2, world-vqa; did you mean 'mme'?",
        ),
        (("mme",), "mme needs --root"),
        (("mme", "--root", "nowhere"), "nowhere holds no subtask of MME"),
        (("pope", "--root", "nowhere.json"), "'nowhere.json': No such file or directory"),
        (("world-vqa", "--root", "n=1", "--limit", "0"), "limit=0; need at least 1"),
        (("world-vqa", "--root", "n=1", "--max-new-tokens", "0"), "--max-new-tokens 0; need at least 1"),
        (("world-vqa", "--root", "n=1", "--submission", "a.tsv"), "world-vqa has no server for answers"),
        (("mmbench", "--root", "nowhere.tsv", "--submission", "a.txt"), "a.txt must end in .tsv or .csv"),
        (("world-vqa", "--root", "n=1", "--answers", "a.txt"), "'a.txt': No such file or directory"),
        (("world-vqa", "--root", "n=1", "--backbone", "no/such/model"), "no/such/model"),
    ],
)
def test_a_fault_is_reported_in_one_line(
    seglens: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, printed, message = seglens("bench", *arguments)
    assert (code, printed, message.count("\n")) == (2, "", 1)
    assert complaint in message


def test_images_are_looked_for_before_the_model_is_loaded(seglens: Run) -> None:
    """The popular questions without their five hundred images: refused for the first, not for the model."""
    root = shared("general/pope/coco_pope_popular.json")
    code, _, message = seglens("bench", "pope", "--root", root, "--model", "no-such-model")
    assert code == 2
    assert "coco_pope_popular.json:1: the image" in message
    assert "no-such-model" not in message


def test_another_benchmark_s_table_is_refused(seglens: Run) -> None:
    code, _, message = seglens("bench", "mmstar", "--root", shared("general/mmbench"))
    assert code == 2
    assert "is no table of MMStar: it has no column l2_category" in message


def test_an_answer_given_twice_is_refused(seglens: Run, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"0": "A", "0": "B"}')
    code, _, message = seglens(
        "bench", "mmbench", "--root", shared("general/mmbench"), "--answers", tmp_path / "a.json"
    )
    assert code == 2
    assert f"{tmp_path / 'a.json'}: '0' is there twice; keep one" in message
