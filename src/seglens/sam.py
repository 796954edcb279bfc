"""SAM through transformers: a frozen image encoder and prompt space, and mask decoders that may be trained."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from transformers import AutoImageProcessor, SamModel

from seglens.geometry import Frame
from seglens.pretrained import load_strict

# SAM's own pixel statistics (0 to 255), used when the checkpoint folder has no preprocessor_config.json
SAM_MEAN, SAM_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
OUTPUT_TOKENS = 1  # the IoU token; the mask tokens come on top
_HIDDEN: ContextVar[Tensor | None] = ContextVar("hidden prompt tokens", default=None)


class MaskDecoder:
    """A frozen SAM. `encode` runs once per image; `decode` answers any number of prompt sets on it in one pass."""

    def __init__(
        self, sam: SamModel, mean: tuple[float, float, float] = SAM_MEAN, std: tuple[float, float, float] = SAM_STD,
        name: str = "", revision: str | None = None,
    ):  # fmt: skip
        self.sam = sam.requires_grad_(False).eval()
        _watch_prompts(sam.mask_decoder)
        self.mean, self.std, self.name, self.revision = mean, std, name, revision
        self.image_size: int = sam.config.vision_config.image_size
        self.width: int = sam.config.prompt_encoder_config.hidden_size
        self.side: int = sam.config.prompt_encoder_config.image_embedding_size

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None, **loading: Any) -> MaskDecoder:
        """Load from a folder or a hub id such as `facebook/sam-vit-huge`; safetensors only.

        Raises ValueError when a tensor is missing, extra or of another shape, OSError when there is no such file."""
        sam = load_strict(SamModel.from_pretrained, name, revision=revision, **loading)
        mean, std = SAM_MEAN, SAM_STD
        if not Path(name).is_dir() or (Path(name) / "preprocessor_config.json").exists():
            images = AutoImageProcessor.from_pretrained(name, revision=revision, backend="pil")
            mean, std = (tuple(255.0 * v for v in values) for values in (images.image_mean, images.image_std))
        return cls(sam, mean, std, str(name), revision)

    @property
    def device(self) -> torch.device:
        return self.sam.device

    @torch.no_grad()
    def encode(self, image: UInt8[np.ndarray, "h w 3"], frame: Frame) -> Float[Tensor, "1 c e e"]:
        """The image's embedding. Padding is zero after normalisation, as SAM was trained."""
        pixels = frame.letterbox(torch.tensor(image), self.image_size, self.mean)
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.mean, self.std))
        pixels = ((pixels - mean) / std)[None].to(self.device, self.sam.dtype)
        return self.sam.get_image_embeddings(pixels)

    def positions(self, points: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n c"]:
        """SAM's Fourier position of canvas points in [0, 1]: no label embedding, no half-pixel shift.

        In float32 also under autocast or with SAM in half precision: there a point would move by pixels."""
        frequencies = self.sam.prompt_encoder.shared_embedding.positional_embedding.float()
        with torch.autocast(points.device.type, enabled=False):
            phase = 2 * torch.pi * ((2 * points.float() - 1) @ frequencies)
            return torch.cat([phase.sin(), phase.cos()], -1)

    def trainable_decoder(self) -> nn.Module:
        """A fp32 copy of the mask decoder to be trained, all but its IoU head (LENS, authors' code)."""
        decoder = copy.deepcopy(self.sam.mask_decoder).float().requires_grad_(True)
        decoder.iou_prediction_head.requires_grad_(False)
        return decoder

    def decode(
        self, embedding: Float[Tensor, "b c e e"], prompts: Float[Tensor, "b q n c"],
        keep: Bool[Tensor, "b q n"] | None = None, decoder: nn.Module | None = None,
    ) -> Float[Tensor, "b q s s"]:  # fmt: skip
        """Mask logits on the canvas for every prompt set; tokens where `keep` is false do not exist for the others.

        `decoder` replaces SAM's own mask decoder (LENS trains a copy)."""
        decoder = self.sam.mask_decoder if decoder is None else decoder
        outputs = OUTPUT_TOKENS + int(decoder.num_mask_tokens)  # type: ignore[arg-type]
        b, dtype = len(embedding), next(decoder.parameters()).dtype
        dense = self.sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(b, -1, self.side, self.side)
        with _hiding(keep, outputs):
            masks, _ = decoder(
                image_embeddings=embedding.to(dtype), dense_prompt_embeddings=dense.to(dtype),
                image_positional_embeddings=self._grid().to(dtype).expand(b, -1, -1, -1),
                sparse_prompt_embeddings=prompts.to(dtype), multimask_output=False,
            )  # fmt: skip
        return masks[:, :, 0].float()

    def _grid(self) -> Float[Tensor, "1 c e e"]:
        with torch.autocast(self.device.type, enabled=False):
            return self.sam.get_image_wide_positional_embeddings()

    @torch.no_grad()
    def prompt(
        self, embedding: Float[Tensor, "b c e e"], points: Float[Tensor, "b q n 2"] | None = None,
        labels: Int[Tensor, "b q n"] | None = None, boxes: Float[Tensor, "b q 4"] | None = None,
    ) -> Float[Tensor, "b q s s"]:  # fmt: skip
        """Mask logits from clicks (label 1 inside, 0 outside) or boxes (x0, y0, x1, y1), all in canvas units [0, 1]."""
        scale = self.image_size
        sparse, _ = self.sam.prompt_encoder(
            # transformers adds the half pixel that SAM adds to integer clicks; ours are continuous
            None if points is None else points * scale - 0.5, labels,
            None if boxes is None else boxes * scale - 0.5, None,
        )  # fmt: skip
        return self.decode(embedding, sparse)


def _watch_prompts(decoder: Any) -> None:
    """Let the two attentions that read tokens (tokens to tokens, image to tokens) take the mask of the current call.

    SAM has no padding: a void token would be attended to. With a mask, sets of different size run in one batch. The
    hooks are part of the decoder (copies carry them) and read a context variable, so that threads never mix."""
    for layer in decoder.transformer.layers:
        for reader in (layer.self_attn, layer.cross_attn_image_to_token):
            reader.register_forward_pre_hook(_hide_prompts, with_kwargs=True)


def _hide_prompts(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    hidden = _HIDDEN.get()
    if hidden is None:
        return None
    return args, {**kwargs, "attention_similarity": hidden.to(kwargs["query"].dtype)}


@contextmanager
def _hiding(keep: Bool[Tensor, "b q n"] | None, outputs: int) -> Iterator[None]:
    """While this lasts, prompt tokens where `keep` is false are hidden; `outputs` tokens of SAM's own stand before."""
    if keep is None or bool(keep.all()):
        yield
        return
    everyone = torch.cat([keep.new_ones(*keep.shape[:2], outputs), keep], -1)
    blocked = torch.zeros(everyone.shape, device=keep.device).masked_fill(~everyone, torch.finfo(torch.bfloat16).min)
    token = _HIDDEN.set(rearrange(blocked, "b q n -> (b q) 1 1 n"))
    try:
        yield
    finally:
        _HIDDEN.reset(token)
