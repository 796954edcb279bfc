"""The frozen parts of a system together: an MLLM that reads images and questions and, for the methods that need one, a
decoder that draws masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from seglens.backbones import Backbone, draw_blueprint, load_backbone
from seglens.backbones.head_choice import HeadChoice, known_choice
from seglens.backbones.quantised import few_bits
from seglens.checkpoints.hub import hub_commit
from seglens.checkpoints.origin import Origin
from seglens.core.devices import AUTO, precision, usable_device
from seglens.core.distributed import Ranks
from seglens.core.types import Sample
from seglens.data import Dataset
from seglens.decoders import MaskDecoder, load_decoder
from seglens.features.cache import Cache, Manifest, Stored, build, identity
from seglens.features.examples import LiveExamples
from seglens.features.frozen import Features, extract
from seglens.model_files.strict_loading import HUB, OLD_DTYPE, one_dtype

CHOOSE = "choose"  # localization heads for every query by itself


@dataclass(frozen=True)
class Parts:
    """A backbone and perhaps a mask decoder, loaded and in place."""

    backbone: Backbone
    decoder: MaskDecoder | None
    floors: int | None = None  # features: the side of floored targets (`frozen.extract`) that a method asks for

    @classmethod
    def load(
        cls,
        backbone: Origin,
        decoder: Origin | None,
        *,
        device: str | torch.device = AUTO,
        segmentation_only: bool = True,
        floors: int | None = None,
        deepest_layer: int | None = None,
        **loading: Any,
    ) -> Parts:
        """Both from folders or hub ids; `loading` goes to the backbone, as in `place_backbone`. The mask decoder is
        always in fp32. Of an MLLM that is read at its own choice of layer, the layers up to `deepest_layer` are loaded.

        Raises ValueError when the device, the precision, the layer or the weights cannot be had."""
        device = usable_device(device)
        if deepest_layer is not None and loading.get("layer") is None:
            loading["layer"] = draw_blueprint(backbone.resolve(), revision=backbone.revision).layer_for(deepest_layer)
        mllm = place_backbone(backbone, device=device, segmentation_only=segmentation_only, **loading)
        if decoder is None:
            return cls(mllm, None, floors)
        where = {key: loading[key] for key in HUB if key in loading}
        sam = load_decoder(decoder.resolve(), revision=decoder.revision, dtype=torch.float32, **where)
        sam.module.to(device)
        return cls(mllm, sam, floors)

    def with_system_text(self, system: str | None) -> Parts:
        """The same, with an MLLM that gets a system text (`Backbone.with_system_text`)."""
        return replace(self, backbone=self.backbone.with_system_text(system))

    @property
    def device(self) -> torch.device:
        """Where a method goes: beside the mask decoder, if there is one, because there it gives its prompts."""
        return self.backbone.device if self.decoder is None else self.decoder.device

    @property
    def needed_side(self) -> int | None:
        """Pixels along each side of a picture beyond which neither part sees more of it; None: all of them, because
        tiles are arranged by them, or targets or pixels are computed in the authors' own steps."""
        side = self.backbone.mllm.needed_side if self.floors is None else None
        return side if side is None or self.decoder is None else max(side, self.decoder.image_size)

    def sam(self) -> MaskDecoder:
        """The mask decoder. Raises ValueError when there is none."""
        if self.decoder is None:
            raise ValueError("this needs a SAM or SAM 2 decoder, and none was named; name one")
        return self.decoder

    def origins(self) -> tuple[Origin, Origin | None]:
        """Where both come from: a folder, or a hub id with the commit that it meant when it was loaded."""
        return _origin(self.backbone), None if self.decoder is None else _origin(self.decoder)

    @cached_property
    def key(self) -> dict[str, Any]:
        """All that decides what the parts say of a sample, as plain values: the key of cached features. Reads
        every byte of weights that lie in a folder, once."""
        named: dict[str, Backbone | MaskDecoder | None] = {"backbone": self.backbone, "decoder": self.decoder}
        made = {
            name: identity(part.signature(), part.name, hub_commit(part.name))
            for name, part in named.items()
            if part is not None
        }
        return made if self.floors is None else {**made, "truth": {"floors": self.floors}}

    def read(self, sample: Sample, questions: Sequence[int] | None = None) -> Features:
        """What they say of a sample and of questions about it, by number among those that ask for masks (default
        all)."""
        return extract(sample.drawn(), self.backbone, self.sam(), questions, self.floors)

    def live(self, data: Dataset, name: str) -> LiveExamples:
        """The examples of a dataset, computed at each access."""

        def read(sample: Sample, questions: Sequence[int], number: int) -> Features:
            return self.read(sample, questions)

        return LiveExamples(data, read, name, self.key, Sample.drawn)

    def cached(
        self,
        data: Dataset,
        name: str,
        folder: Path,
        dtype: Stored = "auto",
        tick: Callable[[int], None] = lambda images: None,
    ) -> Cache:
        """A dataset, read once and stored in `folder`: what is missing there is computed, by all processes of a launch
        together. Raises CacheError when the folder holds something else."""
        manifest = Manifest(self.key, name, len(data), data.trainable, dtype)
        build(data, self.read, folder, manifest, Ranks.here(), tick)
        _wait(self.device)
        return Cache.open(folder, manifest.key, name)


def place_backbone(
    origin: Origin,
    *,
    device: str | torch.device = AUTO,
    dtype: str | torch.dtype | None = None,
    load_in: str | None = None,
    **loading: Any,
) -> Backbone:
    """An MLLM on its device, in `dtype` (see `devices.precision`) or in 8 or 4 bits (`load_in`: "8bit" or "4bit"). The
    rest of `loading` as `load_backbone` takes it.

    Raises ValueError when the device, the precision or the weights cannot be had, and ImportError without the packages
    that few bits need."""
    device = usable_device(device)
    loading["dtype"] = precision(one_dtype(dtype, loading.pop(OLD_DTYPE, None)), device)
    if load_in is not None:
        loading["quantization_config"] = few_bits(load_in, device, loading["dtype"])
    if loading.get("quantization_config") is not None:
        loading.setdefault("device_map", {"": device})  # packed weights are created on their device: they cannot move
    mllm = load_backbone(origin.resolve(), revision=origin.revision, **loading)
    if "device_map" not in loading:
        mllm.module.to(device)
    return mllm


def chosen_heads(heads: str | Path | None, backbone: Origin) -> HeadChoice | None:
    """The localization heads of a file, or those that the package knows of an MLLM; None, as for the word "choose",
    when each query chooses its own. Raises HeadChoiceError when the file is none, or of another MLLM."""
    if heads == CHOOSE:
        return None
    if heads is None:
        return known_choice(backbone.name, backbone.revision)
    choice = HeadChoice.read(heads)
    choice.check(backbone.name, backbone.revision)
    return choice


def _origin(part: Backbone | MaskDecoder) -> Origin:
    return Origin.of(part.name, part.revision or hub_commit(part.name))


def _wait(device: torch.device) -> None:
    """Until every process of the launch is here."""
    if Ranks.here().world > 1:
        from accelerate import PartialState

        PartialState(cpu=device.type == "cpu").wait_for_everyone()
