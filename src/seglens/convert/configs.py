"""Other people's JSON files: what is wrong with one is an error that names it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from seglens.checkpoints.origin import CheckpointError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError when there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is needed; copy all files of the checkpoint") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON in UTF-8 ({error}); copy it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}, and an object is needed; copy it again")
    return content


def part(config: Mapping[str, Any], name: str, where: Path) -> Mapping[str, Any]:
    """The config of a part of a model; empty where there is none. Raises CheckpointError when it is no object."""
    value = config.get(name) or {}
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{where} has {name}={value!r:.80}, and an object is needed; copy it again")
    return value


@contextmanager
def faults_of(source: Path) -> Iterator[None]:
    """Raises CheckpointError, with the name of the folder, for whatever goes wrong while a model is described from the
    files in `source`: values of other types, or that make no model."""
    try:
        yield
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from error
    except (TypeError, KeyError, AttributeError, ArithmeticError, StrictDataclassError) as error:
        text = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{source}: its files describe no model ({type(error).__name__}: {text}); copy them as published"
        ) from error
