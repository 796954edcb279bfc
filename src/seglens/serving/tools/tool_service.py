"""What agents of other programs can ask for, whatever their protocol."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from seglens.core.interruption import Turns
from seglens.core.schema import Answer, Box, Click, Segmented, TextAnswer
from seglens.core.text import shortened
from seglens.inference.compressed_predictions import CompressedPredictions, Folded
from seglens.inference.opened_image import OpenedImage
from seglens.inference.prediction import Prediction
from seglens.inference.segmenter import Segmenter
from seglens.serving.limits import Limits
from seglens.serving.tools.tool_images import MAX_OPEN_IMAGES, ImageReader, OpenImages, is_id

DESCRIBE = "What is in the picture?"
MAX_ECHO = 200  # characters of a query that an answer in words repeats
MAX_BOXES = 32  # of instances that it lists
MAX_QUERIES = Limits.queries  # of one call


@dataclass(frozen=True)
class ToolAnswer:
    """What was found in one image: the `answer` for programs, and the `predictions` that it was made from."""

    answer: Segmented
    predictions: Sequence[Prediction]

    def overlays(self, heat: bool = False) -> list[Image.Image]:
        """The image with the mask of each query drawn in; with `heat`, the attention that led to it, too."""
        return [prediction.overlay(heat) for prediction in self.predictions]

    def words(self) -> str:
        """For a language model: what is where, without a mask's thousands of characters."""
        lines = [_line(prediction) for prediction in self.predictions]
        if len(lines) > 1:
            lines = [f"{number}. {line}" for number, line in enumerate(lines, 1)]
        return "\n".join([*lines, f"Ask more about this image under its id: {self.answer.image}"])


class ToolService:
    """Segment, refine, ask and describe; an image is named by text, or by the id under which it is open.

    From any thread, one call at a time; a long call pauses for the others (`Turns`). Wrong images and wrong queries
    raise ValueError or OSError with one line."""

    def __init__(self, segmenter: Segmenter, reader: ImageReader, max_open_images: int = MAX_OPEN_IMAGES):
        self.segmenter, self.reader = segmenter, reader
        self.images = OpenImages(segmenter, max_open_images)
        self._turns = Turns()

    def segment(
        self, image: str | np.ndarray, queries: Sequence[str], each: bool | None = None, trust: bool = False
    ) -> ToolAnswer:
        """A mask per query, in one pass. `each`: also one mask per instance; None: when the words ask for it. `trust`
        as in `OpenedImage.segment`."""
        _check_queries(queries)
        with self._turns.turn():
            name, opened = self._opened(image)
            return _answer(name, opened, opened.predictions(list(queries), each, trust))

    def refine(
        self,
        image: str | np.ndarray,
        query: str,
        clicks: Sequence[Click] = (),
        box: Box | None = None,
        trust: bool = False,
    ) -> ToolAnswer:
        """The query's mask, corrected by all the clicks and the box that are given."""
        _check_queries([query])
        with self._turns.turn():
            name, opened = self._opened(image)
            return _answer(name, opened, [opened.refine(opened.segment(query, False, trust), clicks, box)])

    def ask(self, image: str | np.ndarray, question: str) -> TextAnswer:
        """The untouched MLLM's answer in words."""
        _check_queries([question])
        with self._turns.turn():
            name, opened = self._opened(image)
            height, width = opened.image.shape[:2]
            text, note = self.segmenter.backbone.generate(opened.image, question), opened.notice(question)
            return TextAnswer(image=name, width=width, height=height, text=text, notice=note)

    def describe(self, image: str | np.ndarray) -> TextAnswer:
        """The MLLM's description of the image."""
        return self.ask(image, DESCRIBE)

    def _opened(self, image: str | np.ndarray) -> tuple[str, OpenedImage]:
        if isinstance(image, np.ndarray):
            name = self.images.add(image)
        else:
            name = image.strip() if is_id(image.strip()) else self.images.add(self.reader.read(image))
        return name, self.images.get(name)


def _check_queries(queries: Sequence[str]) -> None:
    if not 0 < len(queries) <= MAX_QUERIES:
        raise ValueError(f"got {len(queries)} queries; need 1 to {MAX_QUERIES} in a call")
    if not all(query.strip() for query in queries):
        raise ValueError("got a query without words; say what to look for")


def _answer(name: str, opened: OpenedImage, predictions: Iterable[Prediction]) -> ToolAnswer:
    """One prediction after the other is compressed: no mask stays at the image's size."""
    height, width = opened.image.shape[:2]
    answers, compressed = list[Answer](), list[Folded]()
    for prediction in predictions:
        answers.append(prediction.answer())
        compressed.append(Folded.of(prediction))
    return ToolAnswer(
        Segmented(image=name, width=width, height=height, answers=answers), CompressedPredictions(compressed)
    )


def _cut(text: str, length: int = MAX_ECHO) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def _line(one: Prediction) -> str:
    query = repr(_cut(one.query))
    if not one.found:
        return f"{query}: not found. {_cut(one.reason or '', 4 * MAX_ECHO)}".strip()
    share = 100 * one.mask.mean()
    text = f"{query}: found, score {one.score:.2f}, box {one.box} (x0, y0, x1, y1), {share:.1f} % of the image"
    if not one.instances:
        return text
    boxes = shortened([f"{each.box} (score {each.score:.2f})" for each in one.instances], MAX_BOXES, ", ", "...")
    return f"{text}; {len(one.instances)} instances: {boxes}"
