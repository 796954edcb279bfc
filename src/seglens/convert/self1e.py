"""The published checkpoints of SELF1E (arXiv 2603.19026) as head folders.

One of them holds a whole InternVL3 with its updates merged, as the end of the authors' training leaves it, and three
MLPs. What comes of it: the InternVL in transformers' own form, `mllm` inside the head's folder; and a head of the MLPs
and of [SEG]'s rows, without updates of its own.

Names are those of the released code (ANDYZAQ/SELF1E at commit 124695b); no published file could be opened. What is
assumed of those: safetensors of that code's names; [SEG] after all words of the base model, and [SEGT] after it or
not (most official versions were trained with it by oversight), which is left out. Any other name is refused by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from seglens.backbones.internvl_spec import Skeleton
from seglens.checkpoints.config import HeadConfig
from seglens.checkpoints.head import save_head
from seglens.checkpoints.origin import CheckpointError, Origin
from seglens.convert.configs import part, read_json
from seglens.convert.internvl import OUTPUT, SCALE, WORDS, check_facts, mllm_pieces, token_numbers
from seglens.convert.tuned import MLLM, authors_prompt, check_rank, copy_base, without_new_rows
from seglens.convert.weights import Piece, Weights, refuse_misfit, write_model
from seglens.core.files import whole_folder
from seglens.methods.preset import TILE
from seglens.methods.self1e import PRESETS, TOKEN, Amplifier, Combine

STRAY = "[SEGT]"
ASSUMED = " (the names are assumed to be those of the authors' code: no published file could be looked up)"
START = "combine_decode_proj"
# ours by theirs; all: of what the language model gives; ori: of what the vision tower gives
MLPS = {
    "combine_decode_proj.0": "combine.first",
    "combine_decode_proj.2": "combine.second",
    "combine_decode_proj_all.0": "amplifiers.image.mlp.0",
    "combine_decode_proj_all.2": "amplifiers.image.mlp.2",
    "combine_decode_proj_ori.0": "amplifiers.given.mlp.0",
    "combine_decode_proj_ori.2": "amplifiers.given.mlp.2",
}
SETTINGS = PRESETS["authors"].config


@dataclass(frozen=True)
class ConvertedSelf1e:
    """What was written: tensors of the MLLM, updates added to it, parameters of the MLPs."""

    folder: str
    mllm_tensors: int
    updates_added: int
    mlp_parameters: int


def convert_self1e(source: Path, out: Path, base: Path) -> ConvertedSelf1e:
    """A head folder `out` from the checkpoint in `source`. `base` is an InternVL of the same size in transformers' own
    form: its config, tokenizer and processor are taken, not its weights.

    Raises CheckpointError that names every tensor that is missing, left over or of another shape, and every fact in
    which the two models differ; FileExistsError when there is something at `out`. Nothing half-written is left."""
    settings = replace(SETTINGS, rank=0, vision_rank=0, projector=False, vocabulary=False)
    skeleton, config = Skeleton.draw(base), read_json(source / "config.json")
    check_facts(config, skeleton, str(source / "config.json"))
    _check_token(source, skeleton)
    weights = Weights(source, SCALE)
    check_rank(config, weights, source)
    mllm = mllm_pieces({name: weights.shape(name) for name in weights.names if not name.startswith(START)}, skeleton)
    if OUTPUT not in mllm and WORDS in mllm and part(config, "llm_config", source).get("tie_word_embeddings"):
        mllm[OUTPUT] = replace(mllm[WORDS], take=torch.clone)
    rows = without_new_rows(mllm, skeleton.words, {1: TOKEN, 2: f"{TOKEN} and {STRAY}"}, 1, source)
    head = {_renamed(name): Piece(weights.shape(name), name) for name in weights.names if name.startswith(START)}
    refuse_misfit(mllm, skeleton.shapes, source, ASSUMED)
    refuse_misfit(head, _mlp_shapes(skeleton.width), source, ASSUMED)
    with whole_folder(out) as folder:
        copy_base(base, folder / MLLM)
        write_model(folder / MLLM, mllm, weights)
        state = {name: piece.made(weights) for name, piece in {**head, **rows}.items()}
        note = {"converted from": source.resolve().name, "base": base.resolve().name}
        origin, prompt = Origin(f"./{MLLM}"), authors_prompt("self1e")
        save_head(
            folder, HeadConfig("self1e", asdict(settings), origin, canvas=TILE, prompt=prompt, trained=note), state
        )
    parameters = sum(state[name].numel() for name in head)
    return ConvertedSelf1e(str(out), len(mllm), weights.updated, parameters)


def _check_token(source: Path, skeleton: Skeleton) -> None:
    """Their training saves no tokenizer; where one lies beside the weights, it must number [SEG] as it is read here."""
    if not any((source / name).is_file() for name in ("added_tokens.json", "tokenizer_config.json")):
        return
    number = token_numbers(source).get(TOKEN)
    if number not in (None, skeleton.words):  # None: the base model's own tokenizer
        raise CheckpointError(
            f"{source} numbers {TOKEN} {number}, and with this base model it must be {skeleton.words}; give the base "
            "model of the same size and generation"
        )


def _renamed(source: str) -> str:
    part, _, kind = source.rpartition(".")
    return f"{MLPS[part]}.{kind}" if part in MLPS else source


def _mlp_shapes(width: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        parts = {"combine": Combine(width), "amplifiers.image": Amplifier(width), "amplifiers.given": Amplifier(width)}
    return {
        f"{name}.{key}": tuple(tensor.shape)
        for name, part in parts.items()
        for key, tensor in part.state_dict().items()
    }
