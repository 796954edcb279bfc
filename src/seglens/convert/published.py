"""Heads that the authors of a method published on a model hub, used by their hub id.

The first use fetches the checkpoint, converts it and keeps the result in the cache folder, under the commit that the id
means; later uses read what is kept, also without network. `PUBLISHED` names the checkpoints and the base model of each,
of which only config, tokenizer and processor are fetched."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from seglens.checkpoints.head import PICKLES
from seglens.checkpoints.hub import DESCRIBING, fetch, hub_errors, hub_folder, resolve_folder
from seglens.checkpoints.origin import CheckpointError
from seglens.convert.configs import part, read_json
from seglens.convert.kept import CACHE, check, folder_of_copy, make_once
from seglens.convert.lisa import convert_lisa
from seglens.convert.mllmseg import convert_mllmseg
from seglens.convert.plain import in_own_form
from seglens.convert.self1e import convert_self1e
from seglens.convert.weights import repacking

HEAD = "head"
FORM = 1  # of what is kept: a change of the converters that changes their result counts it up
WEIGHTS = "*.safetensors"
SHA256 = re.compile(r"[0-9a-f]{64}")  # the name that the hub's client gives a file of weights


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
    repository, inside = _parts(str(name))
    if repository not in PUBLISHED or Path(name).is_dir():
        return resolve_folder(name, revision, **where)
    snapshot = fetch(repository, DESCRIBING, revision, **where)
    checkpoint = Checkpoint(repository, snapshot, inside)
    copy = folder_of_copy(checkpoint.name, f"{snapshot.name}-{FORM}")
    make_once(copy, partial(_convert, checkpoint, where))
    check(copy)
    return copy / HEAD


def _parts(name: str) -> tuple[str, str]:
    """The repository, and the folder in it ("" for none)."""
    organization, _, rest = name.partition("/")
    model, _, inside = rest.partition("/")
    inside = inside.rstrip("/")
    if inside and not {"", ".", ".."}.isdisjoint(inside.split("/")):
        raise CheckpointError(f"got {name!r} for a model; need a hub id and the folder of a checkpoint in it")
    return f"{organization}/{model}", inside


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
        width: Any = (part(config, "llm_config", path) or config).get("hidden_size")
        if isinstance(width, int) and width in bases:
            return bases[width]
        raise CheckpointError(
            f"{self.name} has a language model of width {width}, and those known have {', '.join(map(str, bases))}; "
            "download it, and give its base model to `seglens convert --base`"
        )

    def _folders(self) -> str:
        """Where configs lie instead, as a hint."""
        folders = [path.parent.relative_to(self.snapshot) for path in self.snapshot.glob("**/config.json")]
        names = sorted(f"{self.repository}/{folder.as_posix()}" for folder in folders)
        return f"; name one of its checkpoints: {', '.join(names)}" if names else "; it is no checkpoint"


def _convert(checkpoint: Checkpoint, where: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Fetch a checkpoint's weights and its base model, and write the head; gives what the record has to name."""
    base_name, published = checkpoint.base(), PUBLISHED[checkpoint.repository]
    base = fetch(base_name, DESCRIBING, None, **where)
    listed = _weights(checkpoint, where)
    if listed is not None:
        _check_room(checkpoint, listed, folder, where)
    parts = {key: fetch(name, patterns, None, **where) for key, (name, patterns) in published.parts.items()}
    source = _source(checkpoint, listed, where)
    with in_own_form(base, base_name) as form:
        published.convert(source, folder / HEAD, form, **parts)
    return {"name": checkpoint.name, "commit": checkpoint.commit, "base": base_name, "base_commit": base.name}


def _source(checkpoint: Checkpoint, listed: Mapping[str, int] | None, where: Mapping[str, Any]) -> Path:
    """The folder of the checkpoint with its weights. Raises CheckpointError when one of them is not as on the hub."""
    files = [f"{checkpoint.inside}/{WEIGHTS}".lstrip("/")] if listed is None else list(map(_literal, listed))
    snapshot = fetch(checkpoint.repository, [*DESCRIBING, *files], checkpoint.commit, **where)
    _check_download(sorted((snapshot / checkpoint.inside).glob(WEIGHTS)))
    return snapshot / checkpoint.inside


def _literal(name: str) -> str:
    """A pattern of the hub's client that only this name matches."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _check_download(paths: Sequence[Path]) -> None:
    """Raises CheckpointError when a file has another SHA-256 than the hub's, after which its client names it."""
    for path in (path.resolve() for path in paths):
        if not SHA256.fullmatch(path.name):
            continue  # not from the hub's cache, or on a system without links
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != path.name:
                raise CheckpointError(
                    f"{path} is not what the hub holds (its SHA-256 differs); delete it, and it is downloaded once more"
                )


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
    sizes = {file.rfilename: file.size or 0 for file in files if _lies_in(file.rfilename, checkpoint.inside)}
    weights = {file: size for file, size in sizes.items() if file.endswith(".safetensors")}
    pickled = sorted(file.removeprefix(start) for file in sizes if Path(file).suffix in PICKLES)
    if pickled and not weights:
        raise CheckpointError(
            f"{checkpoint.name} holds only {pickled[0]}, and pickled weights are not read here because loading them "
            f"can run code; download it (hf download {checkpoint.repository} --local-dir FOLDER), repack it there, "
            f"where nothing but tensors is unpacked ({repacking(pickled)}), and give the folder to `seglens convert`"
        )
    return weights


def _lies_in(file: str, folder: str) -> bool:
    """Whether a file of the hub lies directly in that folder."""
    return file.rpartition("/")[0] == folder


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
