"""Loading other people's weights: whole and as their config says, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from seglens.core.available_memory import check_room, weight_bytes
from seglens.core.names import check_name
from seglens.core.text import shortened
from seglens.model_files.int8_weights import PACKED, PLAIN, load_packed

HUB = ("token", "cache_dir", "local_files_only")  # options of how to reach a file, not of what to do with it
# The options of loading, each of which has an effect: transformers accepts some names and drops them.
OPTIONS = (
    "dtype",
    "device_map",
    "max_memory",
    "offload_folder",
    "offload_buffers",
    "quantization_config",
    "attn_implementation",
    "variant",
    *HUB,
)
OLD_DTYPE = "torch_dtype"  # as transformers called `dtype` before version 5
ADAPTER, INDEX = "adapter_config.json", "model.safetensors.index.json"
FAULTS = {"missing_keys": "missing", "mismatched_keys": "of another shape", "unexpected_keys": "extra"}
KEYS_SHOWN = 3  # of each kind of fault


def checked_options(loading: Mapping[str, Any]) -> dict[str, Any]:
    """Options of loading by the names that are used here. Raises ValueError on one that would have no effect."""
    options = dict(loading)
    if OLD_DTYPE in options:
        options["dtype"] = one_dtype(options.get("dtype"), options.pop(OLD_DTYPE))
    for key in options:
        check_name(key, OPTIONS, "option of loading a model")
    return options


def one_dtype(dtype: Any, old: Any) -> Any:
    """The precision that was asked for under its new name or its old one. Raises ValueError when they differ."""
    if None not in (dtype, old) and str(dtype).removeprefix("torch.") != str(old).removeprefix("torch."):
        raise ValueError(f"got dtype={dtype} and {OLD_DTYPE}={old}, two names of one option; give dtype alone")
    return old if dtype is None else dtype


def refuse_adapter(name: str | Path) -> None:
    """Raises ValueError on a folder with an adapter of peft's in it: transformers would lay it over the weights where
    peft is installed, and leave it where it is not."""
    folder = Path(name)
    if not (folder / ADAPTER).is_file():
        return
    merged = "load the model, merge the adapter (peft's merge_and_unload) and save the whole to a folder of its own"
    if not any(folder.glob("*.safetensors.index.json")) and not any(
        (folder / file).is_file() for file in (PLAIN, PACKED)
    ):
        raise ValueError(f"{folder} holds an adapter ({ADAPTER}) and no model; {merged}")
    raise ValueError(
        f"{folder} holds an adapter ({ADAPTER}) beside weights, and nothing shows whether it is merged into them; if "
        f"it is, move its two files elsewhere, and if not, {merged}"
    )


def load_strict(
    model_class: Any, name: str | Path, *, needless: Callable[[str], bool] = lambda key: False, **loading: Any
) -> Any:
    """A model of the transformers class `model_class` (no Auto class) by its `from_pretrained`, to which `loading`
    goes. Reads safetensors only, and in a folder also packed ones (`seglens.model_files.int8_weights`).

    `needless` is true for tensors of the files that may stay unused. Raises ValueError when a tensor is missing, extra
    or of another shape, or when a file is damaged, OSError when there is no safetensors file, and MemoryError when
    there is no room for its weights."""
    source: str | Path | None = name
    folder = Path(name)
    refuse_adapter(folder)
    if (folder / PLAIN).is_file() and (folder / INDEX).is_file():
        raise ValueError(f"{folder} holds both {PLAIN} and {INDEX} with its parts; remove what is not meant")
    _check_room(folder, needless, loading)
    try:
        with quiet("transformers"):  # it logs a table of what does not fit and goes on; here that is one error
            if (folder / PACKED).is_file():  # transformers takes a folder or a state dict, not both
                source = None
                loading = {
                    "config": model_class.config_class.from_pretrained(folder),
                    "state_dict": _state(folder),
                    **loading,
                }
            # mismatches are ignored here because only then are they reported by name
            model, report = model_class.from_pretrained(
                source, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **loading
            )
    except SafetensorError as error:
        raise ValueError(
            f"the weights in {name} cannot be read ({error}); a file is cut short or damaged: download or save it again"
        ) from error
    if not folder.is_dir():
        _refuse_adapter_of_hub(str(name), loading)
    faults = {word: sorted(map(_key, report.get(key) or ())) for key, word in FAULTS.items()}
    faults["extra"] = [key for key in faults["extra"] if not needless(key)]
    if any(faults.values()):
        misfits = "; ".join(f"{word}: {shortened(keys, KEYS_SHOWN, ', ')}" for word, keys in faults.items() if keys)
        raise ValueError(f"the weights in {name} do not fit their config ({misfits}); download or save them again")
    if source is None:
        _as_from(model, folder)
    return model


def _check_room(folder: Path, needless: Callable[[str], bool], loading: Mapping[str, Any]) -> None:
    """Raises MemoryError when the weights in a folder cannot fit. What goes to a device of its own, or is packed into
    few bits, passes through in parts."""
    what = f"the weights in {folder}"
    if any(loading.get(key) is not None for key in ("device_map", "quantization_config", "variant")):
        return check_room(0, what)
    if (folder / PACKED).is_file():
        return check_room(4 * (folder / PACKED).stat().st_size, what)  # int8 becomes fp32
    parts = sorted(folder.glob("model-*.safetensors")) if (folder / INDEX).is_file() else []
    files = [folder / PLAIN] if (folder / PLAIN).is_file() else parts
    dtype = loading.get("dtype")
    needed, resident = weight_bytes(files, needless, dtype if isinstance(dtype, torch.dtype) else None)
    check_room(needed, what, resident)


def _refuse_adapter_of_hub(name: str, loading: Mapping[str, Any]) -> None:
    """As `refuse_adapter`, of what was fetched a moment ago."""
    from huggingface_hub import try_to_load_from_cache

    where = {key: loading[key] for key in ("cache_dir", "revision") if loading.get(key) is not None}
    if isinstance(try_to_load_from_cache(name, ADAPTER, **where), str):
        raise ValueError(
            f"{name} holds an adapter ({ADAPTER}) beside weights, and nothing shows whether it is merged into them; "
            "ask its owner for a model without, or fetch it into a folder and remove what is not meant"
        )


def _state(folder: Path) -> dict[str, Tensor]:
    """The weights of a packed folder."""
    if (folder / PLAIN).exists():
        raise ValueError(f"{folder} holds both {PACKED} and {PLAIN}; remove the one that is not meant")
    return load_packed(folder / PACKED)


def _as_from(model: Any, folder: Path) -> None:
    """What transformers takes from a folder beside weights and config, and not from a state dict."""
    model.name_or_path = model.config.name_or_path = str(folder)
    if model.can_generate() and (folder / "generation_config.json").is_file():
        model.generation_config = model.generation_config.from_pretrained(folder)


def _key(fault: Any) -> str:
    return fault if isinstance(fault, str) else str(fault[0])  # a mismatch comes with its two shapes


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Keep a library's warnings off the terminal."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def reaching(name: str | Path) -> Iterator[None]:
    """Around the first request for the files of a model: raises OSError in one line, where transformers has several,
    when there is no such folder and the hub does not answer, or has no such model."""
    try:
        yield
    except OSError as error:
        if Path(name).exists() or error.errno is not None:  # of a file here, such as a full disk
            raise
        first = str(error).strip().splitlines()[0].rstrip(".")
        raise OSError(
            f"{name} is no folder here, and could not be fetched from the hub ({first}); check the name and the "
            "network, or give a folder"
        ) from error
