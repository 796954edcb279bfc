"""The public verb: an image and a sentence go in, a mask comes out, and the MLLM talks as before."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from pickle import PicklingError
from tempfile import TemporaryDirectory
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from seglens.backbones import Backbone
from seglens.checkpoints.head import (
    EMBEDDED,
    CheckpointError,
    HeadConfig,
    Origin,
    load_state,
    read_config,
    save_head,
)
from seglens.checkpoints.hub import hub_commit, push_folder, resolve_folder
from seglens.core.devices import AUTO
from seglens.core.interruption import safe_point
from seglens.core.mask_logits import Drawing
from seglens.core.schema import Box, Click
from seglens.core.types import Embedding, MethodOutput
from seglens.data.asking import Asking
from seglens.data.images import load_image
from seglens.decoders import MaskDecoder
from seglens.inference.argument_checks import corrections_of, queries_of, question_of, threshold_of
from seglens.inference.frozen_models import Parts, chosen_heads
from seglens.inference.instances import Splitter, asked
from seglens.inference.prediction import Prediction, on_mask
from seglens.inference.reasons import EMPTIED, notice, refusal
from seglens.inference.refinement import CorrectionError, Refiner, check_corrections, obey
from seglens.methods import LocalizationConfig, Method, build_method, kind_of, method_settings, name_of
from seglens.methods.base import SeenImage
from seglens.model_files.strict_loading import HUB

MASK_THRESHOLD = 0.0  # logits (LISA's protocol); the authors of LENS used a probability of 0.6

ImageSource = str | Path | Image.Image | np.ndarray | bytes
Queries = list[str] | tuple[str, ...]  # not Sequence: a str is one, of its letters


class Segmenter:
    """An MLLM that stays as it is, a trained method and, if the method needs it, SAM or SAM 2 behind one `segment()`.

    A method that tunes (MLLMSeg, SELF1E, LISA, UFO) reads through its own adapter, which chat never meets."""

    def __init__(
        self,
        backbone: Backbone,
        decoder: MaskDecoder | None,
        method: Method,
        config: HeadConfig,
        mask_threshold: float = MASK_THRESHOLD,
        presence_threshold: float | None = None,
    ):
        """`mask_threshold` is a logit (`threshold_logit` makes one of a probability); `presence_threshold`, by default
        the head's own, is the probability below which a query counts as absent. Raises ValueError when it is none."""
        self.backbone, self.decoder, self.method, self.config = backbone, decoder, method.eval(), config
        self.reader: Any = backbone if method.reader is None else method.reader
        self.asking = config.prompt or Asking()
        self.mask_threshold = threshold_of(mask_threshold)
        self.presence_threshold = config.presence_threshold if presence_threshold is None else presence_threshold
        check_presence(self.presence_threshold)
        self._loaded: Loaded | None = None

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = EMBEDDED,
        *,
        device: str | torch.device = AUTO,
        revision: str | None = None,
        segmentation_only: bool = False,
        mask_threshold: float = MASK_THRESHOLD,
        presence_threshold: float | None = None,
        **loading: Any,
    ) -> Segmenter:
        """Load a head and the frozen parts it names: a folder, a hub id, or "embedded" for the model in the package.

        `device` "auto" is a GPU where there is one. A pixel belongs to the mask when its logit is above
        `mask_threshold`; a query whose presence is below `presence_threshold` (by default the head's own) has none.
        `loading` goes to the backbone (`dtype`, `load_in="4bit"`, `attn_implementation`, ...; `token`, `cache_dir` and
        `local_files_only` to all that is fetched), and what is none of its options is refused. No network is used
        unless a name is a hub id that is not yet on disk. `segmentation_only` leaves out the layers that a frozen
        method does not read; a tuned one reads them all. Raises CheckpointError or ValueError when anything is missing,
        extra or of another shape."""
        folder = resolve_folder(name, revision, **{key: loading[key] for key in HUB if key in loading})
        config = read_config(folder)
        settings, tuned = _settings(config, folder)
        backbone, decoder = (
            None if o is None else Origin(o.resolve(folder), o.revision) for o in (config.backbone, config.decoder)
        )
        assert backbone is not None
        parts = Parts.load(
            backbone,
            decoder,
            layer=config.layer,
            image_size=config.image_size,
            canvas=config.canvas,
            device=device,
            segmentation_only=segmentation_only and not tuned,
            **loading,
        ).told(None if config.prompt is None else config.prompt.system)
        method = build_method(settings, parts.backbone, parts.decoder)
        load_state(folder, method)
        made = cls(parts.backbone, parts.decoder, method.to(parts.device), config, mask_threshold, presence_threshold)
        made._loaded = Loaded.of(name, revision, device=device, segmentation_only=segmentation_only, **loading)
        return made

    @classmethod
    def from_parts(
        cls,
        backbone: str | Path,
        decoder: str | Path,
        *,
        heads: str | Path | None = None,
        device: str | torch.device = AUTO,
        revision: str | None = None,
        segmentation_only: bool = False,
        mask_threshold: float = MASK_THRESHOLD,
        presence_threshold: float | None = None,
        **loading: Any,
    ) -> Segmenter:
        """An MLLM and a SAM or SAM 2 with nothing trained between them: the MLLM's own attention says where to look
        (`seglens.methods.localization`).

        `backbone` and `decoder` are folders, hub ids or the package's own ("embedded/mllm", "embedded/sam"), and
        `revision` is the MLLM's. `heads` is a file of `seglens probe --heads`; by default the attention heads that the
        package knows of this MLLM, else those that look right for each query by themselves ("choose" takes these in any
        case), which cannot tell what is not there. The rest as in `from_pretrained`; `segmentation_only` leaves out the
        layers behind the last head. Raises ValueError when a part cannot be had, or the heads are another MLLM's."""
        origins = Origin.of(str(backbone), revision), Origin.of(str(decoder))
        choice = chosen_heads(heads, origins[0])
        lowest = None if choice is None else choice.lowest_layer
        parts = Parts.load(*origins, device=device, segmentation_only=segmentation_only, lowest_layer=lowest, **loading)
        origin, sam = parts.origins()
        if choice is not None:
            choice.check(origin.name, origin.revision)
        settings = LocalizationConfig() if choice is None else LocalizationConfig(choice.heads, mass=choice.mass)
        config = HeadConfig(
            name_of(settings),
            asdict(settings),
            origin,
            parts.backbone.layer,
            sam,
            parts.backbone.image_size,
            parts.backbone.canvas,
            presence="untrained" if settings.mass is None else "trained",
        )
        method = build_method(settings, parts.backbone, parts.decoder).to(parts.device)
        made = cls(parts.backbone, parts.decoder, method, config, mask_threshold, presence_threshold)
        made._loaded = Loaded.of(
            backbone, revision, str(decoder), device=device, segmentation_only=segmentation_only, heads=heads, **loading
        )
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """A segmenter is pickled as what it was loaded from, with its options: another process loads it again.

        Raises PicklingError for one that was not loaded by name."""
        if self._loaded is None:
            raise PicklingError(
                "this segmenter was put together from parts, and has no name to load it by in another process; "
                "save() it, and use Segmenter.from_pretrained(folder)"
            )
        thresholds = {"mask_threshold": self.mask_threshold, "presence_threshold": self.presence_threshold}
        return load_again, (self._loaded.names, {**self._loaded.options, **thresholds})

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the head; the frozen parts stay where they are and are named: folders by absolute paths, hub ids with
        their commits."""
        backbone, decoder = Parts(self.backbone, self.decoder).origins()
        save_head(folder, replace(self.config, backbone=backbone, decoder=decoder), self.method.state_dict(), dtype)

    def push_to_hub(self, name: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Publish the head under a hub id, with a model card. Returns the address of the commit.

        Raises CheckpointError when the head names a folder of this machine, or the hub refuses."""
        with TemporaryDirectory() as folder:
            self.save(folder)
            return push_folder(Path(folder), read_config(folder), name, private, token)

    def open(self, image: ImageSource) -> OpenedImage:
        """See an image once; every question about it then costs only its own words."""
        safe_point()
        return OpenedImage(self, load_image(image))

    @overload
    def segment(self, image: ImageSource, query: str, each: bool | None = None, trust: bool = False) -> Prediction: ...
    @overload
    def segment(
        self, image: ImageSource, query: Queries, each: bool | None = None, trust: bool = False
    ) -> list[Prediction]: ...
    @overload
    def segment(
        self,
        image: list[Any] | tuple[Any, ...],
        query: str | Sequence[Any],
        each: bool | None = None,
        trust: bool = False,
    ) -> list[Any]: ...
    def segment(self, image: Any, query: Any, each: bool | None = None, trust: bool = False) -> Any:
        """Masks for one query or for many in one pass; `each` and `trust` as in `OpenedImage.segment`.

        One image and a string: a Prediction. One image and a list: a list. A list of images: a list with an entry per
        image; the query is then one for all, or a list with one entry (a string or a list) per image."""
        if not isinstance(image, list | tuple):
            return self.open(image).segment(query, each, trust)
        if not isinstance(query, str | list | tuple):
            queries_of(query)  # says what is wrong with it
        queries = [query] * len(image) if isinstance(query, str) else list(query)
        if len(queries) != len(image):
            raise ValueError(
                f"got {len(image)} images and {len(queries)} queries; give one query for all, or one per image"
            )
        return [self.open(one).segment(said, each, trust) for one, said in zip(image, queries, strict=True)]

    @property
    def can_refine(self) -> bool:
        """Whether `OpenedImage.refine` works: it needs a promptable mask decoder (SAM, SAM 2)."""
        return self.decoder is not None

    def ask(self, image: ImageSource, question: str, max_new_tokens: int = 128) -> str:
        """The untouched MLLM's answer. Warns of what `notice` says."""
        pixels = load_image(image)
        told = self.notice(pixels, question_of(question))
        if told is not None:
            warnings.warn(told, stacklevel=2)
        return self.backbone.generate(pixels, question, max_new_tokens)

    def notice(self, image: ImageSource, question: str) -> str | None:
        """What to know about the MLLM's answer: an unfamiliar picture, unknown words; None when there is nothing."""
        return notice(self.backbone.familiar(load_image(image)), self.backbone.prompts.unknown(question))


@dataclass(frozen=True)
class Loaded:
    """What `Segmenter.from_pretrained` was given: a folder by its absolute path, a hub id with its commit. No token:
    a pickle is no place for a secret, and the hub's own login holds in every process."""

    names: tuple[str, ...]  # of a head, or of an MLLM and a mask decoder (`Segmenter.from_parts`)
    options: dict[str, Any]

    @classmethod
    def of(cls, name: str | Path, revision: str | None, *more: str | Path, **options: Any) -> Loaded:
        commit = revision if Path(name).is_dir() else revision or hub_commit(str(name))
        options.pop("token", None)
        names = (str(Path(one).absolute() if Path(one).is_dir() else one) for one in (name, *more))
        return cls(tuple(names), {"revision": commit, **options})


def load_again(names: tuple[str, ...], options: dict[str, Any]) -> Segmenter:
    """What a pickled segmenter is made from."""
    made = Segmenter.from_pretrained if len(names) == 1 else Segmenter.from_parts
    return made(*names, **options)


class OpenedImage:
    """An image that the MLLM and SAM have seen. Ask it as often as you like, from any thread."""

    def __init__(self, segmenter: Segmenter, image: np.ndarray):
        clock = _Clock(segmenter.backbone.device)
        self.segmenter, self.image = segmenter, image.view()
        self.seen: SeenImage = segmenter.reader.open(image)
        decoder = segmenter.decoder
        self.embedding: Embedding | None = None if decoder is None else decoder.encode(image, self.seen.frame)
        self.kept: Any = None  # what the method keeps of the image; filled by the first question
        self.image.flags.writeable = False  # predictions share it
        clock.lap("open")
        self.opening = clock.laps["open"]

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
        made = list(self.predictions(query, each, trust))
        return made[0] if isinstance(query, str) else made

    def predictions(self, query: str | Queries, each: bool | None = None, trust: bool = False) -> Iterator[Prediction]:
        """What `segment` finds, one query after the other: the MLLM reads all of them in one pass, and masks of the
        image's size are made when it is their turn. A large picture with many queries so takes the memory of one mask,
        if each prediction is let go before the next is asked for."""
        queries = queries_of(query)
        yield from self._found(queries, [None] * len(queries), each, trust)

    def predictions_as(self, queries: Sequence[str], kinds: Sequence[str]) -> Iterator[Prediction]:
        """`predictions` for queries of known kinds: those of a dataset's targets ("phrase", "sentence", ...), or
        `seglens.data.asking.AS_IT_STANDS` for one that stands in a template already."""
        yield from self._found(queries, kinds)

    def _found(
        self, queries: Sequence[str], kinds: Sequence[str | None], each: bool | None = None, trust: bool = False
    ) -> Iterator[Prediction]:
        """Each query put as the head's config says, by its kind or, where that is None, by its words."""
        if not queries:
            return
        clock = _Clock(self.segmenter.backbone.device, open=self.opening)
        meant = [asked(q) for q in queries]
        put = [self.segmenter.asking.put(m.words, kind) for m, kind in zip(meant, kinds, strict=True)]
        output = self._output(put, clock)
        masks = Drawing(self.seen.frame, output.mask_logits[0]).masks(self.segmenter.mask_threshold)
        for k, (q, m) in enumerate(zip(queries, meant, strict=True)):
            clock.go_on()
            with torch.inference_mode():
                drawn = next(masks)
                clock.lap("upsample")
                made = self._prediction(q, k, output, drawn, clock.laps, self._unknown(m.words), trust)
                del drawn  # what is refused shows another mask
                made = self._divided(made) if (m.each if each is None else each) else made
            yield made
            del made

    @torch.inference_mode()
    def _output(self, words: Sequence[str], clock: _Clock) -> MethodOutput:
        safe_point()
        read = self.segmenter.reader.read(self.seen, words)
        clock.lap("read")
        method = self.segmenter.method
        if self.kept is None:
            self.kept = method.precompute(read)
        output = method.decode(read, self.embedding, self.kept)
        clock.lap("head")
        return output

    @property
    def familiar(self) -> bool | None:
        """Whether the picture is of the kind that the MLLM was made for; None: it carries no statistic of that."""
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
        inside the mask and a negative one outside. Nothing is asked of the MLLM: this takes milliseconds.

        Raises ValueError when the method has no promptable mask decoder, when the prediction is of another image, and
        when a click or the box lies outside the image."""
        decoder, frame = self._promptable(), self.seen.frame
        clicks, box = corrections_of(clicks, box)
        self._check_own(prediction)
        corrections = prediction.corrections.joined(clicks, box)
        check_corrections(corrections, frame)
        clock = _Clock(self.segmenter.backbone.device, open=self.opening)
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
        said = None if self.segmenter.config.presence == "untrained" else output.presence_logits
        presence = None if said is None else float(said[0, k].sigmoid())
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


class _Clock:
    """Milliseconds of each lap, by name, after those that are known already."""

    def __init__(self, device: torch.device, **known: float):
        self.device, self.laps = device, known
        self._last = self._now()

    def lap(self, name: str) -> None:
        now = self._now()
        self.laps[name], self._last = self.laps.get(name, 0.0) + 1e3 * (now - self._last), now

    def go_on(self) -> None:
        """What passed since the last lap belongs to none."""
        self._last = self._now()

    def _now(self) -> float:
        if self.device.type != "cpu":  # a GPU is still at work when Python goes on
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()


def check_presence(threshold: float) -> None:
    """Raises ValueError unless it is a probability: 0 refuses nothing, 1 nearly all."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"got a presence threshold of {threshold}; it needs a probability from 0 to 1, as in 0.5")


def threshold_logit(probability: float) -> float:
    """The logit above which a pixel's probability is above `probability`: 0.6 for the released evaluation of LENS.

    Raises ValueError unless it lies between 0 and 1."""
    if not 0 < probability < 1:
        raise ValueError(f"got a mask threshold of {probability}; it needs a probability between 0 and 1, as in 0.6")
    return math.log(probability / (1 - probability))


def _settings(config: HeadConfig, folder: Path) -> tuple[Any, bool]:
    """The method's own config, and whether it tunes its MLLM."""
    try:
        return method_settings(config.method, config.settings), kind_of(config.method).tuned
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / 'config.json'} cannot be built: {error}") from error
