"""Answers with masks in no more bytes than clients accept: whole while they fit, then with less detail."""

from __future__ import annotations

from collections.abc import Sequence

from seglens.core.schema import Answer, RunLengths, Segmented
from seglens.data.masks import decode_rle, encode_rle
from seglens.serving.tools.overlay_picture import BOX, most_of, shares

MAX_INSTANCES = 32  # of one query: a mask of noise has thousands of pieces


def within(answer: Segmented, max_bytes: int) -> tuple[Segmented, list[int]]:
    """The answer with no more than `max_bytes` of JSON, if masks with less detail are enough for that, and the places
    of the answers whose masks lost detail.

    Such masks have a smaller `size` than the image. The short ones stay whole, the long ones share the remaining bytes.
    Raises ValueError when the answer without its masks takes more."""
    answers = [one.model_copy(update={"instances": one.instances[:MAX_INSTANCES]}) for one in answer.answers]
    lengths = [_length(one) for one in answers]
    bare = len(answer.model_copy(update={"answers": answers}).model_dump_json().encode()) - sum(lengths)
    if bare > max_bytes:
        raise ValueError(
            f"the answer takes {bare} bytes without its masks, of at most {max_bytes}; ask less, or in fewer words"
        )
    share = _share(lengths, max_bytes - bare)
    long = [k for k, length in enumerate(lengths) if length > share]
    for k in long:
        answers[k] = _lighter(answers[k], share)
    return answer.model_copy(update={"answers": answers}), long


def _share(lengths: Sequence[int], total: int) -> int:
    """The most that each may have, so that together they have at most `total`."""
    left = total
    for k, length in enumerate(sorted(lengths)):
        share = left // (len(lengths) - k)
        if length > share:
            return max(0, share)
        left -= length
    return max(lengths, default=0)


def _masks(answer: Answer) -> list[RunLengths]:
    return [answer.segmentation, *(one.segmentation for one in answer.instances)]


def _length(answer: Answer) -> int:
    """Characters of its masks in JSON, where a backslash takes two."""
    return sum(len(mask.counts) + mask.counts.count("\\") for mask in _masks(answer))


def _lighter(answer: Answer, length: int) -> Answer:
    """The answer with masks of fewer pixels, until they fit into `length` or have a single pixel. One mask after the
    other: dozens of masks of a large image do not fit into memory."""
    whole, halvings = _masks(answer), 0
    while _length(answer) > length and max(answer.segmentation.size) > 1:
        halvings += 1
        mask, *masks = (_halved(one, halvings) for one in whole)
        things = [one.model_copy(update={"segmentation": m}) for one, m in zip(answer.instances, masks, strict=True)]
        answer = answer.model_copy(update={"segmentation": mask, "instances": things})
    return answer


def _halved(mask: RunLengths, times: int) -> RunLengths:
    """The mask with its sides halved `times` times."""
    picture = shares(decode_rle(mask.model_dump()))
    for _ in range(times):
        picture = picture.resize((max(1, picture.width // 2), max(1, picture.height // 2)), BOX)
    return RunLengths.model_validate(encode_rle(most_of(picture)))
