"""POPE (Li et al., arXiv 2305.10355): is an object in the image? Half of the answers are no, about random, popular or
adversarial objects.

Files: `<images>_pope_<setting>.json`, a JSON object per line (question_id, image, text, label); a folder means all of
them. Images are beside the file, in `val2014/` or in `images/`. The prompt is the question as written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seglens.evaluation.vqa.answers import mean, paired, pope_label
from seglens.evaluation.vqa.files import json_lines, text_of
from seglens.evaluation.vqa.questions import BenchmarkError, BenchmarkQuestion, FileImage, distinct

IMAGE_FOLDERS = ("val2014", "images", ".")


def read(root: str) -> list[BenchmarkQuestion]:
    """The questions of a file, or of every `*_pope_*.json` of a folder; ids are `<setting>/<question_id>`."""
    path = Path(root)
    files = sorted(path.glob("*_pope_*.json")) if path.is_dir() else [path]
    if not files:
        raise BenchmarkError(f"{root} holds no *_pope_*.json; name POPE's folder or one of its files")
    return distinct([question for file in files for question in _file(file)], root)


def _file(path: Path) -> Iterator[BenchmarkQuestion]:
    setting = path.stem.split("_pope_")[-1]
    folder = next((path.parent / name for name in IMAGE_FOLDERS if (path.parent / name).is_dir()), path.parent)
    for number, row in json_lines(path):
        where = f"{path}:{number}"
        if not isinstance(row.get("question_id"), int | str):
            raise BenchmarkError(f"{where}: question_id is missing; the fields are {', '.join(row)}")
        label = text_of(row, "label", where)
        if label not in ("yes", "no"):
            raise BenchmarkError(f"{where}: label is {label!r}; need yes or no")
        image = FileImage(folder / text_of(row, "image", where))
        yield BenchmarkQuestion(
            f"{setting}/{row['question_id']}", text_of(row, "text", where), where, label, (image,), category=setting
        )


def score(questions: Sequence[BenchmarkQuestion], answers: Mapping[str, str]) -> dict[str, Any]:
    """Accuracy, precision, recall, F1 (of yes) and the share of yes, 0 to 1, of each setting, and `mean`, their mean
    over the settings. A ratio over nothing is 0."""
    labels: defaultdict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for question, reply in paired(questions, answers):
        labels[question.category].append((pope_label(reply) == "yes", question.answer == "yes"))
    settings = {name: _ratios(pairs) for name, pairs in sorted(labels.items())}
    ratios = list(settings.values())
    return {
        "questions": len(questions),
        "mean": {name: mean([setting[name] for setting in ratios]) for name in ratios[0]},
        "by_category": settings,
    }


def _ratios(pairs: Sequence[tuple[bool, bool]]) -> dict[str, float]:
    right = sum(yes and true for yes, true in pairs)
    replied_yes, true_yes = sum(yes for yes, _ in pairs), sum(true for _, true in pairs)
    return {
        "accuracy": mean([yes == true for yes, true in pairs]),
        "precision": right / replied_yes if replied_yes else 0.0,
        "recall": right / true_yes if true_yes else 0.0,
        "f1": 2 * right / (replied_yes + true_yes) if replied_yes + true_yes else 0.0,
        "yes": replied_yes / len(pairs),
    }
