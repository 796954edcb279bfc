"""The public verb: an image and a sentence go in, a mask comes out, and the MLLM talks as before."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from pickle import PicklingError
from tempfile import TemporaryDirectory
from typing import Any, Unpack, overload

import numpy as np
import torch
from PIL import Image

from seglens.backbones import Backbone
from seglens.checkpoints.config import HeadConfig, read_config
from seglens.checkpoints.head import load_state, save_head
from seglens.checkpoints.hub import push_folder
from seglens.checkpoints.origin import EMBEDDED, CheckpointError, Origin
from seglens.convert.published import head_folder
from seglens.core.devices import AUTO
from seglens.core.files import whole_folder
from seglens.core.interruption import safe_point
from seglens.data.head_prompt import HeadPrompt
from seglens.data.images import load_image
from seglens.decoders import MaskDecoder
from seglens.inference.argument_checks import queries_of, question_of
from seglens.inference.frozen_models import Parts, chosen_heads
from seglens.inference.image_batches import batch_size, in_batches, predictions_of_batch
from seglens.inference.loading_options import LoadedFrom, LoadingOptions, check_options, hub_options
from seglens.inference.opened_image import OpenedImage, Queries
from seglens.inference.prediction import Prediction
from seglens.inference.reasons import notice
from seglens.inference.thresholds import MASK_THRESHOLD, check_presence, threshold_of
from seglens.methods import LocalizationConfig, Method, build_method, kind_of, method_settings, name_of

ImageSource = str | Path | Image.Image | np.ndarray | bytes


class Segmenter:
    """An MLLM that is not changed, a trained method and, if the method needs it, SAM or SAM 2, with one `segment()`.

    A method that tunes (MLLMSeg, SELF1E, LISA, UFO) reads through its own adapter, which the chat does not use."""

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
        self.head_prompt = config.prompt or HeadPrompt()
        self.mask_threshold = threshold_of(mask_threshold)
        self.presence_threshold = config.presence_threshold if presence_threshold is None else presence_threshold
        check_presence(self.presence_threshold)
        self._loaded: LoadedFrom | None = None

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = EMBEDDED,
        *,
        device: str | torch.device = AUTO,
        dtype: str | torch.dtype | None = None,
        load_in: str | None = None,
        revision: str | None = None,
        segmentation_only: bool = False,
        mask_threshold: float = MASK_THRESHOLD,
        presence_threshold: float | None = None,
        **loading: Unpack[LoadingOptions],
    ) -> Segmenter:
        """Load a head and the frozen parts it names: a folder, a hub id, or "embedded" for the model in the package.

        `device` "auto" is a GPU where there is one. `dtype` is the MLLM's precision: "fp32", "bf16", "fp16", a torch
        dtype or "auto" (as its files are); by default fp32 on a CPU and "auto" elsewhere. `load_in` packs the MLLM's
        weights: "4bit" or "8bit". A pixel belongs to the mask when its logit is above `mask_threshold`; a query whose
        presence is below `presence_threshold` (by default the head's own) has none. `segmentation_only` leaves out the
        layers that a frozen method does not read; a tuned one reads them all. `loading` is for the MLLM, as in
        `LoadingOptions` (`token`, `cache_dir` and `local_files_only` hold for all that is fetched). No network is used
        unless a name is a hub id that is not yet on disk.

        Raises ValueError on an option that is not known, CheckpointError or ValueError when anything is missing, extra
        or of another shape."""
        check_options(loading, cls.from_pretrained)
        options: dict[str, Any] = {"dtype": dtype, "load_in": load_in, **loading}
        folder = head_folder(name, revision, **hub_options(loading))
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
            **options,
        ).with_system_text(None if config.prompt is None else config.prompt.system)
        method = build_method(settings, parts.backbone, parts.decoder)
        load_state(folder, method)
        loaded = LoadedFrom.of(name, revision, device=device, segmentation_only=segmentation_only, **options)
        return cls._put_together(parts, method, config, mask_threshold, presence_threshold, loaded)

    @classmethod
    def from_parts(
        cls,
        backbone: str | Path,
        decoder: str | Path,
        *,
        heads: str | Path | None = None,
        device: str | torch.device = AUTO,
        dtype: str | torch.dtype | None = None,
        load_in: str | None = None,
        revision: str | None = None,
        segmentation_only: bool = False,
        mask_threshold: float = MASK_THRESHOLD,
        presence_threshold: float | None = None,
        **loading: Unpack[LoadingOptions],
    ) -> Segmenter:
        """An MLLM and a SAM or SAM 2 with nothing trained between them: the MLLM's own attention gives the place
        (`seglens.methods.localization`).

        `backbone` and `decoder` are folders, hub ids or the package's own ("embedded/mllm", "embedded/sam"), and
        `revision` is the MLLM's. `heads` is a file of `seglens probe --heads`; by default the attention heads that the
        package knows of this MLLM, else those that look right for each query by themselves ("choose" takes these in any
        case), which cannot tell what is not there. The rest as in `from_pretrained`; `segmentation_only` leaves out the
        layers after the last head. Raises ValueError when a part cannot be had, or the heads are another MLLM's."""
        check_options(loading, cls.from_parts)
        options: dict[str, Any] = {"dtype": dtype, "load_in": load_in, **loading}
        origins = Origin.of(str(backbone), revision), Origin.of(str(decoder))
        choice = chosen_heads(heads, origins[0])
        deepest = None if choice is None else choice.deepest_layer
        parts = Parts.load(
            *origins, device=device, segmentation_only=segmentation_only, deepest_layer=deepest, **options
        )
        origin, sam = parts.origins()
        if choice is not None:
            choice.check(origin.name, origin.revision)
        settings = LocalizationConfig()
        if choice is not None:
            settings = replace(settings, heads=choice.heads, presence_head=choice.presence_head, mass=choice.mass)
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
        method = build_method(settings, parts.backbone, parts.decoder)
        options |= {"device": device, "segmentation_only": segmentation_only, "heads": heads}
        loaded = LoadedFrom.of(backbone, revision, str(decoder), **options)
        return cls._put_together(parts, method, config, mask_threshold, presence_threshold, loaded)

    @classmethod
    def _put_together(
        cls,
        parts: Parts,
        method: Method,
        config: HeadConfig,
        mask_threshold: float,
        presence_threshold: float | None,
        loaded: LoadedFrom,
    ) -> Segmenter:
        method = method.to(parts.device)
        segmenter = cls(parts.backbone, parts.decoder, method, config, mask_threshold, presence_threshold)
        segmenter._loaded = loaded
        return segmenter

    def __reduce__(self) -> tuple[Any, ...]:
        """A segmenter is pickled as what it was loaded from, with its options: another process loads it again.

        Raises PicklingError for one that was not loaded by name."""
        if self._loaded is None:
            raise PicklingError(
                "this segmenter was put together from parts, and has no name to load it by in another process; "
                "save_pretrained() it, and use Segmenter.from_pretrained(folder)"
            )
        load: Callable[..., Segmenter] = (
            Segmenter.from_parts if len(self._loaded.names) > 1 else Segmenter.from_pretrained
        )
        thresholds = {"mask_threshold": self.mask_threshold, "presence_threshold": self.presence_threshold}
        return partial(load, *self._loaded.names, **self._loaded.options, **thresholds), ()

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the head into a new folder, whole or not at all; `from_pretrained(folder)` loads it. The frozen parts
        stay where they are and are named: folders by absolute paths, hub ids with their commits.

        Raises FileExistsError when the folder holds anything."""
        backbone, decoder = Parts(self.backbone, self.decoder).origins()
        config = replace(self.config, backbone=backbone, decoder=decoder)
        folder = Path(folder).absolute()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(folder) as hidden:
            save_head(hidden, config, self.method.state_dict(), dtype)

    def push_to_hub(self, name: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Publish the head under a hub id, with a model card. Returns the address of the commit.

        Raises CheckpointError when the head names a folder of this machine, or the hub refuses."""
        with TemporaryDirectory() as folder:
            head = Path(folder) / "head"
            self.save_pretrained(head)
            return push_folder(head, read_config(head), name, private, token)

    def open(self, image: ImageSource) -> OpenedImage:
        """Read an image once; each query about it then costs only its own words."""
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
            queries_of(query)  # raises the error
        queries = [query] * len(image) if isinstance(query, str) else list(query)
        if len(queries) != len(image):
            raise ValueError(
                f"got {len(image)} images and {len(queries)} queries; give one query for all, or one per image"
            )
        return list(self._streamed(image, queries, each, trust))

    def _streamed(
        self, images: Sequence[ImageSource], queries: Sequence[Any], each: bool | None, trust: bool
    ) -> Iterator[Any]:
        pairs = ((load_image(one), words) for one, words in zip(images, queries, strict=True))
        for batch in in_batches(pairs, batch_size(self), lambda pair: pair[0].shape[0] * pair[0].shape[1]):
            pixels, words = zip(*batch, strict=True)
            for some, drawn in zip(
                words, predictions_of_batch(self, pixels, words, each=each, trust=trust), strict=True
            ):
                predictions = list(drawn)
                yield predictions[0] if isinstance(some, str) else predictions

    @property
    def can_refine(self) -> bool:
        """Whether `OpenedImage.refine` works: it needs a promptable mask decoder (SAM, SAM 2)."""
        return self.decoder is not None

    def ask(self, image: ImageSource, question: str, max_new_tokens: int = 128) -> str:
        """The untouched MLLM's answer. Warns with the text of `notice`, if any."""
        pixels = load_image(image)
        warning = self.notice(pixels, question_of(question))
        if warning is not None:
            warnings.warn(warning, stacklevel=2)
        return self.backbone.generate(pixels, question, max_new_tokens)

    def notice(self, image: ImageSource, question: str) -> str | None:
        """A warning about the MLLM's answer: an unfamiliar picture, unknown words; None when there is none."""
        return notice(self.backbone.familiar(load_image(image)), self.backbone.prompts.unknown(question))


def _settings(config: HeadConfig, folder: Path) -> tuple[Any, bool]:
    """The method's own config, and whether it tunes its MLLM."""
    try:
        return method_settings(config.method, config.settings), kind_of(config.method).tuned
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / 'config.json'} cannot be built: {error}") from error
