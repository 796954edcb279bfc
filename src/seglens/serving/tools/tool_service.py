"""The verbs that other people's agents are given, whatever protocol they speak."""

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
from seglens.serving.tools.tool_images import MOST_OPEN, Doors, OpenImages, is_id

DESCRIBE = "What is in the picture?"
LONGEST_ECHO = 200  # characters of a query that an answer in words repeats
MOST_BOXES = 32  # of instances that it lists
MOST_QUERIES = 32  # of one call; each brings a mask of the image's size


@dataclass(frozen=True)
class ToolAnswer:
    """What was found in one image: for programs the `answer`, for eyes the `predictions` it was made of."""

    answer: Segmented
    predictions: Sequence[Prediction]

    def overlays(self, heat: bool = False) -> list[Image.Image]:
        """The image with the mask of each query drawn in, and the attention that led there with `heat`."""
        return [prediction.overlay(heat) for prediction in self.predictions]

    def words(self) -> str:
        """For a language model: what and where, without a mask's thousands of characters."""
        lines = [_line(prediction) for prediction in self.predictions]
        if len(lines) > 1:
            lines = [f"{number}. {line}" for number, line in enumerate(lines, 1)]
        return "\n".join([*lines, f"Ask more about this image under its id: {self.answer.image}"])


class ToolService:
    """Segment, refine, ask and describe; an image is named by text, or by the id under which it is open.

    From any thread, one at a time; what takes long lets the others in between (`Turns`). Wrong images and wrong words
    raise ValueError or OSError in one line."""

    def __init__(self, segmenter: Segmenter, doors: Doors, most_open: int = MOST_OPEN):
        self.segmenter, self.doors = segmenter, doors
        self.images = OpenImages(segmenter, most_open)
        self._turns = Turns()

    def segment(
        self, image: str | np.ndarray, queries: Sequence[str], each: bool | None = None, trust: bool = False
    ) -> ToolAnswer:
        """A mask per query, in one pass. `each`: also one mask per instance; None: when the words ask for it. `trust`
        as in `OpenedImage.segment`."""
        _check_queries(queries)
        with self._turns.turn():
            name, opened = self._opened(image)
            return _sight(name, opened, opened.predictions(list(queries), each, trust))

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
            return _sight(name, opened, [opened.refine(opened.segment(query, False, trust), clicks, box)])

    def ask(self, image: str | np.ndarray, question: str) -> TextAnswer:
        """The untouched MLLM's answer in words."""
        _check_queries([question])
        with self._turns.turn():
            name, opened = self._opened(image)
            height, width = opened.image.shape[:2]
            text, note = self.segmenter.backbone.generate(opened.image, question), opened.notice(question)
            return TextAnswer(image=name, width=width, height=height, text=text, notice=note)

    def describe(self, image: str | np.ndarray) -> TextAnswer:
        """What the MLLM sees."""
        return self.ask(image, DESCRIBE)

    def _opened(self, image: str | np.ndarray) -> tuple[str, OpenedImage]:
        if isinstance(image, np.ndarray):
            name = self.images.add(image)
        else:
            name = image.strip() if is_id(image.strip()) else self.images.add(self.doors.pixels(image))
        return name, self.images.get(name)


def _check_queries(queries: Sequence[str]) -> None:
    if not 0 < len(queries) <= MOST_QUERIES:
        raise ValueError(f"got {len(queries)} queries; need 1 to {MOST_QUERIES} in a call")
    if not all(query.strip() for query in queries):
        raise ValueError("got a query without words; say what to look for")


def _sight(name: str, opened: OpenedImage, predictions: Iterable[Prediction]) -> ToolAnswer:
    """One prediction after the other: none stays at the image's size."""
    height, width = opened.image.shape[:2]
    answers, kept = list[Answer](), list[Folded]()
    for prediction in predictions:
        answers.append(prediction.answer())
        kept.append(Folded.of(prediction))
    return ToolAnswer(Segmented(image=name, width=width, height=height, answers=answers), CompressedPredictions(kept))


def _cut(text: str, longest: int = LONGEST_ECHO) -> str:
    return text if len(text) <= longest else f"{text[:longest]}..."


def _line(found: Prediction) -> str:
    query = repr(_cut(found.query))
    if not found.found:
        return f"{query}: not found. {_cut(found.reason or '', 4 * LONGEST_ECHO)}".strip()
    share = 100 * found.mask.mean()
    said = f"{query}: found, score {found.score:.2f}, box {found.box} (x0, y0, x1, y1), {share:.1f} % of the image"
    if not found.instances:
        return said
    boxes = shortened([f"{one.box} (score {one.score:.2f})" for one in found.instances], MOST_BOXES, ", ", "...")
    return f"{said}; {len(found.instances)} instances: {boxes}"
