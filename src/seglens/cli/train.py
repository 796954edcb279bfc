"""`seglens train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seglens.cli.shared import Device


def train(
    backbone: Annotated[str, typer.Option(help="The MLLM: a folder or hub id, such as llava-hf/llava-1.5-7b-hf.")],
    decoder: Annotated[str, typer.Option(help="The SAM to prompt: a folder or hub id, such as facebook/sam-vit-huge.")],
    data: Annotated[str, typer.Option(help="Training data, such as world:n=4000,seed=6,split=train,queries=8.")],
    out: Annotated[Path, typer.Option(help="Folder for curves, checkpoints and the head; the same command resumes.")],
    preset: Annotated[str, typer.Option(help="default, paper or authors.")] = "default",
    layer: Annotated[int | None, typer.Option(help="hidden_states[layer] is read; default 14 of 32, in share.")] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 5000,
    images: Annotated[int, typer.Option(help="Images per step.")] = 8,
    lr: Annotated[float, typer.Option(help="Peak learning rate (LENS: 5e-5; the miniature: 6e-4).")] = 5e-5,
    seed: Annotated[int, typer.Option(help="Of weights, order and dropout.")] = 0,
    descriptor_width: Annotated[
        int | None, typer.Option(help="Of the description MLP; default the MLLM's own.")
    ] = None,
    encoder_width: Annotated[int | None, typer.Option(help="Of the self-attention MLP.")] = None,
    device: Device = "cpu",
) -> None:
    """Train a head on a frozen MLLM. Frozen features are computed once, then only the head is run."""
    from dataclasses import asdict, replace

    from seglens.backbones import hide_loading_bars
    from seglens.checkpoint import HeadConfig, save_head
    from seglens.presets import lens_preset
    from seglens.training import TrainConfig, fit, prepare

    hide_loading_bars()
    config, training = lens_preset(preset), TrainConfig(steps=steps, images=images, lr=lr, seed=seed)
    if descriptor_width is not None:
        config = replace(config, descriptor_width=descriptor_width)
    if encoder_width is not None:
        config = replace(config, encoder_width=encoder_width)
    run = prepare(backbone, decoder, data, config, layer, out, device, seed)
    fit(run.head, run.store, training, out)
    note = {"data": data, "preset": preset, "training": asdict(training)}
    made = HeadConfig("lens", asdict(config), run.backbone, run.layer, run.decoder, trained=note)
    save_head(out / "head", made, run.head)
    print(out / "head")
