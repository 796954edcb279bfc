"""`seglens convert`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from seglens.cli.shared import AsJson, emit, say


def convert_mllmseg(
    source: Annotated[Path, typer.Argument(help="The checkpoint's folder, as downloaded, with all of its files.")],
    out: Annotated[Path, typer.Argument(help="The head folder to make; it takes as much room as the checkpoint.")],
    base: Annotated[
        str,
        typer.Option(
            help="InternVL of the same size in transformers' own form, a folder or a hub id, as in "
            "OpenGVLab/InternVL2_5-8B-MPO-hf: for its config, tokenizer and processor; its weights are not read."
        ),
    ],
    gres: Annotated[
        bool, typer.Option("--gres", help="It was trained on gRefCOCO, to refuse what is not there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """A head folder from a published checkpoint of MLLMSeg: its InternVL, with the updates added, and its decoder."""
    from seglens.backbones import hide_loading_bars
    from seglens.checkpoints.hub import folder_of
    from seglens.convert.mllmseg import convert_mllmseg
    from seglens.convert.plain import in_own_form

    hide_loading_bars()
    with in_own_form(folder_of(base), base) as form:
        made = convert_mllmseg(source, out, form, gres)
    if as_json:
        emit(asdict(made))
    else:
        print(
            f"{made.folder}: {made.mllm_tensors} tensors of the MLLM ({made.updates_added} with an update added), a "
            f"decoder of {made.decoder_parameters / 1e6:.1f} M parameters"
        )


def convert_self1e(
    source: Annotated[Path, typer.Argument(help="The checkpoint's folder, as downloaded, with all of its files.")],
    out: Annotated[Path, typer.Argument(help="The head folder to make; it takes as much room as the checkpoint.")],
    base: Annotated[
        str,
        typer.Option(
            help="InternVL3 of the same size in transformers' own form, a folder or a hub id, as in "
            "OpenGVLab/InternVL3-2B-hf: for its config, tokenizer and processor; its weights are not read."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """A head folder from a published checkpoint of SELF1E: its InternVL and its MLPs. Names are those of the authors'
    code; a file that has others is refused by name."""
    from seglens.backbones import hide_loading_bars
    from seglens.checkpoints.hub import folder_of
    from seglens.convert.plain import in_own_form
    from seglens.convert.self1e import convert_self1e

    hide_loading_bars()
    with in_own_form(folder_of(base), base) as form:
        made = convert_self1e(source, out, form)
    if as_json:
        emit(asdict(made))
    else:
        print(
            f"{made.folder}: {made.mllm_tensors} tensors of the MLLM ({made.updates_added} with an update added), MLPs "
            f"of {made.mlp_parameters / 1e6:.1f} M parameters"
        )


def convert_lisa(
    source: Annotated[Path, typer.Argument(help="The checkpoint's folder, with safetensors and all other files.")],
    out: Annotated[Path, typer.Argument(help="The head folder to make; it takes as much room as the checkpoint.")],
    base: Annotated[
        str,
        typer.Option(help="LLaVA of the same size in transformers' own form, a folder or a hub id, for its tokenizer."),
    ] = "llava-hf/llava-1.5-7b-hf",
    tower: Annotated[
        str, typer.Option(help="The CLIP that LISA reads, a folder or a hub id; LISA's files do not hold its weights.")
    ] = "openai/clip-vit-large-patch14",
    decoder: Annotated[
        str, typer.Option(help="SAM of the same size, a folder or a hub id, for its config; its weights are not read.")
    ] = "facebook/sam-vit-huge",
    as_json: AsJson = False,
) -> None:
    """A head folder from a published checkpoint of LISA: its LLaVA, its SAM with the trained mask decoder, its
    projection."""
    from seglens.backbones import hide_loading_bars
    from seglens.checkpoints.hub import DESCRIBING, folder_of
    from seglens.convert.lisa import convert_lisa

    hide_loading_bars()
    clip = folder_of(tower, (*DESCRIBING, "model.safetensors"))
    made = convert_lisa(source, out, folder_of(base), clip, folder_of(decoder))
    if as_json:
        emit(asdict(made))
    else:
        print(
            f"{made.folder}: {made.mllm_tensors} tensors of the MLLM, {made.sam_tensors} of SAM, a projection of "
            f"{made.head_parameters / 1e6:.1f} M parameters"
        )
    say("LISA's own code crops pictures for CLIP; here they are padded, so that masks may differ from theirs")


def convert_internvl(
    source: Annotated[Path, typer.Argument(help="The checkpoint's folder, as downloaded, with all of its files.")],
    out: Annotated[Path, typer.Argument(help="The folder to make; it takes as much room as the checkpoint.")],
    base: Annotated[
        str | None,
        typer.Option(
            help="An InternVL in transformers' own form with the same language model, a folder or a hub id, for its "
            "tokenizer: needed for InternLM2, whose own is code."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """An MLLM in transformers' own form (-hf) from an InternVL that is published without one."""
    from seglens.backbones import hide_loading_bars
    from seglens.checkpoints.hub import folder_of
    from seglens.convert.plain import convert_internvl

    hide_loading_bars()
    made = convert_internvl(source, out, folder_of(base) if base else None)
    if as_json:
        emit(asdict(made))
    else:
        print(f"{made.folder}: {made.tensors} tensors ({made.updates_added} with an update added)")
    say(f"name it with --backbone {made.folder}")
