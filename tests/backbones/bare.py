"""The bare transformers model beside a backbone: its makers' class and processor, without a line of ours."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from seglens.core.geometry import Frame
from tiny import CROPPED, EVERY, TILED, Kind

LARGE = 100  # pixels along a side of a picture that is shown in as many crops as a square one can have


def error(value: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value expected."""
    assert value.shape == expected.shape
    return ((value.float() - expected.float()).abs().max() / expected.float().abs().max()).item()


def digest(module: nn.Module) -> str:
    state = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        state.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def shown(output: Any) -> Tensor | None:
    """The probabilities in the output of an attention; a convolution gives a tensor alone."""
    return output[1] if isinstance(output, tuple) else None


@dataclass(frozen=True)
class States:
    """What a forward pass showed: the input of every decoder layer, its attention (None where that is not shown, and
    of a convolution), and the rotary factors."""

    inputs: list[Tensor]
    attentions: list[Tensor | None]
    rotary: list[tuple[tuple[str, ...], tuple[Tensor, Tensor]]]  # with the type of layer, where that decides them


@dataclass(frozen=True)
class Bare:
    model: PreTrainedModel
    processor: Any
    kind: Kind

    @classmethod
    def load(cls, folder: Path, **how: Any) -> Bare:
        model_class = getattr(transformers, AutoConfig.from_pretrained(folder).architectures[0])
        kind = EVERY[folder.name]
        return cls(model_class.from_pretrained(folder, **how).eval(), kind.processor(), kind)

    @property
    def layers(self) -> nn.ModuleList:
        return self.model.get_decoder().layers

    def inputs(self, image: np.ndarray, question: str) -> dict[str, Tensor]:
        conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        text = self.processor.apply_chat_template(conversation, add_generation_prompt=True)
        # as `apply_chat_template(tokenize=True)` does
        special = not text.startswith(self.processor.tokenizer.bos_token or "<none>")
        return dict(self.processor(images=image, text=text, return_tensors="pt", add_special_tokens=special))

    @torch.no_grad()
    def talk(self, image: np.ndarray, question: str, tokens: int) -> tuple[str, Tensor]:
        """Its answer, and the logits of the question."""
        inputs = self.inputs(image, question)
        output = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        answer = self.processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        return answer, self.model(**inputs).logits

    def ids(self, question: str, cells: int) -> Tensor:
        """Of the whole conversation, with `cells` image tokens where a chat may have more or fewer; in tiles as many as
        the processor's own, of a picture that it need not scale."""
        if self.kind in [*TILED.values(), *CROPPED.values()]:
            side = self.kind.options.get("image_size", LARGE)
            return self.inputs(np.zeros((side, side, 3), np.uint8), question)["input_ids"]
        ids = self.inputs(np.zeros((8, 8, 3), np.uint8), question)["input_ids"][0]
        image = ids == self.model.config.image_token_id
        first, last = image.nonzero()[0], image.nonzero()[-1]
        assert image[first : last + 1].all()
        run = ids[first].expand(cells)
        return torch.cat([ids[:first], run, ids[last + 1 :]])[None]

    def canvas(self, image: np.ndarray, size: int) -> Tensor:
        """The image padded to a square with the processor's mean colour, and normalised."""
        mean, std = (255 * torch.tensor(getattr(self.processor.image_processor, f"image_{v}")) for v in ("mean", "std"))
        pixels = Frame(*image.shape[:2]).render(torch.tensor(image), size, tuple(mean.tolist()))
        return ((pixels - mean[:, None, None]) / std[:, None, None]).to(self.model.dtype)

    @staticmethod
    def _watched(layer: nn.Module) -> nn.Module:
        """The attention of a layer, or what stands in its place in LFM2."""
        parts = dict(layer.named_children())
        return parts["self_attn"] if "self_attn" in parts else parts["conv"]

    @torch.no_grad()
    def run(self, ids: Tensor, canvas: Tensor) -> States:
        inputs: list[Tensor] = []
        attentions: list[Tensor | None] = []
        rotary: list[tuple[tuple[str, ...], tuple[Tensor, Tensor]]] = []
        hooks = [
            *(layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for layer in self.layers),
            *(
                self._watched(layer).register_forward_hook(lambda *a: attentions.append(shown(a[2])))
                for layer in self.layers
            ),
            self.model.get_decoder().rotary_emb.register_forward_hook(
                lambda _, args, out: rotary.append((args[2:], out))
            ),
        ]
        self.model(**self.kind.canvas(self.model, self.processor, canvas, ids))
        for hook in hooks:
            hook.remove()
        return States(inputs, attentions, rotary)
