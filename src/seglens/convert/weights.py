"""Weights of any size, from folder to folder: no more of them is in memory than one file that is written."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePath

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from seglens.checkpoints.head import PICKLES, few
from seglens.checkpoints.origin import CheckpointError
from seglens.convert.configs import part, read_json
from seglens.core.files import write_json
from seglens.core.progress import progress

SHARD = 4 * 10**9  # bytes of a file, unless one tensor has more
FLOATS = ("F64", "F32", "F16", "BF16")
COUNTS = ("num_batches_tracked", "position_ids")  # tensors of whole numbers
PEFT = re.compile(r"(.+)\.lora_([AB])\.\w+\.weight")
REPACK = (  # a file at a time, each beside its own; a copy of every tensor, because no two may share memory in a file
    "import glob, torch, safetensors.torch as s; "
    "[s.save_file({k: v.clone() for k, v in torch.load(f, weights_only=True).items()}, f[:-LENGTH] + '.safetensors') "
    "for f in sorted(glob.glob('PATTERN'))]"
)


class Weights:
    """The tensors of a folder's safetensors files. Low-rank updates as peft writes them are added to what they update,
    `scale` times, and its names left out.

    Raises CheckpointError when there is no such file, one is damaged or missing, a tensor stands in two of them, or
    one is not of floats."""

    def __init__(self, folder: Path, scale: float):
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise CheckpointError(f"{folder} holds no .safetensors file{_pickled(folder)}")
        _check_index(folder)
        self.folder, self._scale = folder, scale
        headers = {path: _header(path) for path in files}
        twice = [key for key, count in Counter(chain.from_iterable(headers.values())).items() if count > 1]
        if twice:
            raise CheckpointError(f"{folder} holds {twice[0]} in more than one file; remove the files of another model")
        self._where = {key: path for path, header in headers.items() for key in header}
        self._shapes = {key: shape for header in headers.values() for key, shape in header.items()}
        self._plain = {_plain(key): key for key in self._where if not PEFT.fullmatch(key)}
        self._updates = self._paired()

    def _paired(self) -> dict[str, dict[str, str]]:
        """By the plain name of what is updated: the names of A and B."""
        pairs = dict[str, dict[str, str]]()
        for key in self._where:
            match = PEFT.fullmatch(key)
            if match:
                pairs.setdefault(_plain(f"{match[1]}.weight"), {})[match[2]] = key
        for name, pair in pairs.items():
            if pair.keys() != {"A", "B"} or name not in self._plain:
                raise CheckpointError(
                    f"{self.folder} holds a part of the low-rank update of {name} only; copy all of its files"
                )
        return pairs

    @property
    def names(self) -> list[str]:
        return sorted(self._plain)

    @property
    def updated(self) -> int:
        """How many tensors have a low-rank update."""
        return len(self._updates)

    def ranks(self) -> set[int]:
        return {self._shapes[pair["A"]][0] for pair in self._updates.values()}

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[self._plain[name]]

    def read(self, name: str) -> Tensor:
        """With its update, in its own type."""
        tensor = self._read(self._plain[name])
        pair = self._updates.get(name)
        if pair is None:
            return tensor
        update = self._read(pair["B"]).float() @ self._read(pair["A"]).float()
        return (tensor.float() + self._scale * update).to(tensor.dtype)

    def _read(self, key: str) -> Tensor:
        """Its file is mapped into memory for as long as the tensor is held."""
        path = self._where[key]
        try:
            with safe_open(path, "pt") as file:
                tensor: Tensor = file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise _damaged(path, str(error)) from error
        if tensor.is_floating_point() and not tensor.sum(dtype=torch.float64).isfinite():
            raise _damaged(path, f"{key} holds values that are no numbers")
        return tensor


@dataclass(frozen=True)
class Piece:
    """A tensor to be written: its shape, the tensor that it comes from, what is taken of that, and the files that hold
    it where they are not those of the checkpoint."""

    shape: tuple[int, ...]
    source: str
    take: Callable[[Tensor], Tensor] = lambda tensor: tensor
    files: Weights | None = None

    def made(self, weights: Weights) -> Tensor:
        return self.take((self.files or weights).read(self.source)).contiguous()


def write_model(folder: Path, pieces: Mapping[str, Piece], weights: Weights) -> None:
    """As a model's files are laid out on the hub: in shards, with an index where there are several."""
    shards, size = _shards(pieces), 0
    where = dict[str, str]()
    with progress("Converting", len(pieces)) as advance:
        for n, shard in enumerate(shards):
            file = "model.safetensors" if len(shards) == 1 else f"model-{n + 1:05}-of-{len(shards):05}.safetensors"
            size += _save({name: pieces[name].made(weights) for name in shard}, folder / file)
            where |= dict.fromkeys(shard, file)
            advance(len(shard))
    if len(shards) > 1:
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": where})


def _save(tensors: dict[str, Tensor], path: Path) -> int:
    """Gives the bytes of the tensors, which no variable holds later. Raises OSError, as for other files, when the file
    cannot be written."""
    try:
        save_file(tensors, path, {"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    return sum(tensor.nbytes for tensor in tensors.values())


def _shards(pieces: Mapping[str, Piece]) -> list[list[str]]:
    shards, used = [list[str]()], 0
    for name, piece in pieces.items():
        size = 4 * torch.Size(piece.shape).numel()  # bytes at most
        if shards[-1] and used + size > SHARD:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def refuse_misfit(
    pieces: Mapping[str, Piece], needed: Mapping[str, tuple[int, ...]], where: Path, note: str = ""
) -> None:
    """Raises CheckpointError that names what is missing, left over or of another shape, with a note on the names."""
    faults = [f"missing {name}" for name in sorted(needed.keys() - pieces.keys())]
    faults += [f"extra {pieces[name].source}" for name in sorted(pieces.keys() - needed.keys())]
    faults += [
        f"{pieces[name].source} makes {name} {pieces[name].shape}, needs {needed[name]}"
        for name in sorted(pieces.keys() & needed.keys())
        if pieces[name].shape != needed[name]
    ]
    if faults:
        raise CheckpointError(
            f"{where} does not fit: {few(faults)}; copy all of its files, or give another base model{note}"
        )


def _plain(key: str) -> str:
    """The name without what peft adds to it."""
    return key.replace(".base_model.model.", ".", 1).replace(".base_layer.", ".")


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a file. Raises CheckpointError when it is damaged, or one is not of floats."""
    shapes = dict[str, tuple[int, ...]]()
    try:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118  no dict
                tensor = file.get_slice(key)
                kind, shapes[key] = tensor.get_dtype(), tuple(tensor.get_shape())
                if kind not in FLOATS and key.rpartition(".")[2] not in COUNTS:
                    raise CheckpointError(
                        f"{path} holds {key} as {kind}, and only {', '.join(FLOATS)} are read; give the weights as "
                        "they were published, not packed"
                    )
    except (SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from error
    return shapes


def _damaged(path: Path, how: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged or cut short ({how}); copy it again")


def _check_index(folder: Path) -> None:
    """Raises CheckpointError when an index names files that are not in the folder."""
    for index in sorted(folder.glob("*.safetensors.index.json")):
        names = set(map(str, part(read_json(index), "weight_map", index).values()))
        outside = sorted(name for name in names if PurePath(name).name != name)
        if outside:
            raise CheckpointError(f"{index} names {outside[0]!r}, which is not a file beside it; copy it again")
        lacking = sorted(name for name in names if not (folder / name).is_file())
        if lacking:
            raise CheckpointError(
                f"{index} names {few(lacking)}, which {folder} does not hold; copy all files of the checkpoint"
            )


def _pickled(folder: Path) -> str:
    pickled = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLES)
    if not pickled:
        return "; give the folder of a model with its weights"
    return (
        f", only {pickled[0]}, and pickled weights are not read here because loading them can run code; "
        f"repack them in that folder, where nothing but tensors is unpacked: {repacking(pickled)}"
    )


def repacking(pickled: Sequence[str]) -> str:
    """The command that writes each of these files of pickled tensors once more, as safetensors."""
    weights = [name for name in pickled if name.startswith("pytorch_model")] or pickled  # not training_args.bin
    suffix = Path(weights[0]).suffix
    pattern = f"pytorch_model*{suffix}" if weights[0].startswith("pytorch_model") else f"*{suffix}"
    return f'python -c "{REPACK.replace("PATTERN", pattern).replace("LENGTH", str(len(suffix)))}"'
