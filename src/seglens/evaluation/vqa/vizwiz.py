"""VizWiz-VQA (Gurari et al., arXiv 1802.08218): questions of blind people about their own photographs, each answered by
ten people; many cannot be answered.

Files: `<split>.json`, a list with an object per photograph, and the photographs in a folder of the split's name. The
rule is VizWiz's own. Prompt and length of an answer are those of InternVL's evaluation."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from seglens.evaluation.vqa import consensus, files
from seglens.evaluation.vqa.questions import BenchmarkError, BenchmarkQuestion, FileImage, distinct
from seglens.evaluation.vqa.submissions import json_list
from seglens.evaluation.vqa.vqa import SHORT

UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."

score = partial(consensus.score, consensus.vizwiz_accuracy)
SUBMISSION = json_list("image", "answer")


def read(root: str) -> list[BenchmarkQuestion]:
    """The questions of a file, or of the validation split of a folder."""
    path = files.only_file(root, ["val.json"], "VizWiz")
    rows = files.read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BenchmarkError(f"{path}: need a list with an object per photograph, as VizWiz publishes it")
    return distinct([_question(row, path, number) for number, row in enumerate(rows)], str(path))


def _question(row: dict[str, Any], path: Path, number: int) -> BenchmarkQuestion:
    where = f"{path}: [{number}]"
    image = files.text_of(row, "image", where)
    folder = files.folder_near(path, (path.stem, f"images/{path.stem}", "images"))
    return BenchmarkQuestion(
        image,
        f"{files.text_of(row, 'question', where)} {UNANSWERABLE} {SHORT}",
        where,
        consensus.answers_of(row, where) if "answers" in row else None,
        (FileImage(folder / image),),
        category=str(row.get("answer_type", "")),
        record={"image": image},
    )
