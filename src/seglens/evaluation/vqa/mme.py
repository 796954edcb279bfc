"""MME (Fu et al., arXiv 2306.13394): fourteen subtasks, two yes/no questions per image.

Files, either way: `<subtask>.txt` of the eval_tool (image, question and answer by tabs, two lines per image), images
in `<subtask>/` or `<subtask>/images/`; or the release's folders `<subtask>/`, a text file per image (question and
answer by tab) beside it or in `questions_answers_YN/`. The prompt is the question as written, "Please answer yes or
no." in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seglens.evaluation.vqa.answers import mean, mme_label, paired
from seglens.evaluation.vqa.files import lines
from seglens.evaluation.vqa.questions import BenchmarkError, BenchmarkQuestion, FileImage, distinct

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
ENDINGS = (".jpg", ".png", ".jpeg")
PER_IMAGE = 2


def read(root: str) -> list[BenchmarkQuestion]:
    """The questions of every subtask under `root`. Raises BenchmarkError naming the file and line of what is wrong."""
    folder, questions = Path(root), list[BenchmarkQuestion]()
    for subtask in (*PERCEPTION, *COGNITION):
        if (folder / f"{subtask}.txt").is_file():
            questions += _table(folder, subtask)
        elif (folder / subtask).is_dir():
            questions += _folder(folder / subtask)
    if not questions:
        raise BenchmarkError(
            f"{root} holds no subtask of MME; need {PERCEPTION[0]}.txt or {PERCEPTION[0]}/ and the like"
        )
    return distinct(questions, root)


def _table(root: Path, subtask: str) -> Iterator[BenchmarkQuestion]:
    path = root / f"{subtask}.txt"
    first = ""
    for number, line in lines(path):
        if not line.strip():
            continue
        fields = line.rstrip("\r\n").split("\t")
        if len(fields) != 3:
            raise BenchmarkError(f"{path}:{number}: got {len(fields)} fields; need image, question and answer, by tabs")
        name, text, answer = fields
        second = bool(first)
        if second and name != first:
            raise BenchmarkError(f"{path}:{number}: got a question about {name!r}; need the second one about {first!r}")
        yield _question(subtask, _image(root / subtask, name), 1 + second, text, answer, f"{path}:{number}")
        first = "" if second else name
    if first:
        raise BenchmarkError(f"{path}: {first!r} at its end has one question; need {PER_IMAGE}: the file is cut short")


def _folder(folder: Path) -> Iterator[BenchmarkQuestion]:
    for path in sorted([*folder.glob("*.txt"), *folder.glob("questions_answers_YN/*.txt")]):
        images = [_image(folder, path.stem + ending) for ending in ENDINGS]
        image = next((image for image in images if image.is_file()), images[0])
        rows = [(number, line) for number, line in lines(path) if line.strip()]
        if len(rows) != PER_IMAGE:
            raise BenchmarkError(f"{path}: got {len(rows)} questions; need {PER_IMAGE}, one per line")
        for turn, (number, line) in enumerate(rows, 1):
            text, tab, answer = line.rstrip("\r\n").partition("\t")
            if not tab:
                raise BenchmarkError(f"{path}:{number}: no tab; need question and answer, by a tab")
            yield _question(folder.name, image, turn, text, answer, f"{path}:{number}")


def _image(folder: Path, name: str) -> Path:
    inner = folder / "images" / name
    return inner if inner.is_file() else folder / name


def _question(subtask: str, image: Path, turn: int, text: str, answer: str, where: str) -> BenchmarkQuestion:
    right = answer.strip().lower()
    if right not in ("yes", "no"):
        raise BenchmarkError(f"{where}: the answer is {answer!r}; need Yes or No")
    if not text.strip():
        raise BenchmarkError(f"{where}: the question is empty")
    group = f"{subtask}/{image.name}"
    return BenchmarkQuestion(
        f"{group}/{turn}",
        text,
        where,
        right,
        (FileImage(image),),
        group=group,
        category=subtask,
        area="perception" if subtask in PERCEPTION else "cognition",
    )


def score(questions: Sequence[BenchmarkQuestion], answers: Mapping[str, str]) -> dict[str, Any]:
    """100 times accuracy plus 100 times accuracy+ (both questions of an image right) of each subtask; their sums over
    the ten of perception and the four of cognition, None if one of them is missing. `other` counts answers that are
    neither yes nor no; they are wrong."""
    hits: defaultdict[str, defaultdict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    other = 0
    for question, reply in paired(questions, answers):
        label = mme_label(reply)
        other += label == "other"
        hits[question.category][question.group].append(label == question.answer)
    subtasks = {name: _subtask(groups) for name, groups in hits.items()}
    sums = {area: _sum(subtasks, names) for area, names in (("perception", PERCEPTION), ("cognition", COGNITION))}
    parts = [value for value in sums.values() if value is not None]
    return {
        "total": sum(parts) if len(parts) == len(sums) else None,
        **sums,
        "other": other,
        "by_category": subtasks,
    }


def _subtask(groups: Mapping[str, Sequence[bool]]) -> dict[str, float]:
    accuracy = 100 * mean([hit for pair in groups.values() for hit in pair])
    both = 100 * mean([len(pair) == PER_IMAGE and all(pair) for pair in groups.values()])
    return {"score": accuracy + both, "accuracy": accuracy, "accuracy+": both}


def _sum(subtasks: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> float | None:
    return sum(subtasks[name]["score"] for name in names) if all(name in subtasks for name in names) else None
