"""The published checkpoints of MLLMSeg (arXiv 2508.04107) as head folders.

One of them holds a whole InternVL with its updates, added or not, and `res_decoder`. What comes of it: the InternVL in
transformers' own form, `mllm` inside the head's folder, which becomes the head's MLLM; and a head of the mask decoder
and of the rows of the new tokens, without updates of its own. Names are those of the released code at commit a8fceda.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from seglens.backbones.internvl_spec import Skeleton
from seglens.checkpoints.config import HeadConfig
from seglens.checkpoints.head import save_head
from seglens.checkpoints.origin import CheckpointError, Origin
from seglens.convert.configs import read_json
from seglens.convert.internvl import SCALE, check_facts, mllm_pieces, token_numbers
from seglens.convert.tuned import MLLM, authors_prompt, check_rank, copy_base, without_new_rows
from seglens.convert.weights import Piece, Weights, refuse_misfit, write_model
from seglens.core.files import whole_folder
from seglens.methods.light_decoder import LightDecoder
from seglens.methods.mllmseg import PRESETS, REJ, SEG, MLLMSegConfig
from seglens.methods.preset import TILE

IMAGE = "<IMG_CONTEXT>"
START = "res_decoder."
BLOCK = {
    r"layers\.0\.self_attn": "own",
    r"layers\.0\.multihead_attn": "other",
    r"layers\.0\.linear1": "expand",
    r"layers\.0\.linear2": "shrink",
    r"layers\.0\.norm1": "norms.0",
    r"layers\.0\.norm2": "norms.1",
    r"layers\.0\.norm3": "norms.2",
    r"norm": "norms.3",
}
DECODER = {
    r"img_llm_down": "fuse.image",
    r"text_down": "segment",
    r"text_out_adapter": "fuse.join",
    r"upsample_adapter_l\.offset": "fuse.upsample.offset",
    **{rf"ca_layer_v2l\.decoder\.{theirs}": f"fuse.enhance.{ours}" for theirs, ours in BLOCK.items()},
    **{rf"ca_layer_vl\.decoder\.{theirs}": f"condition.{ours}" for theirs, ours in BLOCK.items()},
    r"conv1\.0": "head.conv",
    r"conv1\.1": "head.norm",
    r"conv2": "head.smooth",
}
POINTS = "res_decoder.upsample_adapter_l.init_pos"  # where DySample reads before points are moved: saved, never trained


@dataclass(frozen=True)
class Converted:
    """What was written: tensors of the MLLM, updates added to it, parameters of the decoder."""

    folder: str
    mllm_tensors: int
    updates_added: int
    decoder_parameters: int


def convert_mllmseg(
    source: Path,
    out: Path,
    base: Path,
    refuses: bool = False,
    settings: MLLMSegConfig = PRESETS["authors"].config,
) -> Converted:
    """A head folder `out` from the checkpoint in `source`. `base` is an InternVL of the same size in transformers' own
    form: its config, tokenizer and processor are taken, not its weights. `refuses`: it was trained to answer [REJ].

    Raises CheckpointError that names every tensor that is missing, left over or of another shape, and every fact in
    which the two models differ; FileExistsError when there is something at `out`. Nothing half-written is left."""
    settings = replace(
        settings, rank=0, vocabulary=False, final_norm=False, refusal=settings.refusal if refuses else None
    )
    skeleton, config = Skeleton.draw(base), read_json(source / "config.json")
    check_facts(config, skeleton, str(source / "config.json"))
    first = _first_new_token(source, skeleton)
    weights = Weights(source, SCALE)
    check_rank(config, weights, source)
    shapes = {name: weights.shape(name) for name in weights.names if not name.startswith(START)}
    mllm = mllm_pieces(shapes, skeleton)
    rows = without_new_rows(mllm, first, {2: f"{SEG} and {REJ}"}, len(settings.tokens), source)
    head = _decoder_pieces(weights, settings, skeleton.shuffle)
    with torch.device("meta"):
        decoder = LightDecoder(settings, skeleton.width, skeleton.patch_width, skeleton.shuffle)
    refuse_misfit(mllm, skeleton.shapes, source)
    refuse_misfit(head, {name: tuple(tensor.shape) for name, tensor in decoder.state_dict().items()}, source)
    with whole_folder(out) as folder:
        copy_base(base, folder / MLLM)
        write_model(folder / MLLM, mllm, weights)
        state = {f"decoder.{name}": piece.made(weights) for name, piece in head.items()}
        state |= {name: piece.made(weights) for name, piece in rows.items()}
        note = {"converted from": source.resolve().name, "base": base.resolve().name}
        origin, prompt = Origin(f"./{MLLM}"), authors_prompt("mllmseg")
        save_head(
            folder, HeadConfig("mllmseg", asdict(settings), origin, canvas=TILE, prompt=prompt, trained=note), state
        )
    return Converted(str(out), len(mllm), weights.updated, sum(p.numel() for p in decoder.parameters()))


def _first_new_token(source: Path, skeleton: Skeleton) -> int:
    """The number of [SEG], after all words of the base model; [REJ] follows."""
    numbers = token_numbers(source)
    wanted = {SEG: skeleton.words, REJ: skeleton.words + 1, IMAGE: skeleton.image_token}
    for token, number in wanted.items():
        if numbers.get(token) != number:
            raise CheckpointError(
                f"{source} numbers {token} {numbers.get(token)}, and with this base model it must be {number}; give "
                "the base model of the same size and generation"
            )
    return skeleton.words


def _decoder_pieces(weights: Weights, settings: MLLMSegConfig, shuffle: int) -> dict[str, Piece]:
    """The decoder's tensors by the names of this package; a name that is not the authors' keeps its own."""
    pieces = dict[str, Piece]()
    for source in weights.names:
        if not source.startswith(START):
            continue
        if source == POINTS:
            _check_points(weights.read(source), settings.groups, shuffle)
            continue
        name = source.removeprefix(START)
        names = (re.sub(f"^{theirs}(?=\\.)", ours, name) for theirs, ours in DECODER.items())
        pieces[next((ours for ours in names if ours != name), source)] = Piece(weights.shape(source), source)
    return pieces


def _check_points(saved: Tensor, groups: int, shuffle: int) -> None:
    """The centres of the fine cells of a coarse one, across and down, the same for every group."""
    along = (torch.arange(shuffle) - (shuffle - 1) / 2) / shuffle
    across, down = torch.meshgrid(along, along, indexing="xy")
    expected = torch.cat([across.flatten().repeat(groups), down.flatten().repeat(groups)])
    if saved.numel() != expected.numel() or (saved.flatten().float() - expected).abs().max() > 1e-3:
        raise CheckpointError(f"{POINTS} holds other points than DySample's; this decoder up-samples in another way")
