"""How a segmenter is loaded: the options beside those that its methods name, and the note of all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch

from seglens.checkpoints.hub import hub_commit
from seglens.core.names import check_name
from seglens.model_files.strict_loading import HUB, OLD_DTYPE


class LoadingOptions(TypedDict, total=False):
    """Options of `Segmenter.from_pretrained` and `from_parts` for the MLLM, by transformers' names for most."""

    device_map: str | dict[str, Any]  # a device for each part of the MLLM, or "auto"
    max_memory: dict[int | str, int | str]  # of each device, for device_map="auto"
    offload_folder: str | Path
    offload_buffers: bool
    quantization_config: Any  # packing of weights that `load_in` does not name
    attn_implementation: str
    variant: str  # of the files of weights
    as_is: bool  # chat shows pictures as they came, also to a processor that crops them
    torch_dtype: str | torch.dtype  # what transformers called `dtype` before version 5
    token: str | bool | None  # these three hold for all that is fetched from the hub
    cache_dir: str | Path
    local_files_only: bool


def check_options(names: Iterable[str], method: Callable[..., object]) -> None:
    """Raises ValueError on a name that is none of `LoadingOptions`; it lists all that `method` takes by keyword."""
    parameters = inspect.signature(method).parameters.values()
    known = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY] + [*LoadingOptions.__annotations__]
    for name in names:
        if name != OLD_DTYPE:
            check_name(name, [one for one in known if one != OLD_DTYPE], "option of loading a model")


def hub_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that say how to reach a file."""
    return {name: options[name] for name in HUB if name in options}


@dataclass(frozen=True)
class LoadedFrom:
    """What a segmenter was loaded from: folders by their absolute paths, a hub id with its commit. No token: a pickle
    is no place for a secret, and the hub's own login holds in every process."""

    names: tuple[str, ...]  # of a head, or of an MLLM and a mask decoder (`Segmenter.from_parts`)
    options: dict[str, Any]

    @classmethod
    def of(cls, name: str | Path, revision: str | None, *more: str | Path, **options: Any) -> LoadedFrom:
        commit = revision if Path(name).is_dir() else revision or hub_commit(str(name))
        options.pop("token", None)
        names = (str(Path(one).absolute() if Path(one).is_dir() else one) for one in (name, *more))
        return cls(tuple(names), {"revision": commit, **options})
