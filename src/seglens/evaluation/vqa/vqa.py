"""VQAv2 (Goyal et al., arXiv 1612.00837) and OK-VQA (Marino et al., arXiv 1906.00067): open questions about COCO's
pictures, each answered by ten people.

Files, as both publish them: `*OpenEnded_mscoco_<split>_questions.json`, and beside it the annotations, whose name lacks
`OpenEnded_` and ends in `_annotations.json`; without them (test, test-dev) only the server has the answers. Images are
COCO's of 2014 and 2015, in a folder of the split's name. Prompt and length of an answer are those of InternVL's
evaluation, which made SELF1E's Table 9."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from seglens.evaluation.vqa import consensus, files
from seglens.evaluation.vqa.questions import BenchmarkError, BenchmarkQuestion, FileImage, distinct
from seglens.evaluation.vqa.submissions import json_list

SHORT = "Answer the question using a single word or phrase."
MAX_NEW_TOKENS = 10
QUESTIONS = "OpenEnded_mscoco_val2014_questions.json"

score = partial(consensus.score, consensus.vqa_accuracy)
SUBMISSION = json_list("question_id", "answer")


def read_vqav2(root: str) -> list[BenchmarkQuestion]:
    """The questions of a file, or of the validation split of a folder."""
    return _read(files.only_file(root, [f"v2_{QUESTIONS}"], "VQAv2"))


def read_okvqa(root: str) -> list[BenchmarkQuestion]:
    """The questions of a file, or of the validation split of a folder."""
    return _read(files.only_file(root, [QUESTIONS], "OK-VQA"))


def _read(path: Path) -> list[BenchmarkQuestion]:
    content = _object(path)
    split = content.get("data_subtype") or path.stem.split("_mscoco_")[-1].removesuffix("_questions")
    known = _annotations(path, split)
    folder_name = str(split).replace("-dev", "")
    folder = files.folder_near(path, (folder_name, f"images/{folder_name}", f"coco/{folder_name}"))
    questions = [
        _question(row, path, folder / f"COCO_{folder_name}_", known) for row in _rows(content, "questions", path)
    ]
    return distinct(questions, str(path))


def _annotations(path: Path, split: str) -> dict[int, dict[str, Any]] | None:
    """The annotations by question, None where the split has none."""
    beside = path.with_name(path.name.replace("OpenEnded_", "").replace("_questions", "_annotations"))
    if beside == path or not beside.is_file():
        if "test" in split:
            return None
        raise BenchmarkError(f"{path}: its annotations are missing; put {beside.name} beside it")
    return {row["question_id"]: row for row in _rows(_object(beside), "annotations", beside)}


def _object(path: Path) -> dict[str, Any]:
    content = files.read_json(path)
    if not isinstance(content, dict):
        raise BenchmarkError(f"{path}: got a {type(content).__name__}; need an object as VQA publishes it")
    return content


def _rows(content: Mapping[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    rows = content.get(key)
    if not isinstance(rows, list):
        raise BenchmarkError(f"{path}: need a list {key!r}; the file holds {', '.join(content)[:200] or 'nothing'}")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not all(isinstance(row.get(name), int) for name in ("question_id", "image_id")):
            raise BenchmarkError(f"{path}: {key}[{number}] needs question_id and image_id, whole numbers")
    return rows


def _question(
    row: dict[str, Any], path: Path, image: Path, known: dict[int, dict[str, Any]] | None
) -> BenchmarkQuestion:
    number = row["question_id"]
    where = f"{path}: question {number}"
    people, kind = None, ""
    if known is not None:
        if number not in known:
            raise BenchmarkError(f"{where}: the annotations have no answers to it; both files must be of one release")
        people, kind = consensus.answers_of(known[number], where), str(known[number].get("answer_type", ""))
    file = FileImage(image.with_name(f"{image.name}{row['image_id']:012d}.jpg"))
    return BenchmarkQuestion(
        str(number),
        f"{files.text_of(row, 'question', where)} {SHORT}",
        where,
        people,
        (file,),
        category=kind,
        record=row,
    )
