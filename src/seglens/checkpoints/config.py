"""What a head's `config.json` holds: all that is needed to rebuild the head, sealed against changes by hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, TypeAdapter, ValidationError

from seglens.checkpoints.origin import CONFIG, CheckpointError, Origin
from seglens.core.geometry import LETTERBOX, Canvas
from seglens.data.head_prompt import HeadPrompt

FORMAT, VERSION = "seglens-head", 1
WEIGHTS = "head.safetensors"  # beside the config
RUN = "train.json"  # what a training was started with, in its folder
SEAL = "seal"  # the entry that tells whether weights and settings are still those that were saved
INIT = "init"  # the entry of a note of training that names the head it started from
SETTLED_LATER = ("presence", "canvas", "prompt")  # which older heads do not have
SETTLED = ("method", "settings", "layer", "image_size")  # what the weights were trained for: not a person's to edit

Presence = Literal["trained", "untrained"]
NEEDS = {  # what an entry must hold, where pydantic's own words would not name it
    "backbone": "a name and a revision",
    "decoder": "a name and a revision",
    "presence": " or ".join(get_args(Presence)),
    "presence_threshold": "a number from 0 to 1",
    "prompt": "short, long, lower, undotted, system",
    SEAL: "the checksums of weights and config",
}


@dataclass(frozen=True)
class HeadConfig:
    """All that is needed to rebuild a head: its method with its settings, and the parts it was trained on, which stay
    as they are."""

    method: str
    settings: dict[str, Any]
    backbone: Origin
    layer: int | None = None  # at which a frozen MLLM is read; None where the method reads it to its end
    decoder: Origin | None = None  # None where the method draws its masks itself
    image_size: int | None = None  # side of the canvas that the MLLM sees; None is its own choice
    canvas: Canvas = LETTERBOX  # how pictures come to it
    presence_threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    presence: Presence = "trained"  # untrained: no target of its data was absent, and its presence means nothing
    prompt: HeadPrompt | None = None  # how it is asked, wherever that is; None: queries as they stand
    trained: dict[str, Any] | None = None  # a note of how: data, steps, seed


@dataclass(frozen=True)
class Seal:
    """SHA-256 of the file of weights, and of that with the entries that the weights depend on."""

    weights: str
    config: str


@dataclass(frozen=True, kw_only=True)
class SealedConfig(HeadConfig):
    """The config as its file holds it."""

    seal: Seal


_FILE = TypeAdapter(SealedConfig)


def seal(entries: Mapping[str, Any], weights: str) -> dict[str, str]:
    """The checksum of the weights, and one of it with the entries that the weights depend on."""
    settled = [entries.get(key) for key in SETTLED] + [entries[key] for key in SETTLED_LATER if key in entries]
    sealed = json.dumps([weights, *settled], sort_keys=True)
    return {"weights": weights, "config": hashlib.sha256(sealed.encode()).hexdigest()}


def read_config(folder: str | Path) -> HeadConfig:
    """Raises CheckpointError when there is no checkpoint in `folder`, its config is not one of ours, or an entry that
    the weights depend on was changed."""
    sealed = _read(Path(folder))
    return HeadConfig(**{field.name: getattr(sealed, field.name) for field in fields(HeadConfig)})


def _read(folder: Path) -> SealedConfig:
    """A config that was checked."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {CONFIG}; {_instead(folder)}")
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON in UTF-8 ({error}); write the checkpoint again") from error
    if isinstance(raw, dict) and isinstance(raw.get("model_type"), str):  # as transformers names a model
        raise CheckpointError(
            f"{path} is the config of a {raw['model_type']!r} model, and a head is needed; name an MLLM with "
            "--backbone, together with --decoder for a SAM"
        )
    if not isinstance(raw, dict) or (raw.pop("format", None), raw.pop("version", None)) != (FORMAT, VERSION):
        raise CheckpointError(
            f"{path} is not a {FORMAT} config of version {VERSION}; give the folder that `seglens train` wrote"
        )
    try:
        config = _FILE.validate_json(json.dumps(raw), strict=True, extra="forbid")
    except ValidationError as error:
        fault = _config_fault(raw, error)
        raise CheckpointError(
            f"{path} {fault}; write the checkpoint again, or install the version that wrote it"
        ) from error
    if raw[SEAL] != seal(raw, config.seal.weights):
        raise CheckpointError(
            f"{path} was changed after it was saved: the weights were trained for another {', '.join(SETTLED[:-1])} or "
            f"{SETTLED[-1]}; restore the file, or save the head again with seglens"
        )
    return config


def _config_fault(raw: Mapping[str, Any], error: ValidationError) -> str:
    """What is wrong with the entries of a config: all that are unknown, or the first with another value."""
    unknown = raw.keys() - {field.name for field in fields(SealedConfig)}
    if unknown:
        return f"has unknown entries: {', '.join(sorted(unknown))}"
    first = error.errors()[0]
    key = str(first["loc"][0])
    if key == "prompt" and first["type"] == "value_error":
        return f"has a prompt that asks nothing ({first['ctx']['error']})"
    needs = f"needs {NEEDS[key]}" if key in NEEDS else first["msg"].lower()
    return f"has {key}={json.dumps(raw.get(key))[:80]}, {needs}"


def weights_sum(folder: str | Path) -> str:
    """The SHA-256 of a head's weights, as its config was sealed with it. Raises as `read_config` does."""
    return _read(Path(folder)).seal.weights


def _instead(folder: Path) -> str:
    """What to give in place of a folder without a config: a head of the training that it belongs to."""
    run = folder.parent if (folder.parent / RUN).is_file() else folder
    heads = sorted(path.parent for path in run.glob(f"*/{WEIGHTS}") if (path.parent / CONFIG).is_file())
    if heads:
        return f"give the head of that training: {' or '.join(str(head) for head in reversed(heads))}"
    if (run / RUN).is_file():
        return "it belongs to a training that has not ended: the same `seglens train` command goes on with it"
    return f"a head folder has {CONFIG} and {WEIGHTS}, as `seglens train` writes them"
