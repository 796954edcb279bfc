"""Heads that the authors of a method published on a model hub, used by their hub id.

The first use fetches the checkpoint, converts it and keeps the result in the cache folder, under the commit that the id
means; later uses read what is kept, also without network. `PUBLISHED` names the checkpoints and the base model of each,
of which only config, tokenizer and processor are fetched."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from seglens.checkpoints.head import PICKLES
from seglens.checkpoints.hub import DESCRIBING, fetch, hub_errors, hub_folder, resolve_folder
from seglens.checkpoints.origin import CheckpointError
from seglens.convert.internvl import read_json
from seglens.convert.lisa import convert_lisa
from seglens.convert.mllmseg import convert_mllmseg
from seglens.convert.plain import in_own_form
from seglens.convert.self1e import convert_self1e
from seglens.convert.weights import repacking
from seglens.core.files import file_digest, stamp, whole_folder, write_json

CACHE = "SEGLENS_CACHE"  # the variable that names another cache folder
HEAD, RECORD = "head", "converted.json"
FORM = 1  # of what is kept: a change of the converters that changes their result counts it up
WEIGHTS = "*.safetensors"


@dataclass(frozen=True)
class Published:
    """A published checkpoint: what converts it (checkpoint, head folder to make, base model, and `parts` by name), and
    its base model by the width of its language model.

    A base is in transformers' own form (`-hf`), or an InternVL with a Qwen language model as OpenGVLab publishes it.
    `parts` are other models that it needs, with the files that are needed of them."""

    convert: Callable[..., Any]
    bases: Mapping[int, str]
    parts: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)


_LISA = Published(
    convert_lisa,
    {4096: "llava-hf/llava-1.5-7b-hf", 5120: "llava-hf/llava-1.5-13b-hf"},
    {
        "tower": ("openai/clip-vit-large-patch14", (*DESCRIBING, "model.safetensors")),
        "decoder": ("facebook/sam-vit-huge", tuple(DESCRIBING)),
    },
)
_REFUSING = partial(convert_mllmseg, refuses=True)
PUBLISHED = {
    # https://github.com/jcwang0602/MLLMSeg, section Checkpoints; language models by the cards of OpenGVLab/InternVL2_5
    "jcwang0602/MLLMSeg_InternVL2_5_1B_RES": Published(convert_mllmseg, {896: "OpenGVLab/InternVL2_5-1B"}),
    "jcwang0602/MLLMSeg_InternVL2_5_2B_RES": Published(convert_mllmseg, {2048: "OpenGVLab/InternVL2_5-2B-MPO-hf"}),
    "jcwang0602/MLLMSeg_InternVL2_5_4B_RES": Published(convert_mllmseg, {2048: "OpenGVLab/InternVL2_5-4B"}),
    "jcwang0602/MLLMSeg_InternVL2_5_8B_RES": Published(convert_mllmseg, {4096: "OpenGVLab/InternVL2_5-8B-MPO-hf"}),
    "jcwang0602/MLLMSeg_InternVL2_5_8B_GRES": Published(_REFUSING, {4096: "OpenGVLab/InternVL2_5-8B-MPO-hf"}),
    # https://github.com/dvlab-research/LISA, section Inference; each is pickled on the hub, and has to be repacked
    "xinlai/LISA-7B-v1": _LISA,
    "xinlai/LISA-7B-v1-explanatory": _LISA,
    "xinlai/LISA-13B-llama2-v1": _LISA,
    "xinlai/LISA-13B-llama2-v1-explanatory": _LISA,
    # https://github.com/ANDYZAQ/SELF1E links to it; what it holds, in one folder or several, could not be looked into
    "UltraDoughnut/SELF1E": Published(
        convert_self1e, {1536: "OpenGVLab/InternVL3-2B-hf", 3584: "OpenGVLab/InternVL3-8B-hf"}
    ),
}


def head_folder(name: str | Path, revision: str | None = None, **where: Any) -> Path:
    """The folder of a head, as `resolve_folder` finds it; a checkpoint of `PUBLISHED` is fetched and converted first,
    if its commit is not yet kept. One that lies in a folder of its repository is named "org/name/folder". `where`
    (`token`, `cache_dir`, `local_files_only`) goes to all that is fetched.

    Raises CheckpointError when it cannot be fetched, its weights are pickled, they do not fit their base model, or what
    is kept was changed; OSError when there is no room for it."""
    repository, _, inside = _parts(str(name))
    if repository not in PUBLISHED or Path(name).is_dir():
        return resolve_folder(name, revision, **where)
    snapshot = fetch(repository, DESCRIBING, revision, **where)
    kept = cache_folder() / "heads" / str(name).replace("/", "--") / f"{snapshot.name}-{FORM}"
    if not kept.is_dir():
        _convert(Checkpoint(repository, snapshot, inside), kept, where)
    _check(kept)
    return kept / HEAD


def _parts(name: str) -> tuple[str, str, str]:
    organization, _, rest = name.partition("/")
    model, slash, inside = rest.partition("/")
    return f"{organization}/{model}", slash, inside


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint as it was fetched, without its weights: its repository, the snapshot of a commit, and the
    folder inside in which it lies ("" for the snapshot itself)."""

    repository: str
    snapshot: Path
    inside: str

    @property
    def name(self) -> str:
        return f"{self.repository}/{self.inside}".rstrip("/")

    @property
    def commit(self) -> str:
        return self.snapshot.name

    def base(self) -> str:
        """The hub id of its base model. Raises CheckpointError when it is none of those known, or not here."""
        path, bases = self.snapshot / self.inside / "config.json", PUBLISHED[self.repository].bases
        if not path.is_file():
            raise CheckpointError(f"{self.name} holds no config.json{self._folders()}")
        config = read_json(path)
        width: Any = (config.get("llm_config") or config).get("hidden_size")
        if width in bases:
            return bases[width]
        raise CheckpointError(
            f"{self.name} has a language model of width {width}, and those known have {', '.join(map(str, bases))}; "
            "download it, and give its base model to `seglens convert --base`"
        )

    def _folders(self) -> str:
        """Where a config lies instead, as a hint."""
        configs = self.snapshot.glob("*/config.json")
        names = sorted(f"{self.repository}/{path.parent.name}" for path in configs)
        return f"; name one of its checkpoints: {', '.join(names)}" if names else "; it is no checkpoint"


def cache_folder() -> Path:
    """Where converted checkpoints are kept: $SEGLENS_CACHE, else `seglens` in the user's cache folder."""
    if CACHE in os.environ:
        return Path(os.environ[CACHE]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "seglens"


def _convert(checkpoint: Checkpoint, kept: Path, where: Mapping[str, Any]) -> None:
    """Fetch a checkpoint's weights and its base model, and write the head; nothing is kept of a failure."""
    base_name, published = checkpoint.base(), PUBLISHED[checkpoint.repository]
    base = fetch(base_name, DESCRIBING, None, **where)
    listed = _weights(checkpoint, where)
    if listed is not None:
        _check_room(checkpoint, listed, kept, where)
    parts = {key: fetch(name, patterns, None, **where) for key, (name, patterns) in published.parts.items()}
    weights = f"{checkpoint.inside}/{WEIGHTS}".lstrip("/")
    source = fetch(checkpoint.repository, [*DESCRIBING, weights], checkpoint.commit, **where) / checkpoint.inside
    kept.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(kept) as folder, in_own_form(base, base_name) as form:
        published.convert(source, folder / HEAD, form, **parts)
        stamps = {str(path.relative_to(folder)): stamp(path) for path in _files(folder)}
        origin = {"name": checkpoint.name, "commit": checkpoint.commit, "base": base_name, "base_commit": base.name}
        digests = {file: file_digest(folder / file) for file in stamps}
        write_json(folder / RECORD, {**origin, "files": stamps, "digests": digests})


def _weights(checkpoint: Checkpoint, where: Mapping[str, Any]) -> dict[str, int] | None:
    """The bytes of the checkpoint's files of weights on the hub, by their names there; None where the hub is not to be
    asked or does not answer: what was fetched before is converted then.

    Raises CheckpointError when all are pickles."""
    if where.get("local_files_only"):
        return None
    from huggingface_hub import HfApi

    start = f"{checkpoint.inside}/".lstrip("/")
    try:
        api = HfApi(token=where.get("token"))
        files = api.model_info(checkpoint.repository, revision=checkpoint.commit, files_metadata=True).siblings or []
    except hub_errors():
        return None
    sizes = {file.rfilename: file.size or 0 for file in files if file.rfilename.startswith(start)}
    weights = {file: size for file, size in sizes.items() if file.endswith(".safetensors")}
    pickled = sorted(file.removeprefix(start) for file in sizes if Path(file).suffix in PICKLES)
    if pickled and not weights:
        raise CheckpointError(
            f"{checkpoint.name} holds only {pickled[0]}, and pickled weights are not read here because loading them "
            f"can run code; download it (hf download {checkpoint.repository} --local-dir FOLDER), repack it there, "
            f"where nothing but tensors is unpacked ({repacking(pickled)}), and give the folder to `seglens convert`"
        )
    return weights


def _check_room(checkpoint: Checkpoint, weights: Mapping[str, int], kept: Path, where: Mapping[str, Any]) -> None:
    """Raises CheckpointError when a disk has no room for what is still to be downloaded, or for what it becomes."""
    from huggingface_hub import try_to_load_from_cache

    downloads = Path(where.get("cache_dir") or hub_folder())
    revision, cache = checkpoint.commit, str(downloads)
    fetched = {
        file: isinstance(try_to_load_from_cache(checkpoint.repository, file, cache_dir=cache, revision=revision), str)
        for file in weights
    }
    needs = dict[int, tuple[Path, int]]()  # by disk
    for folder, size in (
        (downloads, sum(weights[file] for file in weights if not fetched[file])),
        (kept, sum(weights.values())),
    ):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        _, before = needs.get(there.stat().st_dev, (there, 0))
        needs[there.stat().st_dev] = there, before + size
    for there, needed in needs.values():
        if needed > (free := shutil.disk_usage(there).free):
            raise CheckpointError(
                f"{checkpoint.name} needs {needed / 1e9:.1f} GB for its download and what it is converted to, and "
                f"{there} has {free / 1e9:.1f} GB left; make room, or name other folders with HF_HOME and {CACHE}"
            )


def _check(kept: Path) -> None:
    """Raises CheckpointError when a file is not as the conversion left it: size, first and last MiB, then every byte
    (which a record of an earlier version does not cover)."""
    try:
        record = json.loads((kept / RECORD).read_text(encoding="utf-8"))
        changed = [file for file, made in record["files"].items() if _stamp(kept / file) != made]
        if not changed:
            with ThreadPoolExecutor() as pool:  # hashing lets other threads run
                digests = dict(record.get("digests", {}))
                actual = pool.map(file_digest, [kept / file for file in digests])
                changed = [file for file, digest in zip(digests, actual, strict=True) if digests[file] != digest]
    except (OSError, ValueError, KeyError, AttributeError):
        changed = [RECORD]
    if changed:
        raise CheckpointError(f"{kept / changed[0]} was changed or lost; delete {kept}, and it is converted once more")


def _stamp(path: Path) -> str | None:
    return stamp(path) if path.is_file() else None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
