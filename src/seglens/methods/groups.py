"""Groups of parameters: the learning rate of each, and whether weight decay applies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

Decay = Literal["all", "weights"]
# in an adapter: the updates of the language model's layers, its word embedding and output layer, its last norm
LANGUAGE = ("adapter.language.", "adapter.words.", "adapter.norm.")


@dataclass(frozen=True)
class Group:
    """Parameters with the same learning rate and weight decay."""

    parameters: tuple[nn.Parameter, ...]
    lr: float
    weight_decay: float


def groups(method: nn.Module, lr: float, language_lr: float | None, weight_decay: float, decay: Decay) -> list[Group]:
    """All trained parameters. Those inside the language model have the rate `language_lr` (None is `lr`). With
    decay="weights" neither biases nor norms decay, as in the Trainer of transformers: LayerNorm and RMSNorm, not batch
    norm or group norm.

    Raises ValueError when there is a rate for the language model and nothing of it is trained."""
    by_rates = dict[tuple[float, float], list[nn.Parameter]]()
    exempt = _exempt(method) if decay == "weights" else set[int]()
    trained = [(name, parameter) for name, parameter in method.named_parameters() if parameter.requires_grad]
    if language_lr is not None and not any(name.startswith(LANGUAGE) for name, _ in trained):
        raise ValueError(
            f"training got language_lr={language_lr:g}, and this method trains nothing inside the language model; "
            "leave it out and give lr"
        )
    for name, parameter in trained:
        rate = lr if language_lr is None or not name.startswith(LANGUAGE) else language_lr
        by_rates.setdefault((rate, 0.0 if id(parameter) in exempt else weight_decay), []).append(parameter)
    return [Group(tuple(parameters), *key) for key, parameters in by_rates.items()]


def _exempt(method: nn.Module) -> set[int]:
    """The parameters, by id, that are biases or belong to a norm."""
    biases = (parameter for name, parameter in method.named_parameters() if "bias" in name.rpartition(".")[2])
    return {id(parameter) for parameters in (biases, _normed(method)) for parameter in parameters}


def _normed(method: nn.Module) -> Iterator[nn.Parameter]:
    for module in method.modules():
        if type(module).__name__.endswith(("LayerNorm", "RMSNorm")):
            yield from module.parameters(recurse=False)
