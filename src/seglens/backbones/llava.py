"""LLaVA-1.5 and everything built like it: CLIP or SigLIP, a projector, any decoder-only language model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from transformers import AutoConfig, AutoProcessor, LlavaForConditionalGeneration

from seglens.backbones.base import LONGEST_QUESTION, Backbone, OpenImage, QuestionError
from seglens.backbones.layers import DecoderLayers, clone_layers
from seglens.geometry import Frame
from seglens.pretrained import load_strict
from seglens.types import Readout

# LLaVA-1.5-7B is read at layer 14 of 32 (LENS section 4.1); other depths at the same share of their own
READ_SHARE = 14 / 32


class LlavaBackbone(Backbone):
    """Wraps a `LlavaForConditionalGeneration` and its processor; freezes the model."""

    def __init__(
        self, model: LlavaForConditionalGeneration, processor: Any, layer: int, depth: int,
        name: str = "", revision: str | None = None,
    ):  # fmt: skip
        self.model, self.processor = model.requires_grad_(False).eval(), processor
        self.name, self.revision, self.layer, self.depth = name, revision, layer, depth
        vision, text = model.config.vision_config, model.config.text_config
        side = vision.image_size // vision.patch_size
        self.grid, self.image_size = (side, side), vision.image_size
        self.width, self.feed_forward, self.heads = text.hidden_size, text.intermediate_size, text.num_attention_heads
        language = model.model.language_model
        self._below = DecoderLayers(language.layers[:layer], language.rotary_emb)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, layer: int | None = None, segmentation_only: bool = False,
        revision: str | None = None, **loading: Any,
    ) -> LlavaBackbone:  # fmt: skip
        """Load from a folder or a hub id; safetensors only, no remote code. `loading` goes to transformers
        (`dtype`, `device_map`, `attn_implementation`, `local_files_only`).

        `segmentation_only` leaves out every layer that segmenting never runs: the model can then not chat."""
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
        if loading.get("quantization_config") or getattr(config, "quantization_config", None):
            raise ValueError(
                f"{name} would be loaded with quantised weights, which a head cannot copy; load it without "
                "quantisation (support is planned)"
            )
        text, depth = config.text_config, config.text_config.num_hidden_layers
        layer = round(READ_SHARE * depth) if layer is None else layer
        if not 0 < layer <= depth - 2:
            raise ValueError(
                f"layer {layer} cannot be read: the model has {depth} layers and LENS copies two above it; "
                f"choose 1 to {depth - 2}"
            )
        if segmentation_only:
            text.num_hidden_layers = layer + 2
            if getattr(text, "layer_types", None) is not None:  # Qwen2 and later list the kind of every layer
                text.layer_types = text.layer_types[: layer + 2]

        def above(key: str) -> bool:
            found = re.search(r"language_model\.(?:model\.)?layers\.(\d+)\.", key)
            return segmentation_only and found is not None and layer + 2 <= int(found[1]) < depth

        model = load_strict(
            LlavaForConditionalGeneration.from_pretrained, name,
            config=config, revision=revision, needless=above, **loading,
        )  # fmt: skip
        processor = AutoProcessor.from_pretrained(name, revision=revision, backend="pil", trust_remote_code=False)
        return cls(model, processor, layer, depth, str(name), revision)

    @property
    def module(self) -> nn.Module:
        return self.model

    @property
    def can_chat(self) -> bool:
        return self.model.config.text_config.num_hidden_layers == self.depth

    @torch.no_grad()
    def open(self, image: UInt8[np.ndarray, "h w 3"]) -> OpenImage:
        frame = Frame(*image.shape[:2])
        features = self._image_features(image, frame)
        ids, _ = self._tokens("?")
        embedded = self.model.get_input_embeddings()(ids)
        first = int((ids[0] == self.model.config.image_token_id).nonzero()[0])
        embedded = torch.cat([embedded[:, :first], features.to(embedded.dtype)], 1)  # the image ends the prefix
        positions = torch.arange(ids.shape[1], device=self.device)[None]
        prefix, memory = self._below.prefix(embedded, positions)
        return OpenImage(frame, prefix, positions, memory)

    def _image_features(self, image: np.ndarray, frame: Frame) -> Float[Tensor, "1 i d"]:
        """Both encoders see one frame: padded to a square, here with the mean colour that CLIP's padding had."""
        images = self.processor.image_processor
        mean, std = (torch.tensor(v)[:, None, None] for v in (images.image_mean, images.image_std))
        pixels = frame.letterbox(torch.tensor(image), self.image_size, tuple(255 * m for m in images.image_mean))
        pixels = ((pixels / 255 - mean) / std)[None].to(self.device, self.model.dtype)
        config = self.model.config
        found = self.model.get_image_features(
            pixels, vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
        )  # fmt: skip
        return found.pooler_output[0][None]

    def _prompt(self, question: str) -> str:
        """The conversation in the model's own template, up to where the answer begins."""
        conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        return self.processor.apply_chat_template(conversation, add_generation_prompt=True)

    def _tokens(self, question: str) -> tuple[Tensor, list[int]]:
        """Token ids of the prefix (through the image) and of the rest (the question, up to the start of the answer)."""
        ids = self.processor.tokenizer(self._prompt(question)).input_ids
        image = self.model.config.image_token_id
        at = ids.index(image)
        prefix = [*ids[:at], *[image] * (self.grid[0] * self.grid[1])]
        return torch.tensor([prefix], device=self.device), ids[at + 1 :]

    @torch.no_grad()
    def read(self, image: OpenImage, questions: Sequence[str]) -> Readout:
        if not questions:
            raise QuestionError("got no question; ask at least one")
        asked = [self._question_tokens(question) for question in questions]
        longest = max(map(len, asked))
        pad = self.processor.tokenizer.pad_token_id or 0
        ids = torch.tensor([[*a, *[pad] * (longest - len(a))] for a in asked], device=self.device)
        mask = torch.tensor([[k < len(a) for k in range(longest)] for a in asked], device=self.device)[None]
        start = image.prefix.shape[1]
        positions = torch.arange(start, start + longest, device=self.device).expand(1, len(asked), -1)
        hidden = self._below.questions(self.model.get_input_embeddings()(ids)[None], positions, mask, image.memory)
        first = start - self.grid[0] * self.grid[1]
        return Readout(
            prefix=image.prefix, prefix_positions=image.positions, question=hidden, question_positions=positions,
            question_mask=mask, image_tokens=torch.arange(first, start, device=self.device), grid=self.grid,
        )  # fmt: skip

    def _question_tokens(self, question: str) -> list[int]:
        if not question.strip():
            raise QuestionError("got an empty question; say in words what to look for, such as 'the red cup'")
        try:
            question.encode()
        except UnicodeEncodeError as error:
            raise QuestionError(
                f"got a question that is not valid Unicode ({error.reason}); check its encoding"
            ) from None
        image, ids = self.processor.image_token, self._tokens(question)[1]
        # by text for the processor, by id for a tokenizer that spells it in other ways too
        if image in question or self.model.config.image_token_id in ids:
            raise QuestionError(
                f"got a question that contains {image!r}, which stands for the image itself; leave it out"
            )
        if len(ids) > LONGEST_QUESTION:
            raise QuestionError(f"got a question of {len(ids)} tokens; at most {LONGEST_QUESTION} are read; shorten it")
        return ids

    @torch.no_grad()
    def generate(self, image: UInt8[np.ndarray, "h w 3"], question: str, max_new_tokens: int = 128) -> str:
        if not self.can_chat:
            raise ValueError(
                "this backbone was loaded with segmentation_only=True, without the layers that talk; "
                "load it again without"
            )
        inputs = self.chat_inputs(image, question)
        said = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        return self.processor.decode(said[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    def chat_inputs(self, image: UInt8[np.ndarray, "h w 3"], question: str) -> dict[str, Tensor]:
        """What the model's own processor makes of an image and a question: the chat path adds nothing to it."""
        self._question_tokens(question)
        inputs = self.processor(images=image, text=self._prompt(question), return_tensors="pt")
        return dict(inputs.to(self.device, self.model.dtype))

    def clone_layers(self, count: int = 2) -> list[DecoderLayers]:
        language = self.model.model.language_model
        return clone_layers(language.layers[self.layer : self.layer + count], language.rotary_emb)
