"""Weights at rest in half of fp16's size: every matrix as int8 with one scale per row, all else as fp16.

A row is what one index of the first axis holds. Its scale is its largest absolute value / 127, kept as bfloat16: with
so few digits, 8-bit numbers times a scale are exact in fp32, and no value moves by more than half a scale."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float, Int8
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor

from seglens.core.files import write_atomic, write_new
from seglens.model_files.checksums import SUMS

FORMAT, VERSION = "seglens-int8", "1"
PLAIN, PACKED = "model.safetensors", "model.int8.safetensors"  # as transformers reads it, and as only we do
SCALE = ".scale"  # after a tensor's name: the name of its scales
LEAST = 16  # rows and columns of a matrix; in smaller ones the scales would eat up what is saved


class PackedError(ValueError):
    """Tensors that are not what was packed, or cannot be."""


def pack(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A matrix `x` becomes `x` in int8 and `x.scale`; other floating tensors become fp16, the rest stays as it is.

    Raises PackedError on a value that is not finite in fp16, and on names or types that could not be told apart."""
    packed = dict[str, Tensor]()
    for name, tensor in state.items():
        if tensor.dtype is torch.int8 or (name.endswith(SCALE) and name.removesuffix(SCALE) in state):
            raise PackedError(f"{name} cannot be packed: int8, and names that end in {SCALE}, mark what is packed")
        tensor = tensor.detach().cpu()
        if not tensor.is_floating_point():
            packed[name] = tensor.contiguous()
            continue
        half = tensor.half()
        if not half.isfinite().all():
            raise PackedError(f"{name} holds a value that is not finite in fp16; the training has gone wrong")
        if tensor.dim() > 1 and min(tensor.flatten(1).shape) >= LEAST:
            packed[name], packed[name + SCALE] = _rounded(tensor.float())
        else:
            packed[name] = half.contiguous()
    return packed


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `pack` took, floating tensors as fp32; tensors that were never packed stay what they are.

    Raises PackedError when the scales of a packed tensor are missing or do not fit."""
    state = dict[str, Tensor]()
    for name, tensor in packed.items():
        if tensor.dtype is torch.int8:
            scale = packed.get(name + SCALE)
            if scale is None or scale.shape != tensor.shape[:1]:
                raise PackedError(f"{name} is packed, and {name}{SCALE} does not hold a number for each of its rows")
            state[name] = tensor.float() * _along(scale.float(), tensor)
        elif packed.get(name.removesuffix(SCALE), tensor).dtype is not torch.int8:
            state[name] = tensor.float() if tensor.is_floating_point() else tensor
    return state


def _rounded(tensor: Float[Tensor, "r ..."]) -> tuple[Int8[Tensor, "r ..."], Float[Tensor, " r"]]:
    """Symmetric, to the nearest. A scale rounded down by 2^-9 of itself puts the largest value at 127.25, still 127."""
    scale = (tensor.flatten(1).abs().amax(1) / 127).bfloat16()
    steps = tensor / _along(scale.float().clamp_min(torch.finfo(torch.float32).tiny), tensor)  # a row may be all 0
    return steps.round().clamp(-127, 127).to(torch.int8).contiguous(), scale


def _along(scale: Float[Tensor, " r"], rows: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (rows.dim() - 1))


# ---------------------------------------------------------------- files


def save_packed(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write `state` packed, with a checksum of all values; whole or not at all."""
    tensors = pack(state)
    note = {"format": FORMAT, "version": VERSION, "sha256": _digest(save(tensors))}
    write_atomic(path, save(tensors, metadata=note))


def load_packed(path: Path) -> dict[str, Tensor]:
    """What `save_packed` wrote, as `unpack` gives it.

    Raises PackedError when it is no such file, is cut short, or a bit of its values has changed."""
    data = path.read_bytes()
    try:
        return unpack(_checked(data))
    except (SafetensorError, PackedError) as error:
        raise PackedError(
            f"the weights in {path} cannot be read ({error}); it is cut short or damaged: download or save it again"
        ) from error


def _checked(data: bytes) -> dict[str, Tensor]:
    tensors = load(data)
    note = json.loads(data[8 : _start(data)]).get("__metadata__", {})
    if (note.get("format"), note.get("version")) != (FORMAT, VERSION):
        raise PackedError(f"not in the format {FORMAT} of version {VERSION}")
    if note.get("sha256") != _digest(data):
        raise PackedError("the values do not have the SHA-256 with which they were saved")
    return tensors


def _start(data: bytes) -> int:
    """Where a safetensors file's values start: after eight bytes and the header of that length."""
    return 8 + int.from_bytes(data[:8], "little")


def _digest(data: bytes) -> str:
    return hashlib.sha256(memoryview(data)[_start(data) :]).hexdigest()


# ---------------------------------------------------------------- folders of models


def pack_folder(folder: Path) -> None:
    """Replace a transformers model's one file of weights by a packed one, which bare transformers does not take."""
    save_packed(folder / PACKED, load_file(folder / PLAIN))
    (folder / PLAIN).unlink()


def unpack_folder(folder: Path, out: Path) -> None:
    """Write a packed model to `out` as bare transformers reads it: in fp32, to the last bit what it is loaded as when
    it is packed, and the other files as they are.

    Raises PackedError as `load_packed` does, FileExistsError where other files are; then nothing is written."""
    weights = save(load_packed(folder / PACKED), metadata={"format": "pt"})
    others = {out / path.name: path.read_bytes() for path in folder.iterdir() if path.name not in (PACKED, SUMS)}
    write_new({**others, out / PLAIN: weights})
