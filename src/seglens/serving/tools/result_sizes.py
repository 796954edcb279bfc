"""Answers about masks in as few bytes as clients take: whole while they fit, then at a lower detail."""

from __future__ import annotations

from collections.abc import Sequence

from seglens.core.schema import Answer, RunLengths, Segmented
from seglens.data.masks import decode_rle, encode_rle
from seglens.serving.tools.overlay_picture import BOX, most_of, shares

MOST_INSTANCES = 32  # of one query: a mask of noise falls into thousands


def within(answer: Segmented, most: int) -> tuple[Segmented, list[int]]:
    """The answer with no more than `most` bytes of JSON as far as its masks can help it, and the places of the answers
    whose masks had to lose detail for it.

    Such masks are of a smaller `size` than the image. The short ones stay whole, the long ones share what is left.
    Raises ValueError when the words alone take more."""
    answers = [one.model_copy(update={"instances": one.instances[:MOST_INSTANCES]}) for one in answer.answers]
    lengths = [_length(one) for one in answers]
    bare = len(answer.model_copy(update={"answers": answers}).model_dump_json().encode()) - sum(lengths)
    if bare > most:
        raise ValueError(
            f"the answer takes {bare} bytes without its masks, of at most {most}; ask less, or in fewer words"
        )
    share = _share(lengths, most - bare)
    long = [k for k, length in enumerate(lengths) if length > share]
    for k in long:
        answers[k] = _lighter(answers[k], share)
    return answer.model_copy(update={"answers": answers}), long


def _share(lengths: Sequence[int], most: int) -> int:
    """What each may have at most, so that together they have at most `most`."""
    left = most
    for k, length in enumerate(sorted(lengths)):
        share = left // (len(lengths) - k)
        if length > share:
            return max(0, share)
        left -= length
    return max(lengths, default=0)


def _masks(answer: Answer) -> list[RunLengths]:
    return [answer.segmentation, *(one.segmentation for one in answer.instances)]


def _length(answer: Answer) -> int:
    """Of the letters of its masks in JSON, where a backslash takes two."""
    return sum(len(mask.counts) + mask.counts.count("\\") for mask in _masks(answer))


def _lighter(answer: Answer, most: int) -> Answer:
    """The answer with masks of fewer pixels, until they fit or there is nothing left to leave out. One mask after the
    other: dozens of a large image do not fit into memory."""
    whole, halvings = _masks(answer), 0
    while _length(answer) > most and max(answer.segmentation.size) > 1:
        halvings += 1
        mask, *masks = (_halved(one, halvings) for one in whole)
        things = [one.model_copy(update={"segmentation": m}) for one, m in zip(answer.instances, masks, strict=True)]
        answer = answer.model_copy(update={"segmentation": mask, "instances": things})
    return answer


def _halved(mask: RunLengths, times: int) -> RunLengths:
    """The mask with sides halved so many times."""
    picture = shares(decode_rle(mask.model_dump()))
    for _ in range(times):
        picture = picture.resize((max(1, picture.width // 2), max(1, picture.height // 2)), BOX)
    return RunLengths.model_validate(encode_rle(most_of(picture)))
