"""The answers of a shard as one file: a Parquet table of a row per image and query, or COCO instances."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from seglens.core.schema import Answer
from seglens.exports.coco import coco_part
from seglens.exports.ledger import Command
from seglens.exports.page import AnnotatedImage
from seglens.exports.shards.image_list import import_parquet
from seglens.inference.image_answers import ImageAnswers

Numbered = Sequence[tuple[int, ImageAnswers]]  # each with the number of its image
Encode = Callable[[Numbered, Command], bytes]


def parquet(answers: Numbered, command: Command) -> bytes:
    """A row per image and query; of an image or a query that failed, a row with `error`. Times are left out: the bytes
    do not depend on them."""
    pyarrow = import_parquet()
    about = json.dumps({"queries": list(command.queries), **command.settings}, sort_keys=True)
    schema = _schema(pyarrow).with_metadata({"seglens": about})
    table = pyarrow.Table.from_pylist([row for number, one in answers for row in _rows(number, one)], schema=schema)
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table, stream, compression="zstd")
    return stream.getvalue()


def _schema(pa: Any) -> Any:
    box = pa.list_(pa.int32(), 4)
    thing = pa.struct([("score", pa.float64()), ("box", box), ("area", pa.int64()), ("counts", pa.string())])
    return pa.schema(
        [
            ("number", pa.int64()),  # of the image, from 0
            ("image", pa.string()),
            ("query", pa.string()),
            ("found", pa.bool_()),
            ("presence", pa.float64()),
            ("score", pa.float64()),
            ("box", box),
            ("area", pa.int64()),
            ("size", pa.list_(pa.int32(), 2)),  # height and width
            ("counts", pa.string()),  # COCO's compressed run lengths
            ("instances", pa.list_(thing)),
            ("familiar", pa.bool_()),
            ("unknown_words", pa.list_(pa.string())),
            ("reason", pa.string()),
            ("error", pa.string()),
        ]
    )


def _rows(number: int, one: ImageAnswers) -> Iterable[dict[str, Any]]:
    for prediction in one.predictions:
        yield {"number": number, "image": one.image.name, **_fields(prediction.answer())}
    for fault in one.faults:
        yield {"number": number, "image": one.image.name, "query": fault.query, "error": fault.says}


def _fields(answer: Answer) -> dict[str, Any]:
    same = ("query", "found", "presence", "score", "box", "area", "familiar", "unknown_words", "reason")
    things = [
        {"score": t.score, "box": list(t.box), "area": t.area, "counts": t.segmentation.counts}
        for t in answer.instances
    ]
    mask = answer.segmentation
    return {name: getattr(answer, name) for name in same} | {
        "size": list(mask.size),
        "counts": mask.counts,
        "instances": things,
    }


def coco(answers: Numbered, command: Command) -> bytes:
    """COCO instances; ids of images, annotations and categories are those of the whole run, so that shards can be
    joined by joining their lists."""
    pages = (
        (number, AnnotatedImage(one.image.name, one.predictions, one.image.name).summary())
        for number, one in answers
        if one.predictions
    )
    return json.dumps(coco_part(pages, command.queries), allow_nan=False).encode()


ENCODERS: dict[str, Encode] = {"parquet": parquet, "coco": coco}
