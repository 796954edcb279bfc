"""InternVL checkpoints that have no `-hf` form, as OpenGVLab publishes them, as folders in transformers' own form.

Weights, config and (where it is a plain Qwen tokenizer) the tokenizer are the checkpoint's own. InternLM2's tokenizer
is code of its own, which is not run: it is taken from any InternVL in transformers' own form with that language
model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from seglens.backbones.internvl_form import BEFORE, BEHIND, END, IMAGE, internvl_config, numbers_of, write_processor
from seglens.backbones.internvl_spec import Skeleton
from seglens.checkpoints.origin import CheckpointError
from seglens.convert.configs import faults_of, part, read_json
from seglens.convert.internvl import LEFT, OUTPUT, SCALE, WORDS, mllm_pieces, token_numbers
from seglens.convert.weights import Weights, refuse_misfit, write_model
from seglens.core.files import whole_folder, write_json

SPECIAL = (IMAGE, BEFORE, BEHIND, END)


@dataclass(frozen=True)
class ConvertedInternVL:
    """What was written: tensors written, and updates that were added on the way."""

    folder: str
    tensors: int
    updates_added: int


def convert_internvl(source: Path, out: Path, base: Path | None = None) -> ConvertedInternVL:
    """The folder `out` from the checkpoint in `source`. `base` gives tokenizer, image processor and chat template where
    they cannot be made from the checkpoint's own files.

    Raises CheckpointError that names every tensor that is missing, left over or of another shape, and what of the model
    transformers' class does not compute; FileExistsError when there is something at `out`. Nothing half-written is
    left."""
    config, weights = read_json(source / "config.json"), Weights(source, SCALE)
    with whole_folder(out) as folder:
        describe(source, folder, base)
        skeleton = Skeleton.draw(folder)
        pieces = mllm_pieces({name: weights.shape(name) for name in weights.names}, skeleton)
        if OUTPUT not in pieces and WORDS in pieces and part(config, "llm_config", source).get("tie_word_embeddings"):
            pieces[OUTPUT] = replace(pieces[WORDS], take=torch.clone)  # a file holds no tensor under two names
        refuse_misfit(pieces, skeleton.shapes, source)
        write_model(folder, pieces, weights)
    return ConvertedInternVL(str(out), len(pieces), weights.updated)


def describe(source: Path, folder: Path, base: Path | None = None) -> None:
    """All of a model but its weights, in transformers' own form: config, tokenizer, image processor, chat template.

    `source` is an InternVL as OpenGVLab publishes it; its weights need not be there. Raises as `convert_internvl`."""
    theirs, numbers = read_json(source / "config.json"), _special(source)
    with faults_of(source):
        config = internvl_config(theirs, numbers[IMAGE], numbers[END])
        if base is None:
            write_processor(source, folder, config, str(theirs.get("template")))
        else:
            ignored = shutil.ignore_patterns(*LEFT, "config.json", "generation_config.json")
            shutil.copytree(base, folder, ignore=ignored, dirs_exist_ok=True)
    _check_numbers(folder, numbers, source, base)
    config.save_pretrained(folder)
    write_json(folder / "generation_config.json", {"eos_token_id": numbers[END]})


@contextmanager
def in_own_form(base: Path, name: str | None = None) -> Iterator[Path]:
    """The description of an InternVL in transformers' own form: its folder as it is, or, of one that is published
    without that form, a temporary folder that is called after its `name`. Raises as `describe`."""
    if read_json(base / "config.json").get("model_type") != "internvl_chat":
        yield base
        return
    with TemporaryDirectory() as folder:
        made = Path(folder) / (name or base.name).rpartition("/")[2]
        made.mkdir()
        describe(base, made)
        yield made


def _special(source: Path) -> dict[str, int]:
    """The numbers of the tokens that the model must know. Raises CheckpointError when one has none."""
    numbers = token_numbers(source)
    lacking = [token for token in SPECIAL if token not in numbers]
    if lacking:
        raise CheckpointError(
            f"{source} numbers no {', '.join(lacking)}; it is no InternVL, or its tokenizer is missing"
        )
    return {token: numbers[token] for token in SPECIAL}


def _check_numbers(folder: Path, numbers: Mapping[str, Any], source: Path, base: Path | None) -> None:
    actual = numbers_of(folder, SPECIAL)
    if actual != numbers:
        token = next(token for token in SPECIAL if actual[token] != numbers[token])
        whose = "its own tokenizer's files" if base is None else f"the tokenizer of {base}"
        raise CheckpointError(
            f"{source} numbers {token} {numbers[token]}, and {whose} {actual[token]}; give --base a model with the "
            "same language model"
        )
