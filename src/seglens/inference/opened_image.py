"""An image that the models have read: for any number of queries, and corrections of their masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seglens.backbones import Backbone
from seglens.checkpoints.config import HeadConfig
from seglens.core.interruption import safe_point
from seglens.core.mask_logits import Drawing
from seglens.core.schema import Box, Click
from seglens.core.types import Embedding, MethodOutput
from seglens.data.head_prompt import HeadPrompt
from seglens.decoders import MaskDecoder
from seglens.inference.argument_checks import corrections_of, queries_of
from seglens.inference.encoding import Encoded, encode
from seglens.inference.instances import Splitter, instance_query
from seglens.inference.lap_clock import LapClock
from seglens.inference.prediction import Prediction, on_mask
from seglens.inference.reasons import EMPTIED, notice, refusal
from seglens.inference.refinement import CorrectionError, Refiner, check_corrections, obey
from seglens.methods import Method
from seglens.methods.base import EncodedImage

Queries = list[str] | tuple[str, ...]  # not Sequence: a str is one, of its letters


@runtime_checkable
class System(Protocol):
    """What an opened image needs of the segmenter that opened it."""

    backbone: Backbone
    decoder: MaskDecoder | None
    method: Method
    config: HeadConfig
    reader: Any
    head_prompt: HeadPrompt
    mask_threshold: float
    presence_threshold: float


class OpenedImage:
    """An image that the MLLM and SAM have read. It answers any number of queries, from any thread."""

    def __init__(self, segmenter: System, image: np.ndarray, encoded: Encoded | None = None):
        """`encoded` is what `encode` gave for the image in a batch; by default the image is encoded here, alone."""
        encoded = encode(segmenter, [image])[0] if encoded is None else encoded
        self.segmenter, self.image = segmenter, image.view()
        self.seen: EncodedImage = encoded.seen
        self.embedding: Embedding | None = encoded.embedding
        self.precomputed: Any = None  # what the method computes of the image; set by the first query
        self.image.flags.writeable = False  # predictions share it
        self.opening = encoded.milliseconds

    @overload
    def segment(self, query: str, each: bool | None = None, trust: bool = False) -> Prediction: ...
    @overload
    def segment(self, query: Queries, each: bool | None = None, trust: bool = False) -> list[Prediction]: ...
    def segment(
        self, query: str | Queries, each: bool | None = None, trust: bool = False
    ) -> Prediction | list[Prediction]:
        """One query: a Prediction. A list of queries: all in one pass.

        `each` asks for several things with a mask each, in `Prediction.instances`; by default the words decide
        (`seglens.inference.instances`: "each of the cups", "every cup separately"). `trust` shows the mask in spite of
        an unfamiliar picture or unknown words, which are reasons for none otherwise."""
        predictions = list(self.predictions(query, each, trust))
        return predictions[0] if isinstance(query, str) else predictions

    def predictions(self, query: str | Queries, each: bool | None = None, trust: bool = False) -> Iterator[Prediction]:
        """What `segment` finds, one query after the other: the MLLM reads all of them in one pass, and each mask of
        the image's size is computed in turn. A large picture with many queries so takes the memory of one mask, if
        each prediction is released before the next."""
        queries = queries_of(query)
        yield from self._found(queries, [None] * len(queries), each, trust)

    def predictions_as(self, queries: Sequence[str], kinds: Sequence[str]) -> Iterator[Prediction]:
        """`predictions` for queries of known kinds: those of a dataset's targets ("phrase", "sentence", ...), or
        `seglens.data.head_prompt.AS_IT_STANDS` for one that stands in a template already."""
        yield from self._found(queries, kinds)

    def _found(
        self, queries: Sequence[str], kinds: Sequence[str | None], each: bool | None = None, trust: bool = False
    ) -> Iterator[Prediction]:
        """Each query in the template of the head's config, by its kind or, where that is None, by its words."""
        yield from self.answered(queries, self.prompts(queries, kinds), each, trust)

    def answered(
        self, queries: Sequence[str], prompts: Sequence[str], each: bool | None, trust: bool
    ) -> Iterator[Prediction]:
        """The predictions of queries that are read as `prompts`."""
        if queries:
            clock = LapClock(self.segmenter.backbone.device, open=self.opening)
            yield from self.drawn(queries, self._output(prompts, clock), clock, each, trust)

    def prompts(self, queries: Sequence[str], kinds: Sequence[str | None]) -> list[str]:
        """The texts that the MLLM reads."""
        words = [instance_query(q).words for q in queries]
        return [self.segmenter.head_prompt.apply(w, kind) for w, kind in zip(words, kinds, strict=True)]

    def drawn(
        self, queries: Sequence[str], output: MethodOutput, clock: LapClock, each: bool | None, trust: bool
    ) -> Iterator[Prediction]:
        """The predictions of what the method computed for this image (b is 1), one query after the other; what it
        computed for further questions is left out."""
        meant = [instance_query(q) for q in queries]
        masks = Drawing(self.seen.frame, output.mask_logits[0, : len(queries)]).masks(self.segmenter.mask_threshold)
        for k, (q, m) in enumerate(zip(queries, meant, strict=True)):
            clock.go_on()
            with torch.inference_mode():
                drawn = next(masks)
                clock.lap("upsample")
                prediction = self._prediction(q, k, output, drawn, clock.laps, self._unknown(m.words), trust)
                del drawn  # what is refused shows another mask
                if m.each if each is None else each:
                    prediction = self._divided(prediction)
            yield prediction
            del prediction

    @torch.inference_mode()
    def _output(self, words: Sequence[str], clock: LapClock) -> MethodOutput:
        safe_point()
        read = self.segmenter.reader.read(self.seen, words)
        clock.lap("read")
        method = self.segmenter.method
        if self.precomputed is None:
            self.precomputed = method.precompute(read)
        output = method.decode(read, self.embedding, self.precomputed)
        clock.lap("head")
        return output

    @property
    def familiar(self) -> bool | None:
        """Whether the picture is of the kind that the MLLM was made for; None: the MLLM has no statistic of that."""
        return self.seen.familiar

    def notice(self, question: str) -> str | None:
        """What to know about an answer of the MLLM to this question; None when there is nothing."""
        return notice(self.familiar, self._unknown(question))

    def _unknown(self, words: str) -> tuple[str, ...]:
        return self.segmenter.backbone.prompts.unknown(words)

    @torch.inference_mode()
    def refine(self, prediction: Prediction, clicks: Sequence[Click] = (), box: Box | None = None) -> Prediction:
        """The same query with its mask corrected by clicks and a box, through the mask decoder's own prompts.

        They add to those of earlier refinements (a new box takes the place of the old one). A positive click ends
        inside the mask and a negative one outside. The MLLM is not run: this takes milliseconds.

        Raises ValueError when the method has no promptable mask decoder, when the prediction is of another image, and
        when a click or the box lies outside the image."""
        decoder, frame = self._promptable(), self.seen.frame
        clicks, box = corrections_of(clicks, box)
        self._check_own(prediction)
        corrections = prediction.corrections.joined(clicks, box)
        check_corrections(corrections, frame)
        clock = LapClock(self.segmenter.backbone.device, open=self.opening)
        canvas = self._corrected(prediction, clicks, box)
        clock.lap("refine")
        threshold = self.segmenter.mask_threshold
        drawing = obey(
            Drawing(frame, canvas[None]), corrections.clicks, threshold, reach=frame.side / decoder.mask_side
        )
        mask, score = drawing.above(threshold)[0]
        found = bool(mask.any())
        clock.lap("upsample")
        return replace(
            prediction,
            mask=mask,
            found=found,
            score=score if found else None,
            reason=None if found else prediction.reason or EMPTIED,
            keypoint_labels=on_mask(mask, prediction.keypoints),
            instances=(),
            corrections=corrections,
            canvas_logits=canvas.cpu().numpy(),
            moves=drawing.moves,
            timing=dict(clock.laps),
        )

    def _corrected(self, prediction: Prediction, clicks: Sequence[Click], box: Box | None) -> Float[Tensor, "s s"]:
        """Mask logits on the canvas after the box, if there is one, and then one click after the other."""
        assert self.embedding is not None
        assert prediction.canvas_logits is not None
        threshold = self.segmenter.mask_threshold
        refiner = Refiner(self._promptable(), self.embedding, self.seen.frame, threshold)
        canvas, drawn = torch.tensor(prediction.canvas_logits), prediction.corrections.joined((), box)
        if not prediction.found:  # the user saw an empty mask
            canvas = threshold - (canvas - threshold).abs()
        if box is not None:
            canvas = refiner.box(drawn)
        for click in clicks:
            safe_point()
            drawn = drawn.joined([click], None)
            canvas = refiner.click(canvas.to(refiner.decoder.device), drawn)
        return canvas

    def _promptable(self) -> MaskDecoder:
        if self.segmenter.decoder is None:
            raise ValueError(
                f"{self.segmenter.config.method} draws its masks without SAM, so that nothing here takes clicks or "
                "boxes; load a method with a mask decoder (lens or lisa) to refine"
            )
        return self.segmenter.decoder

    def _check_own(self, prediction: Prediction) -> None:
        if not isinstance(prediction, Prediction):
            raise CorrectionError(f"got {type(prediction).__name__} to refine; need a prediction that segment() gave")
        if prediction.canvas_logits is None:
            raise ValueError("the prediction was not made by segment(), which keeps what refining starts from")
        if prediction.image is not self.image and not np.array_equal(prediction.image, self.image):
            raise ValueError("the prediction is of another image; refine it on the image that was segmented")

    def _divided(self, prediction: Prediction) -> Prediction:
        """The prediction with its mask split into the things that it is of."""
        splitter = Splitter(self.seen.frame, self.segmenter.decoder, self.embedding)
        return replace(prediction, instances=splitter.split(prediction))

    def _prediction(
        self,
        query: str,
        k: int,
        output: MethodOutput,
        drawn: tuple[Bool[np.ndarray, "h w"], float],
        timing: dict[str, float],
        unknown: tuple[str, ...],
        trust: bool,
    ) -> Prediction:
        logits = None if self.segmenter.config.presence == "untrained" else output.presence_logits
        presence = None if logits is None else float(logits[0, k].sigmoid())
        believed = presence is None or presence >= self.segmenter.presence_threshold
        mask, score = drawn
        reason = refusal(
            query,
            familiar=self.familiar,
            unknown_words=unknown,
            trust=trust,
            presence=presence,
            believed=believed,
            drawn=bool(mask.any()),
        )
        found = reason is None
        mask = mask if found else np.zeros_like(mask)
        points, scores = self._keypoints(k, output)
        return Prediction(
            query=query,
            image=self.image,
            mask=mask,
            score=score if found else None,
            presence=presence,
            found=found,
            reason=reason,
            unknown_words=unknown,
            familiar=self.familiar,
            heat_map=None if output.heat_map is None else output.heat_map[0, k].cpu().numpy(),
            keypoints=points,
            keypoint_scores=scores,
            keypoint_labels=on_mask(mask, points),
            canvas_logits=output.mask_logits[0, k].cpu().numpy(),
            lay=self.seen.frame.lay,
            timing=dict(timing),
        )

    def _keypoints(self, k: int, output: MethodOutput) -> tuple[np.ndarray, np.ndarray]:
        if output.keypoints is None:
            return np.zeros((0, 2), np.float32), np.zeros(0, np.float32)
        keep = output.keypoints.keep[0, k]
        points = self.seen.frame.to_image(output.keypoints.points[0, k][keep])
        return points.cpu().numpy(), output.keypoints.scores[0, k][keep].cpu().numpy()
