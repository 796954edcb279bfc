"""MLLMs from a folder or the hub: a whole backbone, or the description of one by its config alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

from seglens.backbones.backbone import Backbone
from seglens.backbones.families import family_of
from seglens.backbones.mllm import MLLM
from seglens.backbones.model_spec import Blueprint
from seglens.backbones.processors import load_processor
from seglens.backbones.read_layer import Depth
from seglens.backbones.tile_rules import check_tiler
from seglens.core.geometry import LETTERBOX, Canvas
from seglens.model_files.strict_loading import HUB, checked_options, load_strict

ATTENTION = ("eager", "sdpa")  # the kinds that take an attention mask


def load_backbone(
    name: str | Path,
    *,
    layer: int | None = None,
    image_size: int | None = None,
    segmentation_only: bool = False,
    revision: str | None = None,
    as_is: bool = False,
    canvas: Canvas = LETTERBOX,
    **loading: Any,
) -> Backbone:
    """Load the MLLM in a folder or at a hub id, whatever its family; safetensors only, no remote code. `loading` goes
    to transformers (`dtype`, `device_map`, `quantization_config`, `attn_implementation`, `local_files_only`, ...).

    `image_size` is the canvas's side in pixels, for families that see images of any size; `canvas` states how pictures
    are laid on it, except in chat. `segmentation_only` leaves out every layer that segmenting never runs: the model can
    then not chat. `as_is` shows pictures in the chat to a processor that crops as they came (see `Backbone.pads`).
    Raises ValueError when the family is not supported, naming those that are, or when the layer, the size or the
    weights do not fit the model."""
    where = {"revision": revision, **{key: loading[key] for key in HUB if key in loading}}
    family = family_of(name, **where)
    loading = checked_options(loading)
    config = AutoConfig.from_pretrained(name, trust_remote_code=False, **where)
    layout = family.layout_of(config, image_size)  # a wrong size is refused before the weights are read
    check_tiler(config, family.tiler, layout.across, canvas.tiles)
    depth = Depth.of(config, layout, layer)
    if segmentation_only:
        depth.shorten(config)
    model = load_strict(
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)],
        name,
        config=config,
        revision=revision,
        needless=depth.beyond if segmentation_only else lambda key: False,
        trust_remote_code=False,
        **loading,
    )
    attention = model.config.get_text_config()._attn_implementation
    if attention not in ATTENTION:
        raise ValueError(f"attn_implementation={attention!r} takes no attention mask; choose {' or '.join(ATTENTION)}")
    processor = load_processor(name, config, **where)
    mllm = MLLM.of(family(model, layout), processor, depth, canvas=canvas, name=str(name), revision=revision)
    return Backbone(mllm, as_is)


def draw_blueprint(
    name: str | Path, *, layer: int | None = None, image_size: int | None = None, revision: str | None = None
) -> Blueprint:
    """What is known of the MLLM in a folder, in a config file or at a hub id from its config alone.

    Raises ValueError when the family is not supported, or the layer or the size do not fit."""
    family = family_of(name, revision=revision)
    config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    return Blueprint.draw(name, config, family.layout_of(config, image_size), layer)


def hide_loading_bars() -> None:
    """Keep transformers' progress bars off the terminal: for programs, not for libraries."""
    from transformers.utils import logging

    logging.disable_progress_bar()
