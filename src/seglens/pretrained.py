"""Loading other people's weights: whole and as their config says, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from seglens.packed import PACKED, PLAIN, load_packed

FAULTS = {"missing_keys": "missing", "mismatched_keys": "of another shape", "unexpected_keys": "extra"}


def load_strict(
    made: Any, name: str | Path, *, needless: Callable[[str], bool] = lambda key: False, **loading: Any
) -> Any:
    """A model of the transformers class `made` (no Auto class) by its `from_pretrained`, to which `loading` goes. Reads
    safetensors only, and in a folder also packed ones (`seglens.packed`).

    `needless` says which tensors of the files may stay unused. Raises ValueError when a tensor is missing, extra or of
    another shape, or when a file is damaged, and OSError when there is no safetensors file."""
    source: str | Path | None = name
    folder = Path(name)
    try:
        with quiet("transformers"):  # it logs a table of what does not fit and goes on; we say it in one line and stop
            if (folder / PACKED).is_file():  # transformers takes a folder or a state dict, not both
                source = None
                loading = {"config": made.config_class.from_pretrained(folder), "state_dict": _state(folder), **loading}
            # mismatches are ignored here because only then are they reported by name
            model, report = made.from_pretrained(
                source, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **loading
            )
    except SafetensorError as error:
        raise ValueError(
            f"the weights in {name} cannot be read ({error}); a file is cut short or damaged: download or save it again"
        ) from error
    faults = {word: sorted(map(_key, report.get(key) or ())) for key, word in FAULTS.items()}
    faults["extra"] = [key for key in faults["extra"] if not needless(key)]
    if any(faults.values()):
        said = "; ".join(f"{word}: {_some(keys)}" for word, keys in faults.items() if keys)
        raise ValueError(f"the weights in {name} do not fit their config ({said}); download or save them again")
    if source is None:
        _as_from(model, folder)
    return model


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


def _some(keys: list[str], shown: int = 3) -> str:
    more = len(keys) - shown
    return ", ".join(keys[:shown]) + (f" and {more} more" if more > 0 else "")


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
