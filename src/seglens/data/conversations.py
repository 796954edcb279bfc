"""Questions about photographs with answers in words: LLaVA's and InternVL's chat files, and VQA in lines of Qwen-VL.

    {"id": ..., "image": "000000033471.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat ...?"},
                                                               {"from": "gpt", "value": "..."}, ...]}
    {"image": "data/vqav2/train2014/COCO_train2014_000000458752.jpg", "question": "What ...?", "question_id": 458752000,
     "answer": "net"}

as JSON lines or one JSON list: llava_instruct_150k.json is of the first form; vqav2_train.jsonl, okvqa_train.jsonl,
textvqa_train.jsonl, vizwiz_train.jsonl and gqa's train_balanced.jsonl, which InternVL and SELF1E read, are of the
second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from seglens.data.faults import DataError, RecordFault
from seglens.data.image_record import ImageRecord, QueryRecord
from seglens.data.json_records import objects
from seglens.data.masks import Nothing
from seglens.data.reading import Split, need_folder
from seglens.data.records import Bad, Records

PLACEHOLDER = "<image>"
KIND = "vqa"
NEED = "image and conversations, or image, question and answer"
HUMAN, MACHINE = "human", "gpt"
Asked = Literal["plain", "brief", "brief-or-none"]
# What LLaVA-1.5 and InternVL add to a question of VQA, so that the answer is as short as in the data
_BRIEF = "Answer the question using a single word or phrase."
ASKED: dict[str, str] = {
    "plain": "",
    "brief": f" {_BRIEF}",
    "brief-or-none": f" When the provided information is insufficient, respond with 'Unanswerable'. {_BRIEF}",
}


def conversations_data(
    file: Path,
    images: Path | None = None,
    split: Split = "train",
    asked: Asked = "plain",
    most: int | None = None,
    bad: Bad = "refuse",
) -> Records:
    """A sample per record: VQA's authors draw and count records, of which an image may have several.

    Every turn of a conversation is a separate query, without the turns before it, since all queries about an image are
    independent of each other; the first turn alone would lose two thirds of LLaVA's answers. Only a later turn with a
    pronoun for something earlier loses by it.

    `images` is the folder that `image` counts from, else that of `file`. `asked` names the words that follow each
    question. `most` is the number of records that are read: of more, that many are chosen at random, always the same.
    Only `split=train` may train. Raises DataError on a file that cannot be read, and where Records does."""
    if not file.is_file():
        raise DataError(f"there is no file {str(file)!r}; file= names a JSON or JSONL of conversations: check the path")
    if most is not None and most < 1:
        raise DataError(f"got most={most}; it must be at least 1")
    root = need_folder(images, "images= names the folder that image counts from") if images else file.parent
    records = _ConversationFile(file, root, ASKED[asked], most).entries()
    return Records(f"conversations {file}", records, trainable=split == "train", bad=bad)


@dataclass
class _ConversationFile:
    file: Path
    root: Path
    after: str
    most: int | None
    paths: dict[str, Path | None] = field(
        default_factory=dict
    )  # of photographs, by their names in records; None: missing

    def entries(self) -> Iterator[ImageRecord | RecordFault]:
        for record, value in objects(self.file, NEED, self.most):
            if isinstance(value, RecordFault):
                yield value
                continue
            own = value.get("id", value.get("question_id"))
            name = record if own is None else f"{record} (id {own})"
            try:
                turns, image = _turns(value), self._image(value)
                path = self._path(image)
            except ValueError as error:
                yield RecordFault(str(self.file), name, str(error))
                continue
            if path is None:
                yield RecordFault(str(self.file), name, f"there is no file {str(self.root / image)!r}", "image")
                continue
            yield ImageRecord(f"{image} {record}", path, str(self.file), self._queries(name, turns))

    def _queries(self, name: str, turns: list[tuple[str, str]]) -> tuple[QueryRecord, ...]:
        names = [name] if len(turns) == 1 else [f"{name} turn {number}" for number in range(1, len(turns) + 1)]
        return tuple(
            QueryRecord(question + self.after, Nothing(), one, KIND, answer, spoken=True)
            for one, (question, answer) in zip(names, turns, strict=True)
        )

    def _image(self, value: dict[str, Any]) -> str:
        image = value.get("image")
        if not isinstance(image, str) or not image or "\0" in image:
            raise ValueError(f"has image {str(image)[:60]!r}; it needs the path of one image")
        return image

    def _path(self, image: str) -> Path | None:
        if image not in self.paths:
            path = self.root / image
            self.paths[image] = path if path.is_file() else None
        return self.paths[image]


def _turns(value: dict[str, Any]) -> list[tuple[str, str]]:
    """Questions with their answers."""
    if "conversations" not in value:
        if "question" not in value or "answer" not in value:
            raise ValueError(f"has no {'answer' if 'question' in value else 'conversations'}; it needs {NEED}")
        return [(_words(value["question"], "question"), _words(value["answer"], "answer"))]
    turns = value["conversations"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError("has conversations that are no list of objects with from and value")
    # A conversation may begin with a turn of the system or the machine; LISA leaves that out too
    while turns and turns[0].get("from") in ("system", MACHINE):
        turns = turns[1:]
    if not turns or len(turns) % 2:
        raise ValueError(f"has {len(turns)} turns; it needs a question of {HUMAN} and an answer of {MACHINE}, in turn")
    for number, turn in enumerate(turns):
        if turn.get("from") != (HUMAN, MACHINE)[number % 2]:
            raise ValueError(f"has a turn from {str(turn.get('from'))[:40]!r}; {HUMAN} and {MACHINE} must alternate")
    if sum(str(turn.get("value")).count(PLACEHOLDER) for turn in turns) > 1:
        raise ValueError(f"has {PLACEHOLDER} more than once; only conversations about one image are read")
    texts = [_words(turn.get("value"), "value") for turn in turns]
    return list(zip(texts[::2], texts[1::2], strict=True))


def _words(value: Any, key: str) -> str:
    words = value.replace(PLACEHOLDER, "").strip() if isinstance(value, str) else ""
    if not words:
        raise ValueError(f"has {key} {str(value)[:60]!r}; it needs words")
    return words
