"""Heads on a model hub: fetched by name when asked for, published with all that they need to be rebuilt."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seglens.checkpoints.config import WEIGHTS, HeadConfig
from seglens.checkpoints.origin import CONFIG, EMBEDDED, EMBEDDED_HEADS, CheckpointError, Origin, intact_folder
from seglens.core.files import digest, stamp, write_atomic
from seglens.core.names import check_name

CARD = "README.md"
UNTRAINED = (
    " It was trained without absent targets, and shows a mask for every query, whether the thing is there or not."
)
DESCRIBING = ["*.json", "*.txt", "*.jinja", "*.model"]  # of a model: its config, tokenizer and processor


def hub_commit(name: str) -> str | None:
    """The commit that a hub id meant when it was last loaded here, without network; None for a folder."""
    from huggingface_hub import try_to_load_from_cache

    cached = None if Path(name).is_dir() else try_to_load_from_cache(name, CONFIG)
    return Path(cached).parent.name if isinstance(cached, str) else None


def hub_folder() -> Path:
    """Where downloads from the hub are kept."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def resolve_folder(name: str | Path, revision: str | None = None, **where: Any) -> Path:
    """The folder of a head: one of the package's own, a folder on disk, or a snapshot of a hub id, fetched with `where`
    (`token`, `cache_dir`, `local_files_only`)."""
    if not isinstance(name, str | Path):
        raise CheckpointError(f"got {type(name).__name__} for a model; need its name or its folder, as in {EMBEDDED!r}")
    embedded = str(name).partition("/")[0] == EMBEDDED and not Path(name).is_dir()
    if revision is not None and (embedded or Path(name).is_dir()):
        raise CheckpointError(f"got revision={revision!r} for {str(name)!r}, which is on this machine; leave it out")
    if embedded:
        check_name(str(name), EMBEDDED_HEADS, "head of the package")
        return intact_folder(str(name))
    needed = f"{' or '.join(map(repr, EMBEDDED_HEADS))}, a folder with {CONFIG} and {WEIGHTS}"
    return folder_of(str(name), [CONFIG, WEIGHTS], revision, needed, **where)


def folder_of(
    name: str,
    patterns: Sequence[str] = DESCRIBING,
    revision: str | None = None,
    needed: str = "a folder",
    **where: Any,
) -> Path:
    """A folder as it is, or the files of these patterns that a hub id holds: by default all beside its weights.

    Raises CheckpointError, with what is `needed`, when it is neither."""
    if Path(name).is_dir():
        return Path(name)
    if Path(name).exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise CheckpointError(f"got {name!r} for a model; need {needed}, or a hub id such as org/name")
    return fetch(name, patterns, revision, **where)


def fetch(name: str, patterns: Sequence[str], revision: str | None = None, **where: Any) -> Path:
    """The folder of a hub id's files of these patterns, named after their commit; without network, as fetched before.

    Raises CheckpointError when the hub does not give them, OSError when they cannot be written."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns), **where))
    except hub_errors() as error:
        if _is_of_a_file(error):
            raise
        raise CheckpointError(
            f"{name} is no folder here, and could not be fetched from the hub: {_explained(error, name, revision)}"
        ) from error


def hub_errors() -> tuple[type[Exception], ...]:
    """The errors of the hub's client and of the network; they have no common base."""
    from huggingface_hub import errors

    named = (error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, Exception))
    return (OSError, *named)


def _is_of_a_file(error: Exception) -> bool:
    """Whether it is about a file on this machine, such as a full disk."""
    return isinstance(error, OSError) and error.errno is not None and error.filename is not None


def _explained(error: Exception, name: str, revision: str | None) -> str:
    """Why a download failed, and what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return (
            f"its terms must be accepted first; do so on {constants.ENDPOINT}/{name}, and log in with `hf auth login` "
            "(or set HF_TOKEN)"
        )
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no model of that name; check the name (of a private model, the token)"
    if isinstance(error, RevisionNotFoundError):
        return f"the hub has no revision {revision!r} of it; check the revision"
    return f"{_reason(error)}; check the name, the revision and the network (of a private model, the token too)"


def _reason(error: Exception) -> str:
    """In plain words, with the first line of the error."""
    line = next(iter(str(error).strip().splitlines()), "")[:200].rstrip(" .:;")
    if getattr(error, "response", None) is not None:
        answer = "it refused"
    else:
        answer = "this is no name of a model" if isinstance(error, ValueError) else "it did not answer"
    return f"{answer} ({line})" if line else answer


def identified(name: str, folder: Path) -> str:
    """A head's name with a digest of its files (by `files.stamp`), so that another head of the same name is not taken
    for it."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
    label = os.path.abspath(folder) if Path(name).is_dir() else name
    return f"{label} ({digest(''.join(map(stamp, files)).encode())[:12]})"


def identified_parts(backbone: str, decoder: str, heads: str | None) -> str:
    """The names of an MLLM and a mask decoder, folders by absolute paths, and a file of heads with a digest of it."""
    names = [os.path.abspath(name) if Path(name).is_dir() else name for name in (backbone, decoder)]
    if heads is not None:
        names.append(f"{heads} ({digest(stamp(Path(heads)).encode())[:12]})" if Path(heads).is_file() else heads)
    return " + ".join(names)


def push_folder(
    folder: Path, config: HeadConfig, name: str, private: bool | None = None, token: str | None = None
) -> str:
    """Publish the head in `folder` as the hub id `name` with a model card. Returns the address of the commit.

    Raises CheckpointError when the head names a frozen part that only this machine has, or the hub refuses."""
    for part in (config.backbone, config.decoder):
        if part is not None and part.name.startswith((".", "/")):
            raise CheckpointError(
                f"the head names {part.name!r}, a folder that exists on this machine only; "
                "train on a hub id, or publish that folder and name it in config.json"
            )
    from huggingface_hub import HfApi

    write_atomic(folder / CARD, model_card(config, name).encode())
    hub = HfApi(token=token)
    try:
        hub.create_repo(name, private=private, exist_ok=True)
        done = hub.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=[CONFIG, WEIGHTS, CARD],
            commit_message=f"{config.method} head",
        )
    except hub_errors() as error:
        if _is_of_a_file(error):
            raise
        raise CheckpointError(
            f"{name} could not be published on the hub: {_reason(error)}; check the name and the token"
        ) from error
    return str(done.commit_url)


def model_card(config: HeadConfig, name: str) -> str:
    """What a reader of the hub needs: what the head belongs to, how it was trained, and the lines that load it."""
    backbone = _named(config.backbone)
    reads = "read to its end through an adapter" if config.layer is None else f"read at layer {config.layer}"
    draws = "" if config.decoder is None else f", drawn by {_named(config.decoder)}"
    refuses = UNTRAINED if config.presence == "untrained" else ""
    trained = "".join(f"- {key}: {value}\n" for key, value in (config.trained or {}).items())
    return f"""---
library_name: seglens
pipeline_tag: image-segmentation
base_model: {config.backbone.name}
---

# {name}

A {config.method.upper()} head: masks for the multimodal LLM {backbone},
{reads}{draws}. Not one weight of the MLLM itself is changed.{refuses}

```python
from seglens import Segmenter

segmenter = Segmenter.from_pretrained("{name}")
segmenter.segment("photo.jpg", "the thing I could sit on").save("out")
```

{trained}"""


def _named(part: Origin) -> str:
    return part.name + (f" (revision {part.revision})" if part.revision else "")
