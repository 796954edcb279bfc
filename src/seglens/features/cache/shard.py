"""A shard: one safetensors file in which all tensors of an image are together, with a checksum for each image.

The library that writes safetensors sorts tensors by type and name, which would spread an image over the file; the
format itself allows any order without gaps. Any safetensors reader opens these files."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seglens.features.cache.fingerprint import CacheError
from seglens.features.cache.whole_files import writing

ALIGN = 8  # bytes: a view of any type may start here
CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
TYPES = {code: dtype for dtype, code in CODES.items()}
LENGTH = struct.Struct("<Q")  # the first bytes of the format: how long the header is


class Span(NamedTuple):
    """Some bytes of a file, and their checksum."""

    begin: int
    end: int
    crc32: int


@dataclass(frozen=True)
class WrittenShard:
    """A file as it was written: its size, its hash, and the spans of the header and of each group."""

    size: int
    sha256: str
    header: Span
    groups: tuple[Span, ...]


def lay_out(groups: Sequence[Mapping[str, Tensor]]) -> tuple[bytes, list[list[Tensor]]]:
    """The header of a file, and each group's tensors in their order: wide types first, filled up to the alignment."""
    entries: dict[str, Any] = {}
    ordered, at = list[list[Tensor]](), 0
    for number, group in enumerate(groups):
        tensors = sorted(group.items(), key=lambda item: -item[1].itemsize)
        short = -sum(tensor.nbytes for _, tensor in tensors) % ALIGN
        tensors += [("fill", torch.zeros(short, dtype=torch.uint8))] if short else []
        for name, tensor in tensors:
            entries[f"{number}.{name}"] = {
                "dtype": CODES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [at, at + tensor.nbytes],
            }
            at += tensor.nbytes
        ordered.append([tensor for _, tensor in tensors])
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(LENGTH.size + len(text)) % ALIGN)
    return LENGTH.pack(len(text)) + text, ordered


def write_shard(path: Path, groups: Sequence[Mapping[str, Tensor]]) -> WrittenShard:
    """Write contiguous tensors of the CPU, group by group. Raises CacheError when the disk is full."""
    header, ordered = lay_out(groups)
    whole, spans = hashlib.sha256(header), [Span(0, len(header), zlib.crc32(header))]
    with writing(path) as file:
        file.write(header)
        for tensors in ordered:
            begin, check = spans[-1].end, 0
            for tensor in tensors:
                data = tensor.flatten().view(torch.uint8).numpy().data
                file.write(data)
                whole.update(data)
                check = zlib.crc32(data, check)
            spans.append(Span(begin, begin + sum(tensor.nbytes for tensor in tensors), check))
    return WrittenShard(spans[-1].end, whole.hexdigest(), spans[0], tuple(spans[1:]))


class ShardFile:
    """A shard mapped into memory, read only. A span is checked when it is first touched.

    Raises CacheError, here or at the first touch, when the file does not fit `length` and the spans; `called` names a
    group in an error, and `remedy` is what to do. Tensors are views of the map: they keep it alive, and writing into
    one ends the process."""

    def __init__(
        self, path: Path, length: int, header: Span, groups: Sequence[Span], called: Callable[[int], str], remedy: str
    ):
        self.path, self.groups, self.called, self.remedy = path, groups, called, remedy
        self._map, self._bytes = self._mapped(length)
        self.intact = bytearray(len(groups))  # which were checked
        self._verify(header, lambda: "its header")
        entries: dict[str, Any] = json.loads(self._map[LENGTH.size : header.end])
        self._entries: list[dict[str, Any]] = [{} for _ in groups]
        for key, entry in entries.items():
            group, _, name = key.partition(".")
            self._entries[int(group)][name] = entry
        self._start = header.end

    def tensors(self, group: int) -> dict[str, Tensor]:
        """All tensors of a group."""
        self.verify(group)
        return {name: self._view(entry) for name, entry in self._entries[group].items()}

    def verify(self, group: int) -> None:
        if not self.intact[group]:
            self._verify(self.groups[group], lambda: self.called(group))
            self.intact[group] = True

    def _mapped(self, length: int) -> tuple[mmap.mmap, Tensor]:
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            raise CacheError(f"{self.path} is missing; {self.remedy}") from None
        with file:
            actual = file.seek(0, 2)
            if actual != length:
                raise CacheError(f"{self.path} has {actual} bytes, not the {length} that were written; {self.remedy}")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the map is read only, which is what we want
            return mapped, torch.frombuffer(mapped, dtype=torch.uint8)

    def _verify(self, span: Span, called: Callable[[], str]) -> None:
        with memoryview(self._map) as data, data[span.begin : span.end] as part:
            intact = len(part) == span.end - span.begin and zlib.crc32(part) == span.crc32
        if not intact:
            raise CacheError(
                f"{self.path} is damaged in {called()} (bytes {span.begin} to {span.end}): the checksum does not fit; "
                f"{self.remedy}"
            )

    def _view(self, entry: Mapping[str, Any]) -> Tensor:
        begin, end = (self._start + at for at in entry["data_offsets"])
        dtype, shape = TYPES[entry["dtype"]], tuple(entry["shape"])
        if end - begin != math.prod(shape) * dtype.itemsize or end > len(self._bytes):
            raise CacheError(f"{self.path} has a header that does not fit its tensors; {self.remedy}")
        return self._bytes[begin:end].view(dtype).view(shape)
