"""Label Studio's pre-annotations: brush masks in its own run lengths, which are not COCO's.

https://labelstud.io/guide/predictions and https://labelstud.io/tags/brushlabels
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import Bool, Int, UInt8

from seglens.exports.base import Files, Format, array, missing_picture
from seglens.exports.page import IMAGES, AnnotatedImage, ExportedInstance, PageSummary, Title, missing_place

TASKS, LABELS = "labelstudio.json", "labelstudio.xml"
FROM, TO = "tag", "image"  # names of the labels and of the image in the labelling setup
SERVED = "/data/local-files/?d="  # where Label Studio serves the files under LOCAL_FILES_DOCUMENT_ROOT

_CHANNELS = 4  # every pixel is red, green, blue and alpha
_WORD = 8  # bits of a value
_LENGTHS = np.array([3, 4, 8, 16])  # bits of the four kinds of run lengths


def brush_rle(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """The mask as the bytes of Label Studio's brush: runs of 0 and 255 in raster order, all four channels alike.

    The packing of thi.ng/rle-pack: 32 bits for the number of values, 5 for the width of a value less one, four times 4
    for the widths of lengths less one; then per run a 1, two bits for the kind of length, the length less one, the
    value."""
    values = mask.ravel()
    ends = np.flatnonzero(np.append(values[1:] != values[:-1], True)) + 1
    lengths = np.diff(ends, prepend=0) * _CHANNELS
    longest = 1 << int(_LENGTHS[-1])
    pieces = -(-lengths // longest)
    owner = np.repeat(np.arange(len(lengths)), pieces)
    last = np.cumsum(pieces) - 1
    length = np.full(len(owner), longest)
    length[last] = lengths - (pieces - 1) * longest
    kind = np.searchsorted(1 << _LENGTHS, length)
    width = _LENGTHS[kind]
    code = (((4 | kind) << width | length - 1) << _WORD) | 255 * values[ends - 1][owner]
    header = [(values.size * _CHANNELS, 32), (_WORD - 1, 5), *((int(bits) - 1, 4) for bits in _LENGTHS)]
    first = np.concatenate([_bits(np.array([number]), np.array([bits])) for number, bits in header])
    return np.packbits(np.concatenate([first, _bits(code, 3 + width + _WORD)])).tolist()


def _bits(numbers: Int[np.ndarray, " n"], widths: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, " m"]:
    """Every number in its width of bits, the highest first."""
    owner = np.repeat(np.arange(len(numbers)), widths)
    place = np.cumsum(widths)[owner] - 1 - np.arange(len(owner))
    return (numbers[owner] >> place & 1).astype(np.uint8)


def to_label_studio(page: AnnotatedImage) -> dict[str, Any]:
    """The task of an image, with its things as one prediction.

    The image's address is the one under which Label Studio serves local files; `AnnotatedImage.file` is relative to the
    folder in LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT."""
    return _task(page.summary())


def _task(summary: PageSummary) -> dict[str, Any]:
    items = summary.items
    results = [_result(f"{number:04d}", item) for number, item in enumerate(items, 1)]
    scores = [item.instance.score for item in items]
    return {
        "data": {TO: SERVED + quote(os.fsencode(summary.file or f"{IMAGES}/{summary.name}.png"))},
        "predictions": [
            {"model_version": "seglens", "score": round(float(np.mean(scores or [0])), 4), "result": results}
        ],
    }


def _result(number: str, item: ExportedInstance) -> dict[str, Any]:
    height, width = item.instance.segmentation.size
    return {
        "id": number,
        "type": "brushlabels",
        "from_name": FROM,
        "to_name": TO,
        "image_rotation": 0,
        "original_width": width,
        "original_height": height,
        "score": item.instance.score,
        "value": {"format": "rle", "rle": brush_rle(item.mask()), "brushlabels": [item.query]},
    }


class LabelStudioFile(Format):
    """`labelstudio.json`, the tasks of the whole run; `labelstudio.xml`, the labelling setup that they need; and
    `images/` for pictures that are in no file."""

    whole = (TASKS, LABELS)

    def paths(self, title: Title) -> Mapping[str, str | None]:
        return missing_place(title)

    def page(self, page: AnnotatedImage) -> Files:
        return Files(missing_picture(page), [TASKS] * len(page.predictions))

    def finish(self, summaries: Iterable[PageSummary]) -> dict[str, Iterable[bytes]]:
        queries = dict.fromkeys(answer.query for summary in summaries for answer in summary.answers)
        labels = "".join(f"    <Label value={quoteattr(query)}/>\n" for query in queries)
        setup = f'<View>\n  <Image name="{TO}" value="${TO}"/>\n  <BrushLabels name="{FROM}" toName="{TO}">\n'
        closed = f"{setup}{labels}  </BrushLabels>\n</View>\n"
        return {TASKS: array(map(_task, summaries)), LABELS: [closed.encode("utf-8", "xmlcharrefreplace")]}
