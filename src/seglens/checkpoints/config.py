"""What a head's `config.json` holds: all that is needed to rebuild the head, sealed against changes by hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

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
    presence_threshold: float = 0.5
    presence: Presence = "trained"  # untrained: no target of its data was absent, and its presence means nothing
    prompt: HeadPrompt | None = None  # how it is asked, wherever that is; None: queries as they stand
    trained: dict[str, Any] | None = None  # a note of how: data, steps, seed


def seal(entries: Mapping[str, Any], weights: str) -> dict[str, str]:
    """The checksum of the weights, and one of it with the entries that the weights depend on."""
    settled = [entries.get(key) for key in SETTLED] + [entries[key] for key in SETTLED_LATER if key in entries]
    sealed = json.dumps([weights, *settled], sort_keys=True)
    return {"weights": weights, "config": hashlib.sha256(sealed.encode()).hexdigest()}


def read_config(folder: str | Path) -> HeadConfig:
    """Raises CheckpointError when there is no checkpoint in `folder`, its config is not one of ours, or an entry that
    the weights depend on was changed."""
    raw = _read(Path(folder))
    del raw[SEAL]
    backbone, decoder = (None if part is None else Origin(**part) for part in map(raw.pop, ("backbone", "decoder")))
    assert backbone is not None
    prompt = None if (fields := raw.pop("prompt", None)) is None else HeadPrompt(**fields)
    canvas = Canvas(**raw.pop("canvas", {}))
    return HeadConfig(backbone=backbone, decoder=decoder, canvas=canvas, prompt=prompt, **raw)


def _read(folder: Path) -> dict[str, Any]:
    """The entries of a config that was checked."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {CONFIG}; {_instead(folder)}")
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON in UTF-8 ({error}); write the checkpoint again") from error
    if not isinstance(raw, dict) or (raw.pop("format", None), raw.pop("version", None)) != (FORMAT, VERSION):
        raise CheckpointError(
            f"{path} is not a {FORMAT} config of version {VERSION}; give the folder that `seglens train` wrote"
        )
    fault = _config_fault(raw)
    if fault:
        raise CheckpointError(f"{path} {fault}; write the checkpoint again, or install the version that wrote it")
    if raw[SEAL] != seal(raw, raw[SEAL]["weights"]):
        raise CheckpointError(
            f"{path} was changed after it was saved: the weights were trained for another {', '.join(SETTLED[:-1])} or "
            f"{SETTLED[-1]}; restore the file, or save the head again with seglens"
        )
    return raw


def _config_fault(raw: Mapping[str, Any]) -> str | None:
    """What is wrong with the entries of a config, if anything."""
    unknown = raw.keys() - {SEAL, *(field.name for field in fields(HeadConfig))}
    if unknown:
        return f"has unknown entries: {', '.join(sorted(unknown))}"
    kinds = {"method": str, "settings": dict, "backbone": dict, SEAL: dict}
    optional = {"layer": int, "decoder": dict, "image_size": int}
    for key, kind in (kinds | optional).items():
        value = raw.get(key)
        if isinstance(value, bool) or not isinstance(value, kind | None if key in optional else kind):
            return f"has {key}={json.dumps(value)[:60]}, needs a value of type {kind.__name__}" + (
                " or null" if key in optional else ""
            )
    for key in ("backbone", "decoder"):
        if raw[key] is None:
            continue
        name, revision = raw[key].get("name"), raw[key].get("revision")
        if raw[key].keys() - {"name", "revision"} or not (isinstance(name, str) and isinstance(revision, str | None)):
            return f"has {key}={json.dumps(raw[key])[:60]}, needs a name and a revision"
    if raw[SEAL].keys() != {"weights", "config"} or not all(isinstance(value, str) for value in raw[SEAL].values()):
        return f"has {SEAL}={json.dumps(raw[SEAL])[:60]}, needs the checksums of weights and config"
    try:
        Canvas(**raw.get("canvas", {}))
    except (TypeError, ValueError) as error:
        return f"has canvas={json.dumps(raw['canvas'])[:80]}, which is none ({error})"
    if (fault := _prompt_fault(raw.get("prompt"))) is not None:
        return fault
    presence = raw.get("presence", "trained")
    if presence not in get_args(Presence):
        return f"has presence={json.dumps(presence)[:60]}, needs {' or '.join(get_args(Presence))}"
    threshold = raw.get("presence_threshold", 0.5)
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        return f"has presence_threshold={json.dumps(threshold)[:60]}, needs a number from 0 to 1"
    return None


def _prompt_fault(prompt: Any) -> str | None:
    """What is wrong with the entry with the templates of queries, if anything."""
    kinds = {"short": str, "long": str, "lower": bool, "undotted": bool, "system": str | None}
    if prompt is None:
        return None
    wrong = f"has prompt={json.dumps(prompt)[:60]}, needs {', '.join(kinds)}"
    if not isinstance(prompt, dict) or prompt.keys() != kinds.keys():
        return wrong
    if any(not isinstance(prompt[key], kind) for key, kind in kinds.items()):
        return wrong
    try:
        HeadPrompt(**prompt)
    except ValueError as error:
        return f"has a prompt that asks nothing ({error})"
    return None


def weights_sum(folder: str | Path) -> str:
    """The SHA-256 of a head's weights, as its config was sealed with it. Raises as `read_config` does."""
    return str(_read(Path(folder))[SEAL]["weights"])


def _instead(folder: Path) -> str:
    """What to give in place of a folder without a config: a head of the training that it belongs to."""
    run = folder.parent if (folder.parent / RUN).is_file() else folder
    heads = sorted(path.parent for path in run.glob(f"*/{WEIGHTS}") if (path.parent / CONFIG).is_file())
    if heads:
        return f"give the head of that training: {' or '.join(str(head) for head in reversed(heads))}"
    if (run / RUN).is_file():
        return "it belongs to a training that has not ended: the same `seglens train` command goes on with it"
    return f"a head folder has {CONFIG} and {WEIGHTS}, as `seglens train` writes them"
