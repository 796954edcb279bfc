"""An adapter in a copy of an MLLM that shares every weight with it: low-rank updates, new tokens, copies of parts.

The MLLM itself is neither wrapped nor switched, so that it chats as before, even while the copy learns. Low-rank
updates (LoRA, arXiv 2106.09685) are those of peft, which is imported here alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from seglens.backbones.layer_copies import plain_copy, shared_copy
from seglens.backbones.mllm import MLLM
from seglens.core.tuning_types import Tuning
from seglens.model_files.strict_loading import quiet

LORA = "adapter"  # the one adapter's name inside peft
RENAMED = {  # the usual names of layers, and those in GLM-4 (one for two of them) and in LFM2
    "gate_proj": ("gate_up_proj", "w1"),
    "up_proj": ("gate_up_proj", "w3"),
    "down_proj": ("w2",),
    "o_proj": ("out_proj",),
}


class Adapter(nn.Module):
    """Exactly what is trained, by readable names. The parameters are those that the copy computes with: what is loaded
    here counts there, and `train` and `eval` switch its dropout."""

    def hold(self, name: str, part: nn.Parameter | nn.Module) -> None:
        *path, last = name.split(".")
        place: nn.Module = self
        for step in path:
            if step not in dict(place.named_children()):
                place.add_module(step, nn.Module())
            place = place.get_submodule(step)
        if isinstance(part, nn.Parameter):
            place.register_parameter(last, part)
        else:
            place.add_module(last, part)


class MoreWords(nn.Module):
    """A word embedding, and rows for new tokens after its last."""

    def __init__(self, base: Any, rows: nn.Parameter, dtype: torch.dtype):
        super().__init__()
        self.base, self.rows, self._dtype = base, rows, dtype

    @property
    def weight(self) -> Any:
        return self.base.weight

    def forward(self, ids: Int[Tensor, "*n"]) -> Float[Tensor, "*n d"]:
        start = self.weight.shape[0]
        new = ids >= start
        known = self.base(ids.masked_fill(new, 0)).to(self._dtype)
        rows = F.embedding((ids - start).clamp(min=0), self.rows)
        return torch.where(new[..., None], rows.to(known.dtype), known)


class MoreLogits(nn.Module):
    """An output layer, and rows for new tokens after its last."""

    def __init__(self, base: Any, rows: nn.Parameter, full: bool):
        super().__init__()
        self.base, self.rows, self._full = base, rows, full  # full: the base is a trained copy in fp32

    @property
    def weight(self) -> Any:
        return self.base.weight

    def forward(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n a"]:
        known = self.base(hidden.float() if self._full else hidden)
        return torch.cat([known, F.linear(hidden.float(), self.rows).to(known.dtype)], -1)


class InFull(nn.Module):
    """A part in fp32 among parts of lower precision."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    def forward(self, given: Tensor) -> Tensor:
        return self.part(given.float()).to(given.dtype)


def attach(mllm: MLLM, tuning: Tuning) -> tuple[MLLM, Adapter]:
    """The MLLM over a copy of its model, and the adapter in that copy.

    Raises ImportError without peft, and ValueError when `tuning` makes no sense or the model lacks what is tuned."""
    _check(tuning)
    tuned, adapter = mllm.over(shared_copy(mllm.model)), Adapter()
    if tuning.projector:
        _copy_projectors(tuned, adapter)
    if tuning.final_norm:
        _copy_final_norm(tuned, adapter)
    _extend_vocabulary(tuned.model, tuning, adapter, mllm.model.dtype)
    if tuning.rank or tuning.vision_rank:
        _inject(tuned, tuning, adapter)
    tuned.model.eval()
    adapter.eval().requires_grad_(True)
    return tuned, adapter


def _check(tuning: Tuning) -> None:
    """Before anything is copied, and by the names of our settings: peft and torch have others."""
    if not all(tuning.tokens) or not 0 < len({*tuning.tokens}) == len(tuning.tokens):
        raise ValueError(f"got the new tokens {list(tuning.tokens)}; give at least one, each with another name")
    for name, rank in {"rank": tuning.rank, "vision_rank": tuning.vision_rank}.items():
        if not (isinstance(rank, int) and rank >= 0):
            raise ValueError(f"got {name}={rank!r} for an adapter; it must be a whole number, 0 for none")
    if not 0 <= tuning.dropout <= 1:
        raise ValueError(f"got dropout={tuning.dropout!r} for an adapter; it must be a number from 0 to 1")


def _copy_projectors(tuned: MLLM, adapter: Adapter) -> None:
    for n, name in enumerate(tuned.family.projectors):
        part = plain_copy(tuned.model.get_submodule(name))
        adapter.hold(f"projector.{n}", part)
        tuned.model.set_submodule(name, InFull(part))


def _copy_final_norm(tuned: MLLM, adapter: Adapter) -> None:
    part = plain_copy(tuned.final_norm)
    adapter.hold("norm", part)
    tuned.language.set_submodule(tuned.family.final_norm, InFull(part))


@torch.no_grad()
def _extend_vocabulary(model: Any, tuning: Tuning, adapter: Adapter, dtype: torch.dtype) -> None:
    words, head = model.get_input_embeddings(), model.get_output_embeddings()
    if len(words.weight) != len(head.weight):
        raise ValueError(
            f"the model reads {len(words.weight)} words and writes {len(head.weight)}, so that no new token has one id "
            "for both; choose another model"
        )
    tied = head.weight is words.weight
    means = [part.weight.mean(0, dtype=torch.float32) for part in (words, head)]
    means[0] = means[0] * getattr(words, "scalar_embed_scale", 1.0)  # Gemma's embeddings are scaled after they are read
    rows = [nn.Parameter(mean.repeat(len(tuning.tokens), 1)) for mean in means]
    adapter.hold("words.new_input", rows[0])
    adapter.hold("words.new_output", rows[1])
    if tuning.vocabulary:
        words, head = plain_copy(words), plain_copy(head)
        adapter.hold("words.input", words.weight)
        if tied:
            head.weight = words.weight
        else:
            adapter.hold("words.output", head.weight)
        if head.bias is not None:
            adapter.hold("words.output_bias", head.bias)
    model.set_input_embeddings(MoreWords(words, rows[0], dtype))
    model.set_output_embeddings(MoreLogits(head, rows[1], tuning.vocabulary))


def _inject(tuned: MLLM, tuning: Tuning, adapter: Adapter) -> None:
    try:
        with quiet("bitsandbytes"):  # which peft imports where it is installed, and which misses a kernel on CPUs
            from peft import LoraConfig, inject_adapter_in_model
            from peft.tuners.lora import LoraLayer
    except ImportError as error:
        raise ImportError(f"tuning an MLLM needs peft ({error}); run: pip install 'seglens[tune]'") from error
    language, vision = _language_targets(tuned, tuning), _vision_targets(tuned, tuning)
    every = {**language, **vision}
    config = LoraConfig(
        r=tuning.rank or tuning.vision_rank,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        target_modules=list(every),
        rank_pattern=dict.fromkeys(vision, tuning.vision_rank),
        alpha_pattern=dict.fromkeys(vision, 2 * tuning.vision_rank),
    )
    inject_adapter_in_model(config, tuned.model, LORA)
    for name, key in every.items():
        layer = tuned.model.get_submodule(name)
        assert isinstance(layer, LoraLayer)
        adapter.hold(f"{key}.A", layer.lora_A[LORA].float().weight)  # peft gave them the type of the layer
        adapter.hold(f"{key}.B", layer.lora_B[LORA].float().weight)
        adapter.hold(f"{key}.dropout", layer.lora_dropout[LORA])


def _language_targets(tuned: MLLM, tuning: Tuning) -> dict[str, str]:
    if not tuning.rank:
        return {}
    layers = tuned.language.layers
    linear = _linear(tuned.model, {id(layer): f"language.{n}" for n, layer in enumerate(layers)})
    # experts are no linear layers; those beside them in GLM-4.5V, of a dense layer and shared experts, replace none
    places = Counter(key.split(".", 2)[2] for key in linear.values())
    parts = Counter(name for layer in layers for name, _ in layer.named_children())  # LFM2's have one of two
    linear = {
        name: key
        for name, key in linear.items()
        if places[place := key.split(".", 2)[2]] == parts[place.partition(".")[0]]
    }
    known = {name.rpartition(".")[2] for name in linear}
    wanted = {_known_name(name, known) for name in tuning.targets}
    targets = {name: key for name, key in linear.items() if name.rpartition(".")[2] in wanted}
    if unknown := sorted(wanted - known):
        raise ValueError(
            f"the language model has no layers {', '.join(unknown)} to adapt; it has {', '.join(sorted(known))}"
        )
    return targets


def _known_name(name: str, known: Collection[str]) -> str:
    """The name of a layer in this model."""
    names = (name, *RENAMED.get(name, ()))
    return next((one for one in names if one in known), name)


def _vision_targets(tuned: MLLM, tuning: Tuning) -> dict[str, str]:
    if not tuning.vision_rank:
        return {}
    return _linear(tuned.model, {id(layer): f"vision.{n}" for n, layer in enumerate(tuned.family.tower_layers)})


def _linear(model: Any, layers: Mapping[int, str]) -> dict[str, str]:
    """The names in the model of all linear layers in the modules of these ids, with readable names."""
    starts = {name: layers[id(module)] for name, module in model.named_modules() if id(module) in layers}
    targets = {}
    for start, key in starts.items():
        for name, part in model.get_submodule(start).named_modules():
            if isinstance(part, nn.Linear):
                targets[f"{start}.{name}"] = f"{key}.{name}"
    return targets
