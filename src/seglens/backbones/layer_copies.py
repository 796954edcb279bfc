"""Copies of layers, also of those that were loaded in a special way: packed in few bits, or spread over devices."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

CHUNK = 1024  # unit vectors at a time


def shared_copy(module: nn.Module) -> Any:
    """A copy of the modules alone: it shares every weight, and the state of the library that packed it."""
    shared: list[Any] = [*module.parameters(), *module.buffers()]
    shared += [vars(part)["state"] for part in module.modules() if _is_packed(part) and "state" in vars(part)]
    return copy.deepcopy(module, {id(item): item for item in shared})  # what this memo holds is not copied


def plain_copy(layer: nn.Module) -> Any:
    """A deep copy whose weights are ordinary fp32 tensors, whatever library packed those of `layer`.

    Raises ValueError when the weights are not in memory, or packed in a layer that is no `nn.Linear`."""
    copied = copy.deepcopy(layer)
    if any("_hf_hook" in vars(module) for module in copied.modules()):  # accelerate moves tensors between devices
        from accelerate.hooks import remove_hook_from_module

        remove_hook_from_module(copied, recurse=True)
        _refuse_absent(copied)
    for name, module in list(copied.named_modules()):
        if _is_packed(module):
            copied.set_submodule(name, unpack(module))
    for name, parameter in copied.named_parameters():
        if parameter.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(
                f"the head cannot copy {name}, which holds {parameter.dtype}; "
                "quantise with bitsandbytes or torchao, or load without quantisation"
            )
    return copied.float()


def _refuse_absent(layer: nn.Module) -> None:
    if any(p.is_meta for p in layer.parameters()):
        raise ValueError(
            "a layer that the head copies was left on disk; give layers of the language model a device in device_map"
        )


def _is_packed(module: nn.Module) -> bool:
    """bitsandbytes has its own class of linear layers, torchao its own class of tensors in ordinary ones."""
    return isinstance(module, nn.Linear) and not (type(module) is nn.Linear and type(module.weight) is nn.Parameter)


@torch.no_grad()
def unpack(linear: Any) -> nn.Linear:
    """The same layer with a plain fp32 weight. Takes the bias away from the one given.

    The outputs of the layer for unit vectors are its weight. That is right for every library; their own functions are
    not: bitsandbytes repacks weights in place when first used on a CPU with AVX-512, and its `dequantize_4bit` then
    misreads them."""
    weight = linear.weight
    dtype = weight.dtype if weight.dtype.is_floating_point else torch.float32
    copied = nn.Linear(linear.in_features, linear.out_features, linear.bias is not None, weight.device, torch.float32)
    if linear.bias is not None:
        copied.bias.copy_(linear.bias)
        linear.bias = None
    for start in range(0, linear.in_features, CHUNK):
        stop = min(start + CHUNK, linear.in_features)
        units = torch.eye(linear.in_features, dtype=dtype, device=weight.device)[start:stop]
        copied.weight[:, start:stop] = linear(units).T
    return copied
