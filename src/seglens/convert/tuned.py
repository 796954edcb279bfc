"""What published checkpoints of methods that tune a whole InternVL share: the MLLM goes into the head's folder, and the
rows of new tokens into the head."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from seglens.checkpoints.origin import CheckpointError
from seglens.convert.configs import read_json
from seglens.convert.internvl import LEFT, OUTPUT, WORDS
from seglens.convert.weights import Piece, Weights
from seglens.core.files import write_json
from seglens.data.head_prompt import HeadPrompt
from seglens.methods import METHODS

MLLM = "mllm"
INPUT_ROWS, OUTPUT_ROWS = "adapter.words.new_input", "adapter.words.new_output"


def authors_prompt(method: str, family: str = "internvl") -> HeadPrompt | None:
    """The templates in which a method's authors ask their model, in training and in evaluation."""
    theirs = METHODS[method].presets["authors"]
    return HeadPrompt.of(theirs.prompt or "none", theirs.system[family])


def check_rank(config: Mapping[str, Any], weights: Weights, source: Path) -> None:
    """Raises CheckpointError when the weights hold other low-rank updates than the config names."""
    ranks = {config.get(key) or 0 for key in ("use_llm_lora", "use_backbone_lora")} - {0}
    if weights.ranks() != ranks:
        raise CheckpointError(
            f"{source / 'config.json'} names low-rank updates of rank {sorted(ranks) or 0}, and the weights hold "
            f"those of rank {sorted(weights.ranks()) or 0}; the files are of two checkpoints: copy them again"
        )


def without_new_rows(
    mllm: dict[str, Piece], first: int, added: Mapping[int, str], count: int, source: Path
) -> dict[str, Piece]:
    """Cuts the rows of new tokens, from number `first` on, off the word embedding and the output layer; gives the
    first `count` of them, for the head. `added` names the new tokens by how many there may be."""
    rows = dict[str, Piece]()
    for name, place in ((WORDS, INPUT_ROWS), (OUTPUT, OUTPUT_ROWS)):
        if name not in mllm:
            continue  # reported later, with all that is missing
        whole = mllm[name]
        if whole.shape[0] - first not in added:
            wanted = " or ".join(f"with {names} {first + new}" for new, names in added.items())
            raise CheckpointError(
                f"{source} has {whole.shape[0]} words in {whole.source}; the base model's {first} are {wanted}: give "
                "the base model of the same size and generation"
            )
        mllm[name] = Piece((first, *whole.shape[1:]), whole.source, partial(_rows, whole, 0, first))
        rows[place] = Piece((count, *whole.shape[1:]), whole.source, partial(_rows, whole, first, first + count))
    return rows


def _rows(whole: Piece, start: int, end: int, tensor: Tensor) -> Tensor:
    return whole.take(tensor)[start:end]


def copy_base(base: Path, folder: Path) -> None:
    """All files of the base but its weights; in its config word embedding and output layer are two."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns(*LEFT))
    config = read_json(folder / "config.json")
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    write_json(folder / "config.json", config)
