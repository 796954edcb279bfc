"""JSON lines of {image, mask | polygons | rle, text}, a form that most annotations can be converted to."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seglens.data.faults import DataError, Note, RecordFault
from seglens.data.image_record import DecodedMask, ImageRecord, MaskSource, QueryRecord
from seglens.data.json_records import objects, size_of
from seglens.data.maskfile import MaskFile
from seglens.data.masks import Nothing, Polygons, RunLengthDict
from seglens.data.reading import Split, located, need_folder
from seglens.data.records import Bad, Records
from seglens.data.related_names import is_class_name
from seglens.data.same_words import joined, plain

MASKS = ("mask", "polygons", "rle")
KEYS = ("image", "text", "absent", "ignore", "id", "height", "width", "kind", "answer", *MASKS)
OTHER_NAMES = {"segmentation": "polygons", "conversations": "text", "query": "text", "phrase": "text"}


def jsonl_data(file: Path, images: Path | None = None, split: Split = "train", bad: Bad = "refuse") -> Records:
    """One query about one image per line; lines about the same image become one sample.

    * `image`: path of the image, from `images`, else from the folder of `file`.
    * `text`: the words, or a list of wordings for the same mask.
    * one of `mask` (path of a mask file, see `load_mask`), `polygons` (lists of [x0, y0, x1, y1, ...] in pixels), `rle`
      (COCO run lengths). None of them, or `"absent": true`: the image does not show what the words name.
    * optional: `ignore` (pixels that do not count, in any of the three forms), `id`, `height` and `width` of the image
      the mask was made for, `kind` (reports count by it), `answer` (an answer in words).

    `mask` may also be a list of masks in polygons, one for each of the words in `text`, and the whole file one JSON
    list: Sa2VA's annotations.json. The words of a HiMTok line, which lie in its `conversations`, go into `text`.

    Lines with the same words for the same image are one query, the union of their masks, with a note; a line with
    "absent" where another one has a mask is refused. A misspelt key is refused rather than read as an absent target.
    Only `split=train` may train. Lines are read one at a time. Raises DataError on a file that cannot be read,
    and where Records does."""
    if not file.is_file():
        raise DataError(f"there is no file {str(file)!r}; file= names a JSONL: check the path")
    root = need_folder(images, "images= names the folder that image counts from") if images else file.parent
    lines = _Gathered(file, root)
    return Records(f"jsonl {file}", lines.records(), trainable=split == "train", bad=bad, vocabulary=lines.class_names)


@dataclass(frozen=True)
class MaskWithIgnored:
    """A mask, and other pixels that do not count."""

    source: MaskSource
    ignore: MaskSource

    def draw(self, size: tuple[int, int]) -> DecodedMask:
        drawn = self.source.draw(size)
        try:
            ignore = self.ignore.draw(size).mask
        except ValueError as error:
            raise ValueError(f"ignore: {error}") from error
        return DecodedMask(drawn.mask, ignore, drawn.absent)


@dataclass
class _Picture:
    path: Path
    queries: list[QueryRecord] = field(default_factory=list)
    first: dict[str, QueryRecord] = field(default_factory=dict)  # by their words

    def take(self, queries: list[QueryRecord]) -> None:
        """Raises ValueError when a target is absent in one line and present in another."""
        for query in queries:
            other = self.first.get(plain(query.text), query)
            if isinstance(query.mask, Nothing) != isinstance(other.mask, Nothing):
                conflict = "absent, and has a mask" if isinstance(query.mask, Nothing) else "there, and is absent"
                raise ValueError(
                    f"declares that {query.text!r} is {conflict} in {other.record}; one of the two is wrong"
                )
        for query in queries:
            self.first.setdefault(plain(query.text), query)
        self.queries.extend(queries)


class _Gathered:
    """Lines gathered by their image."""

    def __init__(self, file: Path, root: Path):
        self.file, self.root = file, root
        self.pictures: dict[str, _Picture] = {}
        self.ids: dict[str, str] = {}  # to the record that first has it
        self.spelt: dict[str, str] = {}  # a path to the way in which it is first written
        self.held: dict[str, set[str]] = {}  # images to the words of bad lines, whose targets may be there
        self.unsure = False  # whether there is a bad line of unknown image

    def class_names(self) -> tuple[str, ...]:
        """The words of the file where all of them are names of classes and none is declared absent; none where one is a
        phrase, which may be true of what another line names."""
        queries = [query for picture in self.pictures.values() for query in picture.queries]
        names = {plain(query.text): query.text for query in queries}
        closed = all(map(is_class_name, names)) and not any(isinstance(query.mask, Nothing) for query in queries)
        return tuple(names.values()) if closed else ()

    def _lost(self, value: dict[str, Any]) -> None:
        """A bad line: its image may show what it names."""
        content = value.get("text")
        texts = [one for one in (content if isinstance(content, list) else [content]) if isinstance(one, str)]
        if isinstance(value.get("image"), str) and texts:
            image = self.spelt.setdefault(os.path.normpath(value["image"]), value["image"])
            self.held.setdefault(image, set()).update(texts)
        else:
            self.unsure = True

    def records(self) -> Iterator[ImageRecord | RecordFault | Note]:
        for record, value in objects(self.file, "image and text"):
            if isinstance(value, RecordFault):
                self.unsure = True
                yield value
                continue
            name = f"{record} (id {value['id']})" if value.get("id") is not None else record
            try:
                note = self._take(record, name, value)
                if note is not None:
                    yield note
            except _LineError as error:
                self._lost(value)
                yield RecordFault(str(self.file), name, str(error), error.kind)
            except ValueError as error:
                self._lost(value)
                yield RecordFault(str(self.file), name, str(error))
        for key, picture in self.pictures.items():
            if picture.queries:
                queries, several = joined(picture.queries)
                for words in several:
                    message = f"has {words!r} in several lines; they are one query, the union of their masks"
                    yield Note(str(self.file), key, message)
                held = None if self.unsure else frozenset(self.held.get(key, ()))
                yield ImageRecord(key, picture.path, str(self.file), queries, holds=held)

    def _take(self, record: str, name: str, value: dict[str, Any]) -> Note | None:
        _check_keys(value)
        if value.get("id") is not None and self.ids.setdefault(str(value["id"]), record) != record:
            message = f"has the id {value['id']!r} of {self.ids[str(value['id'])]}; ids are given once"
            raise _LineError(message, "duplicate id")
        pairs, size, kind_and_answer = _pairs(value, self.file.parent), size_of(value), _kind_and_answer(value)
        own = record if value.get("id") is None else str(value["id"])
        queries = [
            QueryRecord(
                text, source, name, *kind_and_answer, id=f"{own}/{number}" if len(pairs) > 1 else own, size=size
            )
            for number, (text, source) in enumerate(pairs)
        ]
        self._picture(value).take(queries)
        if not any(key in value for key in ("absent", *MASKS)):
            return Note(str(self.file), name, 'has no mask: read as absent; write "absent": true if that is meant')
        return None

    def _picture(self, value: dict[str, Any]) -> _Picture:
        key = value.get("image")
        if not isinstance(key, str) or not key or "\0" in key:
            raise ValueError(f"has image {key!r}; it needs the path of the image")
        key = self.spelt.setdefault(os.path.normpath(key), key)  # ./a.png is a.png
        picture = self.pictures.get(key)
        if picture is None:
            path = located(self.root, key)
            if not path.is_file():
                raise _LineError(f"there is no file {str(path)!r}", "image")
            picture = self.pictures[key] = _Picture(path)
        return picture


class _LineError(ValueError):
    """What is wrong with a line, of a kind that reports count separately."""

    def __init__(self, message: str, kind: str):
        super().__init__(message)
        self.kind = kind


def _check_keys(value: dict[str, Any]) -> None:
    for key in set(value) - set(KEYS):
        meant = OTHER_NAMES.get(key) or next(iter(difflib.get_close_matches(key, KEYS, 1, 0.75)), None)
        if meant and meant not in value:
            raise ValueError(f"has {key!r}, which is not read; did you mean {meant!r}?")


def _pairs(value: dict[str, Any], base: Path) -> list[tuple[str, MaskSource]]:
    texts = _texts(value)
    forms = [key for key in MASKS if value.get(key) is not None]
    absent = value.get("absent", False)
    if not isinstance(absent, bool):
        raise ValueError(f"has absent {absent!r}; it needs true or false")
    if len(forms) > 1 or (absent and forms):
        raise ValueError(f"has {' and '.join(forms + ['absent'] * absent)}; it needs one of them")
    if not forms:
        if "absent" in value and not absent:
            raise ValueError(f"declares that the target is there and has none of {', '.join(MASKS)}")
        return [(text, Nothing()) for text in texts]
    form, content = forms[0], value[forms[0]]
    if form == "mask" and isinstance(content, list):
        if len(content) != len(texts):
            raise ValueError(f"has {len(content)} masks for {len(texts)} texts; a list of masks needs one text each")
        sources = [_source(one, base) for one in content]
    else:
        sources = [_source(_of_form(form, content), base)] * len(texts)
    if value.get("ignore") is not None:
        ignore = _source(value["ignore"], base)
        sources = [MaskWithIgnored(source, ignore) for source in sources]
    return list(zip(texts, sources, strict=True))


def _of_form(form: str, content: Any) -> Any:
    if not isinstance(content, {"mask": str, "polygons": list, "rle": dict}[form]):
        needs = {"mask": "a path", "polygons": "a list of [x0, y0, x1, y1, ...]", "rle": "{size, counts}"}[form]
        raise ValueError(f"has {form} {str(content)[:60]!r}; it needs {needs}")
    return content


def _source(content: Any, base: Path) -> MaskSource:
    """A mask in any of the three forms."""
    if isinstance(content, str):
        path = located(base, content)
        if not path.is_file():
            raise ValueError(f"names the mask {content!r}, and there is no file {str(path)!r}")
        return MaskFile(path)
    if isinstance(content, dict):
        return RunLengthDict(content)
    if isinstance(content, list) and content and all(isinstance(part, list) for part in content):
        return Polygons.of(content)
    raise ValueError(f"has a mask {str(content)[:60]}; it needs a path, a list of [x0, y0, x1, y1, ...], or an RLE")


def _texts(value: dict[str, Any]) -> list[str]:
    content = value.get("text")
    texts = [content] if isinstance(content, str) else content
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        if content is None:
            raise ValueError("has no text; it needs words, or a list of them")
        raise ValueError(f"has text {str(content)[:60]!r}; it needs words, or a list of them")
    return [text.strip() for text in texts]


def _kind_and_answer(value: dict[str, Any]) -> tuple[str, str | None]:
    kind, answer = value.get("kind", "phrase"), value.get("answer")
    if not isinstance(kind, str) or not isinstance(answer, str | None):
        raise ValueError(f"has kind {kind!r} and answer {answer!r}; both need text")
    return kind, answer
