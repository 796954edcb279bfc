"""A trained head on disk: a folder of `config.json` and `head.safetensors` that rebuilds itself, or refuses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from seglens.core.files import write_atomic, write_json
from seglens.core.geometry import LETTERBOX, Canvas
from seglens.core.text import shortened
from seglens.data.asking import Asking
from seglens.model_files.checksums import check_sums
from seglens.model_files.int8_weights import PackedError, pack, unpack

FORMAT, VERSION = "seglens-head", 1
EMBEDDED = "embedded"  # the default model that the package carries
EMBEDDED_HEADS = {
    "embedded": "lens",
    "embedded/mllmseg": "mllmseg",
    "embedded/self1e": "self1e",
    "embedded/lisa": "lisa",
}
EMBEDDED_PARTS = {  # its frozen parts, for heads of one's own
    "embedded/mllm": "mllm",
    "embedded/internvl": "internvl",
    "embedded/sam": "sam",
}
CONFIG, WEIGHTS = "config.json", "head.safetensors"
RUN = "train.json"  # what a training was started with, in its folder
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
FAULTS_SHOWN = 4
SEAL = "seal"  # the entry of the config that tells whether weights and settings are still those that were saved
INIT = "init"  # the entry of a note of training that names the head it started from
SETTLED_LATER = ("presence", "canvas", "prompt")  # which older heads do not have
SETTLED = ("method", "settings", "layer", "image_size")  # what the weights were trained for: not a person's to edit


Presence = Literal["trained", "untrained"]


class CheckpointError(ValueError):
    """A checkpoint that cannot be trusted: what is wrong with it, and what to do."""


class MisfitError(CheckpointError):
    """Weights of another shape than the head that should hold them; `faults` names each tensor."""

    def __init__(self, message: str, faults: Sequence[str]):
        super().__init__(message)
        self.faults = faults


def weights_folder() -> Path:
    """Where the package keeps its own models."""
    return (Path(str(files("seglens"))) / "weights").resolve()


def embedded_folder(name: str) -> Path:
    """Where the package keeps one of its own heads ("embedded") or of their parts ("embedded/mllm")."""
    return weights_folder() / (EMBEDDED_HEADS | EMBEDDED_PARTS)[name]


def intact_folder(name: str) -> Path:
    """As `embedded_folder`, with every byte as it was made. Raises SumsError that names a file which is not."""
    folder = embedded_folder(name)
    check_sums(folder)
    return folder


@dataclass(frozen=True)
class Origin:
    """Where a frozen part comes from: a hub id, a folder, a folder relative to the checkpoint ("../mllm"), or one of
    the package's own ("embedded/mllm", "embedded/sam"), the same on every machine."""

    name: str
    revision: str | None = None

    @classmethod
    def of(cls, name: str, revision: str | None = None) -> Origin:
        """The origin of what a user names: a folder becomes absolute, a hub id stays as it is."""
        if not Path(name).is_dir():
            return cls(name, revision)
        folder = Path(name).resolve()
        return cls(next((own for own in EMBEDDED_PARTS if folder == embedded_folder(own)), str(folder)), revision)

    def resolve(self, folder: Path = Path()) -> str:
        """The hub id, or the folder on this machine; relative names are looked for in `folder`.

        Raises CheckpointError when there is no such folder."""
        if self.name in EMBEDDED_PARTS:
            return str(intact_folder(self.name))
        if not self.name.startswith((".", "/")):
            return self.name
        path = (folder / self.name).resolve()  # an absolute name replaces the folder
        if not path.is_dir():
            raise CheckpointError(
                f"the frozen part {self.name!r} is needed, and there is no folder {path}; "
                f"bring it there, or correct its name (in {folder / CONFIG}, if that names it)"
            )
        if path.parent == weights_folder():  # as the package's own heads name their parts
            check_sums(path)
        return str(path)


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
    prompt: Asking | None = None  # how it is asked, wherever that is; None: queries as they stand
    trained: dict[str, Any] | None = None  # a note of how: data, steps, seed


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
    data, made = save(state, metadata={"format": "pt"}), asdict(config)
    write_atomic(folder / WEIGHTS, data)
    seal = _seal(made, hashlib.sha256(data).hexdigest())
    write_json(folder / CONFIG, {"format": FORMAT, "version": VERSION, **made, SEAL: seal})


def _seal(made: Mapping[str, Any], weights: str) -> dict[str, str]:
    settled = [made.get(key) for key in SETTLED] + [made[key] for key in SETTLED_LATER if key in made]
    sealed = json.dumps([weights, *settled], sort_keys=True)
    return {"weights": weights, "config": hashlib.sha256(sealed.encode()).hexdigest()}


def read_config(folder: str | Path) -> HeadConfig:
    """Raises CheckpointError when there is no checkpoint in `folder`, its config is not one of ours, or an entry that
    the weights depend on was changed."""
    raw = _read(Path(folder))
    del raw[SEAL]
    backbone, decoder = (None if given is None else Origin(**given) for given in map(raw.pop, ("backbone", "decoder")))
    assert backbone is not None
    prompt = raw.pop("prompt", None)
    asking = None if prompt is None else Asking(**prompt)
    canvas = Canvas(**raw.pop("canvas", {}))
    return HeadConfig(backbone=backbone, decoder=decoder, canvas=canvas, prompt=asking, **raw)


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
    if raw[SEAL] != _seal(raw, raw[SEAL]["weights"]):
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
    if raw[SEAL].keys() != {"weights", "config"} or not all(isinstance(sum, str) for sum in raw[SEAL].values()):
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


def _prompt_fault(said: Any) -> str | None:
    """What is wrong with an entry that says how a head is asked, if anything."""
    kinds = {"short": str, "long": str, "lower": bool, "undotted": bool, "system": str | None}
    if said is None:
        return None
    wrong = f"has prompt={json.dumps(said)[:60]}, needs {', '.join(kinds)}"
    if not isinstance(said, dict) or said.keys() != kinds.keys():
        return wrong
    if any(not isinstance(said[key], kind) for key, kind in kinds.items()):
        return wrong
    try:
        Asking(**said)
    except ValueError as error:
        return f"has a prompt that asks nothing ({error})"
    return None


def load_state(folder: str | Path, head: nn.Module, needless: Callable[[str], bool] = lambda name: False) -> None:
    """Load the weights into `head`, strictly; `needless` says which tensors of the file may stay unused. Raises
    CheckpointError naming every tensor that does not fit, or when a byte of them is not as it was saved."""
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{path} is needed and {_why_missing(path.parent)}; save the head again with seglens")
    try:
        state = {name: tensor for name, tensor in unpack(load_file(path)).items() if not needless(name)}
    except (SafetensorError, PackedError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or cut short ({error}); copy or save it again") from error
    _refuse_misfit(path, state, head.state_dict())  # first: it says more than a checksum can
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != _read(path.parent)[SEAL]["weights"]:
        raise CheckpointError(
            f"{path} was changed or damaged after it was saved: its SHA-256 is not that in {CONFIG}; "
            "copy or save it again"
        )
    head.load_state_dict(state)


def weights_sum(folder: str | Path) -> str:
    """The SHA-256 of a head's weights, as its config was sealed with it. Raises as `read_config` does."""
    return str(_read(Path(folder))[SEAL]["weights"])


def load_adapter(folder: str | Path, head: nn.Module) -> None:
    """Load the adapter of a saved head into another, whose own parts stay as they are. Raises as `load_state` does."""
    adapter = nn.Module()
    adapter.adapter = head.get_submodule("adapter")
    load_state(folder, adapter, needless=lambda name: not name.startswith("adapter."))


def _instead(folder: Path) -> str:
    """What somebody who named a folder without a config may have meant: a head of the training that it belongs to."""
    run = folder.parent if (folder.parent / RUN).is_file() else folder
    heads = sorted(path.parent for path in run.glob(f"*/{WEIGHTS}") if (path.parent / CONFIG).is_file())
    if heads:
        return f"give the head of that training: {' or '.join(str(head) for head in reversed(heads))}"
    if (run / RUN).is_file():
        return "it belongs to a training that has not ended: the same `seglens train` command goes on with it"
    return f"a head folder has {CONFIG} and {WEIGHTS}, as `seglens train` writes them"


def _why_missing(folder: Path) -> str:
    pickled = sorted(p.name for p in folder.glob("*") if p.suffix in PICKLES)
    if not pickled:
        return "it is missing"
    return f"the folder holds {pickled[0]}, and pickled weights are refused because loading them can run code"


def few(faults: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    return shortened(faults, FAULTS_SHOWN)


def _refuse_misfit(path: Path, found: Mapping[str, Tensor], needed: Mapping[str, Tensor]) -> None:
    faults = [f"missing {k}" for k in needed.keys() - found.keys()]
    faults += [f"extra {k}" for k in found.keys() - needed.keys()]
    faults += [
        f"{k} has shape {tuple(found[k].shape)}, needs {tuple(needed[k].shape)}"
        for k in found.keys() & needed.keys()
        if found[k].shape != needed[k].shape
    ]
    if faults:
        raise MisfitError(
            f"{path} does not fit its config: {few(sorted(faults))}; the head was trained with other settings or "
            "another backbone",
            sorted(faults),
        )
