"""The published checkpoints of LISA (arXiv 2308.00692) as head folders.

One of them holds a LLaVA v1 with its updates merged, a whole SAM with the mask decoder that was trained, and the
projection of [SEG]; CLIP is not in it. The result: LLaVA and SAM in transformers' own form, `mllm` and `sam` inside the
head's folder, and a head of the projection and of [SEG]'s rows. Names are those of the released code
(dvlab-research/LISA, Apache-2.0): model/LISA.py, model/llava, model/segment_anything.

Two things differ from the authors' own way: pictures are padded to a square for CLIP, where theirs are cropped; and
[SEG] follows the colon of "ASSISTANT:" directly."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from seglens.backbones.llava_form import AROUND, IMAGE, LlavaForm, write_llava_v1
from seglens.checkpoints.config import HeadConfig
from seglens.checkpoints.head import save_head
from seglens.checkpoints.origin import CheckpointError, Origin
from seglens.convert.configs import faults_of, read_json
from seglens.convert.internvl import LEFT, token_numbers
from seglens.convert.sam import sam_names
from seglens.convert.tuned import INPUT_ROWS, MLLM, OUTPUT_ROWS, authors_prompt
from seglens.convert.weights import Piece, Weights, refuse_misfit, write_model
from seglens.core.files import whole_folder
from seglens.decoders.sam import sam_shapes
from seglens.methods.lisa import PRESETS, TOKEN

SAM, SAM_START = "sam", "model.visual_model."
PROJECTION = {"model.text_hidden_fcs.0.0": "project.0", "model.text_hidden_fcs.0.2": "project.2"}
WORDS, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
CLIP_START, CLIP_LEFT = "vision_model.", "embeddings.position_ids"  # the latter is a buffer of older files
BUFFER = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")  # older files hold what is computed
SECOND = "model.multi_modal_projector.linear_2"
SETTINGS = replace(PRESETS["authors"].config, rank=0, vocabulary=False, train_mask_decoder=False)


@dataclass(frozen=True)
class ConvertedLisa:
    """What was made, for people: tensors of LLaVA (with CLIP's) and of SAM, parameters of the head."""

    folder: str
    mllm_tensors: int
    sam_tensors: int
    head_parameters: int


def convert_lisa(source: Path, out: Path, base: Path, tower: Path, decoder: Path) -> ConvertedLisa:
    """A head folder `out` from the checkpoint in `source`. `base` is a LLaVA in transformers' own form, for its
    tokenizer; `tower` the CLIP that LISA reads, with its weights; `decoder` a SAM of the same size, for its config.

    Raises CheckpointError that names every tensor that is missing, left over or of another shape; FileExistsError when
    there is something at `out`. Nothing half-written is left."""
    weights, clip, added = Weights(source, 1.0), Weights(tower, 1.0), _added(source)
    with whole_folder(out) as folder:
        (folder / MLLM).mkdir()
        with faults_of(source):
            form = write_llava_v1(read_json(source / "config.json"), base, tower, folder / MLLM)
        shutil.copytree(decoder, folder / SAM, ignore=shutil.ignore_patterns(*LEFT))
        mllm = _mllm_pieces(weights, clip, form, added)
        sam = _sam_pieces(weights)
        head = _head_pieces(weights, added[TOKEN])
        refuse_misfit(mllm, form.shapes, source)
        refuse_misfit(sam, sam_shapes(folder / SAM), source)
        refuse_misfit(head, _head_shapes(form, sam), source)
        write_model(folder / MLLM, mllm, weights)
        write_model(folder / SAM, sam, weights)
        _write_head(folder, {name: piece.made(weights) for name, piece in head.items()}, source, base)
    return ConvertedLisa(str(out), len(mllm), len(sam), sum(torch.Size(piece.shape).numel() for piece in head.values()))


def _write_head(folder: Path, state: Mapping[str, Tensor], source: Path, base: Path) -> None:
    config = HeadConfig(
        "lisa",
        asdict(SETTINGS),
        Origin(f"./{MLLM}"),
        decoder=Origin(f"./{SAM}"),
        canvas=PRESETS["authors"].canvas,
        presence="untrained",
        prompt=authors_prompt("lisa", "llava"),
        trained={"converted from": source.resolve().name, "base": base.resolve().name},
    )
    save_head(folder, config, state)


def _added(source: Path) -> dict[str, int]:
    """The numbers of the tokens that were added. Raises CheckpointError when one that is needed has none."""
    numbers = token_numbers(source)
    lacking = [token for token in (TOKEN, *AROUND) if token not in numbers]
    if lacking:
        raise CheckpointError(f"{source} numbers no {', '.join(lacking)}; it is no LISA, or its tokenizer is missing")
    return numbers


def _mllm_pieces(weights: Weights, clip: Weights, form: LlavaForm, added: Mapping[str, int]) -> dict[str, Piece]:
    """LLaMA, projector and CLIP by transformers' names; the rows of the vocabulary in the order of our tokenizer."""
    pieces = dict[str, Piece]()
    for name in weights.names:
        if name in (WORDS, OUTPUT):
            count = weights.shape(name)[0]
            rows = _rows(form.words, added, count)
            place = "lm_head.weight" if name == OUTPUT else "model.language_model.embed_tokens.weight"
            pieces[place] = Piece((len(rows), *weights.shape(name)[1:]), name, partial(_chosen, rows))
        elif name.startswith("model.mm_projector."):
            kind = name.rpartition(".")[2]
            pieces[f"model.multi_modal_projector.linear_1.{kind}"] = Piece(weights.shape(name), name)
            width = weights.shape(name)[0]
            shape = (width, width) if kind == "weight" else (width,)
            pieces[f"{SECOND}.{kind}"] = Piece(shape, name, partial(_identity, shape))
        elif not name.startswith((SAM_START, "model.text_hidden_fcs.")) and not BUFFER.fullmatch(name):
            pieces[name.replace("model.", "model.language_model.", 1)] = Piece(weights.shape(name), name)
    for name in clip.names:
        if name.startswith(CLIP_START) and not name.endswith(CLIP_LEFT):
            place = name.replace(CLIP_START, "model.vision_tower.", 1)
            pieces[place] = Piece(clip.shape(name), name, files=clip)
    return pieces


def _rows(words: Sequence[str], added: Mapping[str, int], count: int) -> list[int]:
    """Of each of our words: the row that it has there. <image> and other words that LISA does not have are never read
    as embeddings; they take the row of <unk>."""
    plain, numbers = count, set(added.values())
    while plain - 1 in numbers:  # the added tokens are the last rows
        plain -= 1
    return [added.get(word, number if number < plain and word != IMAGE else 0) for number, word in enumerate(words)]


def _chosen(rows: Sequence[int], tensor: Tensor) -> Tensor:
    return tensor[torch.tensor(rows)]


def _identity(shape: tuple[int, ...], tensor: Tensor) -> Tensor:
    return torch.eye(shape[0], dtype=tensor.dtype) if len(shape) == 2 else tensor.new_zeros(shape)


def _sam_pieces(weights: Weights) -> dict[str, Piece]:
    names = [name.removeprefix(SAM_START) for name in weights.names if name.startswith(SAM_START)]
    return {  # copies: a file holds no tensor under two names
        ours: Piece(weights.shape(SAM_START + theirs), SAM_START + theirs, torch.clone)
        for ours, theirs in sam_names(names).items()
        if theirs not in ("pixel_mean", "pixel_std")
    }


def _head_pieces(weights: Weights, number: int) -> dict[str, Piece]:
    pieces = dict[str, Piece]()
    for name in weights.names:
        part, _, kind = name.rpartition(".")
        if name.startswith("model.text_hidden_fcs."):
            pieces[f"{PROJECTION[part]}.{kind}" if part in PROJECTION else name] = Piece(weights.shape(name), name)
    for name, place in ((WORDS, INPUT_ROWS), (OUTPUT, OUTPUT_ROWS)):
        if name in weights.names:
            pieces[place] = Piece((1, *weights.shape(name)[1:]), name, partial(_chosen, [number]))
    return pieces


def _head_shapes(form: LlavaForm, sam: Mapping[str, Piece]) -> dict[str, tuple[int, ...]]:
    width = form.shapes["lm_head.weight"][1]
    prompt = (
        sam["prompt_encoder.no_mask_embed.weight"].shape[1] if "prompt_encoder.no_mask_embed.weight" in sam else 256
    )
    return {
        "project.0.weight": (width, width),
        "project.0.bias": (width,),
        "project.2.weight": (prompt, width),
        "project.2.bias": (prompt,),
        INPUT_ROWS: (1, width),
        OUTPUT_ROWS: (1, width),
    }
