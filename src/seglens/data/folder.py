"""A folder of images and a folder of masks."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Literal

from seglens.data.faults import DataError, Note, RecordFault
from seglens.data.image_record import ImageRecord, QueryRecord
from seglens.data.maskfile import MaskFile
from seglens.data.reading import IMAGES, Split, by_stem, need_folder
from seglens.data.records import Bad, Records
from seglens.data.related_names import is_class_name
from seglens.data.same_words import joined, plain

LOSSLESS = frozenset((".png", ".bmp", ".tif", ".tiff"))


def folder_data(
    images: Path,
    masks: Path,
    texts: str = "",
    black: Literal["refuse", "absent"] = "refuse",
    split: Split = "train",
    bad: Bad = "refuse",
) -> Records:
    """Images and, for each query about an image, a mask file of the same stem (see `load_mask`: 0 and 255, or 0 and 1).

    The words are the names of the mask folders, with _ for a space:

        images/0001.jpg    masks/the_cat/0001.png    masks/the_animal_that_sleeps/0001.png

    Or, where all masks show the same thing, they are given as `texts`, several wordings separated by |:

        images/0001.jpg    masks/0001.png            texts=a crack|damage in the wall

    Images may lie in subfolders; the masks repeat them (images/a/1.jpg, masks/the_cat/a/1.png). Words that cannot name
    a folder, such as those with / or :, need JSONL. Folders of the same words (the_cat, The cat) are one
    query, the union of their masks, with a note.

    A mask file that is all black is refused, as most are mistakes; with `black=absent` it means that the image does not
    show what its words name. An image without any mask is a note. Only `split=train` may train.

    Raises DataError on a folder that cannot be read, and where Records does."""
    need_folder(images, "images= names the folder of the images")
    need_folder(masks, "masks= names the folder of the masks")
    wordings = [text.strip() for text in texts.split("|") if text.strip()]
    if texts and not wordings:
        raise DataError(f"folder got texts={texts!r}; it needs words, as in texts=a crack|damage")
    records = list(_records(images, masks, wordings, black == "absent"))
    names = () if wordings or black == "absent" else _class_names(records)
    return Records(f"folder {images}", records, trainable=split == "train", bad=bad, vocabulary=names)


def _class_names(records: Iterable[object]) -> tuple[str, ...]:
    """The words of the folders where all of them are names of classes; none where one is a phrase, which may be true of
    what another folder names."""
    queries = (one.queries for one in records if isinstance(one, ImageRecord) and not callable(one.queries))
    names = {plain(query.text): query.text for group in queries for query in group}
    return tuple(names.values()) if all(map(is_class_name, names)) else ()


def _records(
    images: Path, masks: Path, wordings: list[str], black_is_absent: bool
) -> Iterator[ImageRecord | RecordFault | Note]:
    pictures, twins = by_stem(images, IMAGES)
    files, faults = by_stem(masks, IMAGES)
    yield from twins + faults
    bad = {fault.record for fault in faults}  # masks that cannot be used: the image may show what they name
    queries: dict[str, list[QueryRecord]] = {stem: [] for stem in (*pictures, *(fault.record for fault in twins))}
    for stem, path in files.items():
        try:
            picture, texts = _belongs_to(stem, path, queries, wordings)
        except ValueError as error:
            bad.add(stem)
            yield RecordFault(str(masks), path.relative_to(masks).as_posix(), str(error))
            continue
        queries[picture] += [
            QueryRecord(text, MaskFile(path, black_is_absent), f"mask {stem}", id=text) for text in texts
        ]
    for stem, path in pictures.items():
        if queries[stem]:
            unique, several = joined(queries[stem])
            for words in several:
                yield Note(
                    str(masks), f"image {stem}", f"has several masks of {words!r}; they are one query, their union"
                )
            held = frozenset(
                words.replace("_", " ") for words, _, of in (one.partition("/") for one in bad) if of == stem
            )
            yield ImageRecord(stem, path, str(masks), unique, holds=held)
        else:
            yield Note(str(images), path.relative_to(images).as_posix(), "the image has no mask")


def _belongs_to(stem: str, path: Path, pictures: Container[str], wordings: list[str]) -> tuple[str, list[str]]:
    """The stem of the image that a mask belongs to, and the words that it is the mask of."""
    if path.suffix.lower() not in LOSSLESS:
        raise ValueError(f"is a {path.suffix} file, which may not keep two values; save the mask as PNG")
    words, slash, picture = ("", "/", stem) if wordings else stem.partition("/")
    if not slash:
        raise ValueError("lies in no folder named by its words; move it to masks/<words>/, or give texts=...")
    text = words.replace("_", " ").strip()
    if not wordings and not text:
        raise ValueError(f"lies in {words!r}, which are no words to ask for; rename the folder")
    if picture not in pictures:
        hint = "; with texts=... masks lie in no folder of words" if wordings and "/" in stem else ""
        raise ValueError(f"there is no image {picture!r} for it{hint}")
    return picture, wordings or [text]
