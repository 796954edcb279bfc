"""A trained head on disk: a folder of `config.json` and `head.safetensors` that rebuilds itself, or refuses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from seglens.checkpoints.config import FORMAT, SEAL, VERSION, WEIGHTS, HeadConfig, seal, weights_sum
from seglens.checkpoints.origin import CONFIG, CheckpointError
from seglens.core.files import write_atomic, write_json
from seglens.core.text import shortened
from seglens.model_files.int8_weights import PackedError, pack, unpack

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
FAULTS_SHOWN = 4


class MisfitError(CheckpointError):
    """Weights of another shape than the head that should hold them; `faults` names each tensor."""

    def __init__(self, message: str, faults: Sequence[str]):
        super().__init__(message)
        self.faults = faults


def save_head(
    folder: str | Path, config: HeadConfig, state: Mapping[str, Tensor], dtype: torch.dtype = torch.float32
) -> None:
    """Write the checkpoint from a head's state dict; each file is whole or absent, the config last. With int8 for
    `dtype` the weights are packed (`seglens.model_files.int8_weights`).

    The config holds a seal: `weights`, the SHA-256 of the file of weights, and `config`, one of that and of `SETTLED`.
    """
    folder = Path(folder)
    if dtype is torch.int8:
        state = pack(state)
    else:
        state = {k: v.detach().to("cpu", dtype).contiguous() for k, v in state.items()}
    data, entries = save(state, metadata={"format": "pt"}), asdict(config)
    write_atomic(folder / WEIGHTS, data)
    sums = seal(entries, hashlib.sha256(data).hexdigest())
    write_json(folder / CONFIG, {"format": FORMAT, "version": VERSION, **entries, SEAL: sums})


def load_state(folder: str | Path, head: nn.Module, needless: Callable[[str], bool] = lambda name: False) -> None:
    """Load the weights into `head`, strictly; `needless` is true for tensors of the file that may stay unused. Raises
    CheckpointError naming every tensor that does not fit, or when a byte of them is not as it was saved."""
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{path} is needed and {_why_missing(path.parent)}; save the head again with seglens")
    try:
        state = {name: tensor for name, tensor in unpack(load_file(path)).items() if not needless(name)}
    except (SafetensorError, PackedError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or cut short ({error}); copy or save it again") from error
    _refuse_misfit(path, state, head.state_dict())  # first: it names more than a checksum can
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != weights_sum(path.parent):
        raise CheckpointError(
            f"{path} was changed or damaged after it was saved: its SHA-256 is not that in {CONFIG}; "
            "copy or save it again"
        )
    head.load_state_dict(state)


def load_adapter(folder: str | Path, head: nn.Module) -> None:
    """Load the adapter of a saved head into another, whose own parts stay as they are. Raises as `load_state` does."""
    adapter = nn.Module()
    adapter.adapter = head.get_submodule("adapter")
    load_state(folder, adapter, needless=lambda name: not name.startswith("adapter."))


def _why_missing(folder: Path) -> str:
    pickled = sorted(p.name for p in folder.glob("*") if p.suffix in PICKLES)
    if not pickled:
        return "it is missing"
    return f"the folder holds {pickled[0]}, and pickled weights are refused because loading them can run code"


def few(faults: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    return shortened(faults, FAULTS_SHOWN)


def _refuse_misfit(path: Path, state: Mapping[str, Tensor], needed: Mapping[str, Tensor]) -> None:
    faults = [f"missing {k}" for k in needed.keys() - state.keys()]
    faults += [f"extra {k}" for k in state.keys() - needed.keys()]
    faults += [
        f"{k} has shape {tuple(state[k].shape)}, needs {tuple(needed[k].shape)}"
        for k in state.keys() & needed.keys()
        if state[k].shape != needed[k].shape
    ]
    if faults:
        raise MisfitError(
            f"{path} does not fit its config: {few(sorted(faults))}; the head was trained with other settings or "
            "another backbone",
            sorted(faults),
        )
