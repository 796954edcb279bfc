"""The frozen parts of a system together: an MLLM that reads images and questions and, for the methods that need one, a
decoder that draws masks."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from seglens.backbones import Backbone, load_backbone
from seglens.cache import Cache, Manifest, Share, Stored, build, identity
from seglens.checkpoint import Origin
from seglens.data import Dataset
from seglens.decoders import MaskDecoder, load_decoder
from seglens.features import Features, Live, extract
from seglens.hub import hub_commit
from seglens.types import Sample


@dataclass(frozen=True)
class Parts:
    """A backbone and perhaps a mask decoder, loaded and in place."""

    backbone: Backbone
    decoder: MaskDecoder | None

    @classmethod
    def load(
        cls, backbone: Origin, decoder: Origin | None, *, device: str | torch.device = "cpu",
        segmentation_only: bool = True, **loading: Any,
    ) -> Parts:  # fmt: skip
        """Both from folders or hub ids; `loading` goes to the backbone (`layer`, `dtype`, ...). The mask decoder is
        always in fp32, and on a CPU so is the backbone unless `dtype` says otherwise: half precision is slow and coarse
        there.

        Raises ValueError when the device, the layer or the weights cannot be had."""
        device = usable_device(device)
        if device.type == "cpu":
            loading.setdefault("dtype", torch.float32)
        mllm = load_backbone(
            backbone.resolve(), revision=backbone.revision, segmentation_only=segmentation_only, **loading
        )
        if "device_map" not in loading:
            mllm.module.to(device)
        if decoder is None:
            return cls(mllm, None)
        sam = load_decoder(decoder.resolve(), revision=decoder.revision, dtype=torch.float32)
        sam.module.to(device)
        return cls(mllm, sam)

    @property
    def device(self) -> torch.device:
        """Where a method goes: beside the mask decoder, if there is one, because there it gives its prompts."""
        return self.backbone.device if self.decoder is None else self.decoder.device

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
        return {
            name: identity(part.signature(), part.name, hub_commit(part.name))
            for name, part in named.items()
            if part is not None
        }

    def read(self, sample: Sample, questions: Sequence[int] | None = None) -> Features:
        """What they say of a sample and of questions about it, by number among those that ask for masks (default
        all)."""
        return extract(sample.drawn(), self.backbone, self.sam(), questions)

    def live(self, data: Dataset, name: str) -> Live:
        """A dataset, read whenever it is asked for."""
        return Live(data, self.read, name, self.key, Sample.drawn)

    def cached(
        self, data: Dataset, name: str, folder: Path, dtype: Stored = "auto",
        tick: Callable[[int], None] = lambda images: None,
    ) -> Cache:  # fmt: skip
        """A dataset, read once and kept in `folder`: what is missing there is computed, by all processes of a launch
        together. Raises CacheError when the folder holds something else."""
        manifest = Manifest(self.key, name, len(data), data.trainable, dtype)
        build(data, self.read, folder, manifest, Share.here(), tick)
        _wait(self.device)
        return Cache.open(folder, manifest.key, name)


def _origin(part: Backbone | MaskDecoder) -> Origin:
    return Origin.of(part.name, part.revision or hub_commit(part.name))


def _wait(device: torch.device) -> None:
    """Until every process of the launch is here."""
    if Share.here().world > 1:
        from accelerate import PartialState

        PartialState(cpu=device.type == "cpu").wait_for_everyone()


def usable_device(name: str | torch.device) -> torch.device:
    """The device of that name; of several processes, each takes its own "cuda".

    Raises ValueError when this machine does not have it."""
    if str(name) == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a torch built without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {str(name)!r} cannot be used here ({reason}); try cpu, cuda or mps") from error
    return device
