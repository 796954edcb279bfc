"""`seglens convert`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from seglens.cli.options import AsJson
from seglens.cli.output import print_json, print_stderr


def convert_mllmseg(
    source: Annotated[Path, typer.Argument(help="Folder of the checkpoint, as downloaded, with all of its files.")],
    out: Annotated[Path, typer.Argument(help="Folder for the head; it takes as much disk space as the checkpoint.")],
    base: Annotated[
        str,
        typer.Option(
            help="InternVL of the same size in transformers' own format, a folder or hub id, as in "
            "OpenGVLab/InternVL2_5-8B-MPO-hf: for its config, tokenizer and processor; its weights are not read."
        ),
    ],
    gres: Annotated[
        bool,
        typer.Option(
            "--gres", help="The checkpoint was trained on gRefCOCO, to refuse targets that are not in the picture."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Convert a published checkpoint of MLLMSeg to a head folder: its InternVL, with the updates added, and its
    decoder."""
    from seglens.backbones import hide_loading_bars
    from seglens.checkpoints.hub import folder_of
    from seglens.convert.mllmseg import convert_mllmseg
    from seglens.convert.plain import in_own_form

    hide_loading_bars()
    _check_source(source)
    with in_own_form(folder_of(base), base) as form:
        result = convert_mllmseg(source, out, form, gres)
    if as_json:
        print_json(asdict(result))
    else:
        print(
            f"{result.folder}: {result.mllm_tensors} tensors of the MLLM "
            f"({result.updates_added} with an update added), a decoder of "
            f"{result.decoder_parameters / 1e6:.1f} M parameters"
        )


def convert_self1e(
    source: Annotated[Path, typer.Argument(help="Folder of the checkpoint, as downloaded, with all of its files.")],
    out: Annotated[Path, typer.Argument(help="Folder for the head; it takes as much disk space as the checkpoint.")],
    base: Annotated[
        str,
        typer.Option(
            help="InternVL3 of the same size in transformers' own format, a folder or hub id, as in "
            "OpenGVLab/InternVL3-2B-hf: for its config, tokenizer and processor; its weights are not read."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Convert a published checkpoint of SELF1E to a head folder: its InternVL and its MLPs.

    Its tensors must have the names of the authors' code; any other name is reported."""
    from seglens.backbones import hide_loading_bars
    from seglens.checkpoints.hub import folder_of
    from seglens.convert.plain import in_own_form
    from seglens.convert.self1e import convert_self1e

    hide_loading_bars()
    _check_source(source)
    with in_own_form(folder_of(base), base) as form:
        result = convert_self1e(source, out, form)
    if as_json:
        print_json(asdict(result))
    else:
        print(
            f"{result.folder}: {result.mllm_tensors} tensors of the MLLM "
            f"({result.updates_added} with an update added), MLPs of {result.mlp_parameters / 1e6:.1f} M parameters"
        )


def _check_source(source: Path) -> None:
    """Before anything is fetched: raises CheckpointError when there is no folder of a checkpoint."""
    from seglens.checkpoints.origin import CheckpointError

    if not source.is_dir():
        raise CheckpointError(f"there is no folder {source}; give the folder of the checkpoint, as downloaded")


def convert_lisa(
    source: Annotated[Path, typer.Argument(help="Folder of the checkpoint, with safetensors and all other files.")],
    out: Annotated[Path, typer.Argument(help="Folder for the head; it takes as much disk space as the checkpoint.")],
    base: Annotated[
        str,
        typer.Option(help="LLaVA of the same size in transformers' own format, a folder or hub id, for its tokenizer."),
    ] = "llava-hf/llava-1.5-7b-hf",
    tower: Annotated[
        str, typer.Option(help="CLIP that LISA uses, a folder or hub id; LISA's files do not contain its weights.")
    ] = "openai/clip-vit-large-patch14",
    decoder: Annotated[
        str, typer.Option(help="SAM of the same size, a folder or hub id, for its config; its weights are not read.")
    ] = "facebook/sam-vit-huge",
    as_json: AsJson = False,
) -> None:
    """Convert a published checkpoint of LISA to a head folder: its LLaVA, its SAM with the trained mask decoder, its
    projection."""
    from seglens.backbones import hide_loading_bars
    from seglens.checkpoints.hub import DESCRIBING, folder_of
    from seglens.convert.lisa import convert_lisa

    hide_loading_bars()
    _check_source(source)
    words, sam = folder_of(base), folder_of(decoder)
    result = convert_lisa(source, out, words, folder_of(tower, (*DESCRIBING, "model.safetensors")), sam)
    if as_json:
        print_json(asdict(result))
    else:
        print(
            f"{result.folder}: {result.mllm_tensors} tensors of the MLLM, {result.sam_tensors} of SAM, a projection of "
            f"{result.head_parameters / 1e6:.1f} M parameters"
        )
    print_stderr("LISA's own code crops pictures for CLIP; here they are padded, so that masks may differ from theirs")


def convert_internvl(
    source: Annotated[Path, typer.Argument(help="Folder of the checkpoint, as downloaded, with all of its files.")],
    out: Annotated[Path, typer.Argument(help="Folder for the MLLM; it takes as much disk space as the checkpoint.")],
    base: Annotated[
        str | None,
        typer.Option(
            help="InternVL in transformers' own format with the same language model, a folder or hub id, for its "
            "tokenizer: needed for InternLM2, whose own tokenizer is code."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Convert an InternVL that is published without transformers' own format (-hf) to that format."""
    from seglens.backbones import hide_loading_bars
    from seglens.checkpoints.hub import folder_of
    from seglens.convert.plain import convert_internvl

    hide_loading_bars()
    _check_source(source)
    result = convert_internvl(source, out, folder_of(base) if base else None)
    if as_json:
        print_json(asdict(result))
    else:
        print(f"{result.folder}: {result.tensors} tensors ({result.updates_added} with an update added)")
    print_stderr(f"name it with --backbone {result.folder}")
