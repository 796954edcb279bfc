"""Tables of multiple-choice questions as VLMEvalKit writes them: MMBench and MMStar are read from them."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seglens.evaluation.vqa.files import table, text_of
from seglens.evaluation.vqa.questions import BenchmarkError, EncodedImage

REFERENCE = 64  # a shorter image field is the index of the row whose image it shares


@dataclass(frozen=True)
class ChoiceRow:
    """One row: its file and line, its fields, its choices by letter and its image."""

    where: str
    fields: Mapping[str, str]
    choices: Mapping[str, str]
    image: EncodedImage
    answer: str | None


def rows(path: Path, needs: Sequence[str] = ()) -> list[ChoiceRow]:
    """The rows of a table that has the columns `needs` besides its own.

    Raises BenchmarkError naming the file, line and index of what is wrong."""
    table_rows = [
        (f"{path}:{number}: index {fields['index']}", fields)
        for number, fields in table(path, ("index", "question", "image", *needs))
    ]
    images = {fields["index"]: fields["image"] for _, fields in table_rows}
    return [_row(where, fields, images) for where, fields in table_rows]


def _row(where: str, fields: dict[str, str], images: Mapping[str, str]) -> ChoiceRow:
    text_of(fields, "question", where)
    image = text_of(fields, "image", where)
    if len(image) <= REFERENCE:
        if len(images.get(image, "")) <= REFERENCE:
            raise BenchmarkError(f"{where}: its image is that of index {image[:REFERENCE]!r}, which holds none")
        image = images[image]
    choices = {letter: fields[letter] for letter in string.ascii_uppercase if fields.get(letter)}
    answer = fields.get("answer", "").strip() or None
    if answer is not None and choices and answer not in choices:
        raise BenchmarkError(f"{where}: the answer is {answer!r}; need one of {', '.join(choices)}")
    return ChoiceRow(where, fields, choices, EncodedImage(image), answer)


def only_table(root: str) -> Path:
    """The file `root`, or the only table in that folder."""
    path = Path(root)
    if not path.is_dir():
        return path
    tables = sorted(path.glob("*.tsv"))
    if len(tables) != 1:
        raise BenchmarkError(f"{root} holds {len(tables)} tables; name one .tsv file with --root")
    return tables[0]
