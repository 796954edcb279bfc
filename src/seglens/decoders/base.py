"""What every mask decoder is: a frozen promptable segmenter whose mask decoder may be trained as a copy."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import ImageProcessingMixin
from transformers.utils import logging

from seglens.core.geometry import Frame
from seglens.core.types import Embedding, Prompt
from seglens.decoders.prompt_mask import hiding, watch_prompts
from seglens.model_files.strict_loading import HUB, checked_options, load_strict

# SAM's own pixel statistics (0 to 255), SAM 2's too; used where the checkpoint folder names none
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
PROCESSORS = ("preprocessor_config.json", "processor_config.json")

Statistics = tuple[float, float, float]


class MaskDecoder(ABC):
    """A frozen promptable segmenter. `encode` runs once per image; `decode` answers any number of prompt sets on it in
    one pass.

    Every image is seen in the one frame of this package: scaled by its longest side and padded at the bottom and right
    to a square, so that the MLLM's grid, the keypoints and the masks share their coordinates."""

    model: ClassVar[Any]  # the transformers class of the whole model
    leading: ClassVar[int]  # the mask decoder's own tokens before its mask tokens
    idle: ClassVar[tuple[str, ...]]  # parts of the mask decoder that no mask depends on

    def __init__(
        self, module: Any, mean: Statistics = MEAN, std: Statistics = STD, name: str = "", revision: str | None = None
    ):
        self.module = module.requires_grad_(False).eval()  # the transformers model
        watch_prompts(module.mask_decoder)
        self._single: nn.Module = module.mask_decoder  # as learned prompts use it; a family may switch things off
        self.mean, self.std, self.name, self.revision = mean, std, name, revision
        self._grids: dict[tuple[torch.device, torch.dtype, torch.dtype], Tensor] = {}
        encoder = module.prompt_encoder
        self.image_size: int = int(encoder.input_image_size)  # side of the canvas that the image encoder sees
        self.width: int = int(encoder.hidden_size)  # of a prompt token
        self.side: int = int(encoder.image_embedding_size[0])  # of the coarse embedding

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None, **loading: Any) -> MaskDecoder:
        """Load from a folder or a hub id; safetensors only. `loading` goes to transformers (`dtype`, ...).

        Raises ValueError when a tensor is missing, extra or of another shape, OSError when there is no such file."""
        loading = checked_options(loading)
        with without_bar() if Path(name).is_dir() else nullcontext():  # a download shows how far it is
            module = load_strict(cls.model, name, revision=revision, **loading)
        where = {"revision": revision, **{key: loading[key] for key in HUB if key in loading}}
        return cls(module, *_statistics(name, **where), str(name), revision)

    @property
    def device(self) -> torch.device:
        return self.module.device

    @property
    def mask_side(self) -> int:
        """Side of the canvas of mask logits."""
        return 4 * self.side

    @property
    @abstractmethod
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Channels, rows and columns of one image's maps: the coarse one first, then the finer ones as they come."""

    def signature(self) -> dict[str, Any]:
        """All that decides what `encode` gives: for the key of cached features. Plain JSON values."""
        return {
            "type": self.module.config.model_type,
            "name": self.name,
            "revision": self.revision,
            "dtype": str(self.module.dtype).removeprefix("torch."),
            "image_size": self.image_size,
            "width": self.width,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def encode(self, image: UInt8[np.ndarray, "h w 3"], frame: Frame) -> Embedding:
        """The image's embedding. Padding is zero after normalisation, as SAM was trained."""
        return self.encode_many([image], [frame])

    @torch.no_grad()
    def encode_many(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], frames: Sequence[Frame]) -> Embedding:
        """`encode` of several images in one pass; b is their number."""
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.mean, self.std))
        pixels = [
            (frame.render(torch.tensor(image), self.image_size, self.mean) - mean) / std
            for image, frame in zip(images, frames, strict=True)
        ]
        embedding = self._embed(torch.stack(pixels).to(self.device, self.module.dtype))
        # laid out as when they come from a file: the necks give channels last, where a kernel may round otherwise
        return Embedding(embedding.coarse.contiguous(), tuple(x.contiguous() for x in embedding.fine))

    @abstractmethod
    def _embed(self, pixels: Float[Tensor, "b 3 s s"]) -> Embedding:
        """The image encoder's maps of normalised pixels."""

    @abstractmethod
    def _finer(self, fine: list[Float[Tensor, "b _ _ _"]]) -> dict[str, Any]:
        """The finer maps, by the names under which the mask decoder takes them."""

    def positions(self, points: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n c"]:
        """The Fourier position of canvas points in [0, 1]: no label embedding, no half-pixel shift.

        In float32 also under autocast or with a model in half precision: there a point would move by pixels."""
        frequencies = self.module.prompt_encoder.shared_embedding.positional_embedding.float()
        with torch.autocast(points.device.type, enabled=False):
            phase = 2 * torch.pi * ((2 * points.float() - 1) @ frequencies)
            return torch.cat([phase.sin(), phase.cos()], -1)

    def trainable_decoder(self) -> nn.Module:
        """A fp32 copy of the mask decoder to be trained: all that the one mask depends on.

        Its IoU head is frozen as in LENS (authors' code), and so are the heads of the masks that are never asked for:
        they would get no gradient, yet weight decay would wear them down."""
        decoder: Any = copy.deepcopy(self._single).float().requires_grad_(True)
        for part in (*(getattr(decoder, name) for name in self.idle), decoder.output_hypernetworks_mlps[1:]):
            part.requires_grad_(False)
        return decoder

    def decode(
        self,
        embedding: Embedding,
        prompts: Float[Tensor, "b q n c"],
        keep: Bool[Tensor, "b q n"] | None = None,
        decoder: nn.Module | None = None,
    ) -> Float[Tensor, "b q s s"]:
        """Mask logits on the canvas for every prompt set; tokens where `keep` is false do not exist for the others.

        `decoder` replaces the model's own mask decoder (LENS trains a copy). Raises ValueError when the embedding is of
        another mask decoder."""
        return self._decode(self._single if decoder is None else decoder, embedding, prompts, keep)

    def _decode(
        self,
        decoder: Any,
        embedding: Embedding,
        prompts: Float[Tensor, "b q n c"],
        keep: Bool[Tensor, "b q n"] | None = None,
        dense: Float[Tensor, "b c e e"] | None = None,
    ) -> Float[Tensor, "b q s s"]:
        self._check(embedding)
        b, dtype = len(embedding.coarse), next(decoder.parameters()).dtype
        dense = self._no_mask() if dense is None else dense
        with hiding(keep, self.leading + int(decoder.num_mask_tokens)):
            masks, *_ = decoder(
                image_embeddings=embedding.coarse.to(dtype),
                dense_prompt_embeddings=dense.to(dtype).expand(b, -1, self.side, self.side),
                image_positional_embeddings=self._grid(dtype).expand(b, -1, -1, -1),
                sparse_prompt_embeddings=prompts.to(dtype),
                multimask_output=False,
                **self._finer([x.to(dtype) for x in embedding.fine]),
            )
        return masks[:, :, 0].float()

    def _no_mask(self) -> Float[Tensor, "1 c 1 1"]:
        return self.module.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)

    def _check(self, embedding: Embedding) -> None:
        shapes = tuple(tuple(x.shape[1:]) for x in (embedding.coarse, *embedding.fine))
        if shapes != self.shapes:
            actual, needed = (" + ".join("x".join(map(str, shape)) for shape in all_) for all_ in (shapes, self.shapes))
            raise ValueError(
                f"{type(self).__name__} got an embedding of {actual}, needs {needed}; "
                "encode the image with this decoder"
            )

    def _grid(self, dtype: torch.dtype) -> Float[Tensor, "1 c e e"]:
        """The positions of the embedding's cells: made once for every precision of the frozen model and of a decoder,
        and as a tensor that training may use, whatever the first call was."""
        key = (self.device, self.module.dtype, dtype)
        if key not in self._grids:
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                self._grids[key] = self.module.get_image_wide_positional_embeddings().to(dtype)
        return self._grids[key]

    @torch.no_grad()
    def prompt(
        self,
        embedding: Embedding,
        points: Float[Tensor, "b q n 2"] | None = None,
        labels: Int[Tensor, "b q n"] | None = None,
        boxes: Float[Tensor, "b q 4"] | None = None,
    ) -> Float[Tensor, "b q s s"]:
        """Mask logits from clicks (label 1 inside, 0 outside) or boxes (x0, y0, x1, y1), all in canvas units [0, 1]:
        what the transformers model itself gives for one mask."""
        return self._decode(self.module.mask_decoder, embedding, self._tokens(points, labels, boxes))

    @torch.no_grad()
    def answer(self, embedding: Embedding, prompts: Sequence[Prompt]) -> Float[Tensor, "q s s"]:
        """Mask logits for prompts of any mixture about one image, in one pass: `prompt` gives the same for each."""
        prompts = [p.to(self.device) for p in prompts]
        tokens = [
            self._tokens(
                p.points[None, None] if len(p.points) else None,
                p.labels[None, None] if len(p.points) else None,
                None if p.box is None else p.box[None, None],
            )[0, 0]
            for p in prompts
        ]
        keep = pad_sequence([t.new_ones(len(t), dtype=torch.bool) for t in tokens], batch_first=True)
        no_mask = self._no_mask().expand(1, -1, self.side, self.side)
        embed = self.module.prompt_encoder.mask_embed
        dense = [no_mask if p.mask is None else embed(p.mask[None, None].to(no_mask)) for p in prompts]
        # one row of the batch each: a dense prompt belongs to a row
        each = embedding.each(lambda x: x.expand(len(prompts), *x.shape[1:]))
        sparse = pad_sequence(tokens, batch_first=True)[:, None]
        return self._decode(self.module.mask_decoder, each, sparse, keep[:, None], torch.cat(dense))[:, 0]

    def _tokens(
        self,
        points: Float[Tensor, "b q n 2"] | None,
        labels: Int[Tensor, "b q n"] | None,
        boxes: Float[Tensor, "b q 4"] | None,
    ) -> Float[Tensor, "b q t c"]:
        scale = self.image_size
        # transformers adds the half pixel that SAM adds to integer clicks; ours are continuous
        return self.module.prompt_encoder(
            None if points is None else points * scale - 0.5,
            labels,
            None if boxes is None else boxes * scale - 0.5,
            None,
        )[0]


@contextmanager
def without_bar() -> Iterator[None]:
    """Loading shows one bar, the MLLM's."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def _statistics(name: str | Path, **where: Any) -> tuple[Statistics, Statistics]:
    """Mean and deviation of pixels, 0 to 255, read from the files alone: SAM 2's own processor needs torchvision."""
    if Path(name).is_dir() and not any((Path(name) / file).exists() for file in PROCESSORS):
        return MEAN, STD
    settings, _ = ImageProcessingMixin.get_image_processor_dict(str(name), **where)
    mean, std = (settings.get(key) for key in ("image_mean", "image_std"))
    return _scaled(mean) if mean else MEAN, _scaled(std) if std else STD


def _scaled(values: list[float]) -> Statistics:
    red, green, blue = (255.0 * v for v in values)
    return red, green, blue
