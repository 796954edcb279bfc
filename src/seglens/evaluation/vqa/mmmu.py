"""MMMU (Yue et al., arXiv 2311.16502): college questions of thirty subjects, most of them multiple choice.

Files: the hub's `<subject>/validation-*.parquet` (needs pyarrow: the extra `general`); or a JSON-lines export with the
same fields, images as file names beside it; or `answer_dict_val.json`, the official key, which can only score answers.
The prompt is that of the official LLaVA configuration. A question with several images shows the first."""

from __future__ import annotations

import ast
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from seglens.data.images import load_image
from seglens.evaluation.vqa.answers import mean, mmmu_hit, mmmu_letter, paired
from seglens.evaluation.vqa.files import json_lines, read_json, text_of
from seglens.evaluation.vqa.questions import BenchmarkError, BenchmarkQuestion, FileImage, QuestionImage, distinct

SEED = 42
DOMAINS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
DOMAIN_OF = {subject: domain for domain, subjects in DOMAINS.items() for subject in subjects}
SUBJECTS = sorted(DOMAIN_OF)  # the order of the official evaluation, and of its random choices
IMAGES = tuple(f"image_{number}" for number in range(1, 8))
CHOICE, OPEN = "multiple-choice", "open"
SECRET = "?"  # the test split has this for an answer


@dataclass(frozen=True)
class ParquetImage:
    """An image inside a parquet file: `column` holds {bytes, path}."""

    path: Path
    column: str
    row: int

    def check(self) -> None:
        """The row was there when the questions were read."""

    def load(self) -> UInt8[np.ndarray, "h w 3"]:
        cell = _parquet().read_table(self.path, columns=[self.column])[self.column][self.row].as_py()
        return load_image(cell["bytes"])


def read(root: str) -> list[BenchmarkQuestion]:
    """The questions of a .parquet, .jsonl or answer key; of a folder the validation split, else its only such file."""
    path = Path(root)
    files = [path] if not path.is_dir() else _files(path)
    return distinct([question for file in files for question in _read(file)], root)


def _files(folder: Path) -> list[Path]:
    for pattern in ("**/validation-*.parquet", "*.jsonl", "answer_dict*.json"):
        if files := sorted(folder.glob(pattern)):
            return files
    raise BenchmarkError(f"{folder} holds no validation-*.parquet, no .jsonl and no answer_dict*.json; check --root")


def _read(path: Path) -> Iterator[BenchmarkQuestion]:
    if path.suffix == ".parquet":
        return _parquet_file(path)
    return _export(path) if path.suffix == ".jsonl" else _key(path)


def _key(path: Path) -> Iterator[BenchmarkQuestion]:
    key = read_json(path)
    if not isinstance(key, dict):
        raise BenchmarkError(f"{path}: got a {type(key).__name__}; need an object with an entry per question id")
    for name, row in key.items():
        where = f"{path}: {name}"
        if not isinstance(row, dict) or not {"question_type", "ground_truth"} <= set(row):
            raise BenchmarkError(f"{where}: need question_type and ground_truth")
        kind = CHOICE if row["question_type"] == CHOICE else OPEN
        subject = _subject(name, where)
        yield BenchmarkQuestion(
            name, "", where, _gold(row["ground_truth"], where), kind=kind, category=subject, area=DOMAIN_OF[subject]
        )


def _export(path: Path) -> Iterator[BenchmarkQuestion]:
    for number, row in json_lines(path):
        named = [(name, row[name]) for name in IMAGES if row.get(name)]
        yield _question(row, f"{path}:{number}", [FileImage(path.parent / str(name)) for _, name in named])


def _parquet_file(path: Path) -> Iterator[BenchmarkQuestion]:
    try:
        file = _parquet().ParquetFile(path)
        columns = file.schema_arrow.names
        texts = file.read([name for name in columns if name not in IMAGES]).to_pylist()
        present = file.read([f"{name}.path" for name in IMAGES if name in columns]).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's own errors are both
        raise BenchmarkError(f"{path}: not a parquet file of MMMU ({error}); download it again") from error
    for number, (row, cells) in enumerate(zip(texts, present, strict=True)):
        images = [ParquetImage(path, name, number) for name in IMAGES if cells.get(name) is not None]
        yield _question(row, f"{path}: row {number}", images)


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise BenchmarkError("reading parquet files needs pyarrow; run: pip install 'seglens[general]'") from error
    return pyarrow.parquet


def _question(row: Mapping[str, Any], where: str, images: Sequence[QuestionImage]) -> BenchmarkQuestion:
    name, text = text_of(row, "id", where), text_of(row, "question", where)
    kind = CHOICE if row.get("question_type") == CHOICE else OPEN
    choices = _choices(row.get("options"), where) if kind == CHOICE else {}
    answer = None if row.get("answer") in (None, SECRET) else _gold(row["answer"], where)
    if answer is not None and kind == CHOICE and answer not in choices:
        raise BenchmarkError(f"{where}: the answer is {answer!r}; need one of {', '.join(choices)}")
    subject = _subject(name, where)
    return BenchmarkQuestion(
        name,
        _prompt(text, choices),
        where,
        answer,
        tuple(images),
        choices,
        category=subject,
        area=DOMAIN_OF[subject],
        kind=kind,
    )


def _prompt(text: str, choices: Mapping[str, str]) -> str:
    if not choices:
        return f"{text}\nAnswer the question using a single word or phrase."
    listed = "".join(f"({letter}) {choice}\n" for letter, choice in choices.items())
    return f"{text}\n{listed}\nAnswer with the option's letter from the given choices directly."


def _choices(options: Any, where: str) -> dict[str, str]:
    """The hub holds the options as the text of a Python list."""
    if isinstance(options, str):
        options = _literal(options)
    if not isinstance(options, list) or not options or not all(isinstance(option, str) for option in options):
        raise BenchmarkError(f"{where}: options is {options!r}; need a list of texts")
    return {chr(ord("A") + place): option for place, option in enumerate(options)}


def _gold(answer: Any, where: str) -> str | tuple[str, ...]:
    if isinstance(answer, str) and answer.startswith("["):
        answer = _literal(answer)
    if isinstance(answer, list) and answer and all(isinstance(one, str) for one in answer):
        return tuple(answer)
    if not isinstance(answer, str):
        raise BenchmarkError(f"{where}: the answer is {answer!r}; need a text or a list of texts")
    return answer


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _subject(name: str, where: str) -> str:
    subject = "_".join(name.split("_")[1:-1])
    if subject not in DOMAIN_OF:
        raise BenchmarkError(f"{where}: the id {name!r} names no subject of MMMU; need one like validation_Art_1")
    return subject


def score(questions: Sequence[BenchmarkQuestion], answers: Mapping[str, str]) -> dict[str, Any]:
    """Accuracy, 0 to 1, over all questions, by domain and by subject.

    The official code draws a letter at random when it finds none in an answer. Here one generator with seed 42 draws,
    subjects in the official order, questions in the file's, so that the same answers always have the same score;
    `drawn` counts these letters. Where the choices are unknown (an answer key) an answer is taken as the letter
    itself, as by the official main_eval_only."""
    rng, hits, drawn = random.Random(SEED), defaultdict[str, list[bool]](list), 0
    pairs = sorted(paired(questions, answers), key=lambda pair: SUBJECTS.index(pair[0].category))
    for question, reply in pairs:
        assert question.answer is not None  # checked by `paired`
        if question.kind == OPEN:
            hit = mmmu_hit(reply, question.answer)
        else:
            before = rng.getstate()
            letter = mmmu_letter(reply, question.choices, rng) if question.choices else reply
            drawn += rng.getstate() != before
            hit = letter in ((question.answer,) if isinstance(question.answer, str) else question.answer)
        hits[question.category].append(hit)
    domains = {domain: _over(hits, subjects) for domain, subjects in DOMAINS.items()}
    return {
        "questions": len(pairs),
        "overall": mean(_over(hits, hits)),
        "drawn": drawn,
        "by_area": {name: mean(values) for name, values in domains.items() if values},
        "by_category": {name: mean(values) for name, values in hits.items()},
    }


def _over(hits: Mapping[str, Sequence[bool]], names: Iterable[str]) -> list[bool]:
    return [hit for name in names for hit in hits.get(name, ())]
