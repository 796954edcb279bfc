"""Which mask decoder a folder gets, and what each of the known ones costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2Model,
    Sam2VisionConfig,
    SamConfig,
    SamModel,
    SamVisionConfig,
)

from decoders.tiny import TINY
from seglens.decoders import MaskDecoder, load_decoder
from seglens.decoders.sam import SamDecoder
from seglens.decoders.sam2 import Sam2Decoder

VIT = {  # width, layers, heads: SAM's ViT-B, ViT-L, ViT-H
    "vit-base": (768, 12, 12),
    "vit-large": (1024, 24, 16),
    "vit-huge": (1280, 32, 16),
}
HIERA = {  # width, heads, blocks: SAM 2.1's tiny, small, base+, large
    "tiny": (96, 1, [1, 2, 7, 2]),
    "small": (96, 1, [1, 2, 11, 2]),
    "base+": (112, 2, [2, 3, 16, 3]),
    "large": (144, 2, [2, 6, 36, 4]),
}


@pytest.mark.parametrize(
    ("kind", "expected"), [("sam", SamDecoder), ("sam2", Sam2Decoder), ("sam2_video", Sam2Decoder)]
)
def test_the_family_is_that_of_the_config(kind: str, expected: type, tmp_path: Path) -> None:
    TINY[kind].save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == kind
    assert type(load_decoder(tmp_path)) is (SamDecoder if kind == "sam" else Sam2Decoder)


def test_other_models_are_refused(llava: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="is a 'llava' model; supported mask decoders: sam, sam2, sam2_video"
    ) as caught:
        load_decoder(llava)
    assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam_hq"}))
    with pytest.raises(ValueError, match="did you mean 'sam'"):
        load_decoder(tmp_path)


def vit(name: str) -> MaskDecoder:
    width, layers, heads = VIT[name]
    vision = SamVisionConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads)
    with torch.device("meta"):
        return SamDecoder(SamModel(SamConfig(vision_config=vision)))


def hiera(name: str) -> MaskDecoder:
    width, heads, blocks = HIERA[name]
    widths, headed = ([n * 2**stage for stage in range(4)] for n in (width, heads))
    trunk = Sam2HieraDetConfig(
        hidden_size=width,
        num_attention_heads=heads,
        blocks_per_stage=blocks,
        embed_dim_per_stage=widths,
        num_attention_heads_per_stage=headed,
    )
    vision = Sam2VisionConfig(backbone_config=trunk, backbone_channel_list=widths[::-1])
    with torch.device("meta"):
        return Sam2Decoder(Sam2Model(Sam2Config(vision_config=vision)))


@pytest.mark.parametrize("name", VIT)
def test_sizes_of_sam(name: str) -> None:
    decoder = vit(name)
    assert (decoder.image_size, decoder.width, decoder.side, decoder.mask_side) == (1024, 256, 64, 256)
    assert decoder.shapes == ((256, 64, 64),)
    assert trained(decoder) == (3_506_304, 4_058_340)


@pytest.mark.parametrize("name", HIERA)
def test_sizes_of_sam2(name: str) -> None:
    """The two finer maps are three quarters of an embedding, whatever the trunk."""
    decoder = hiera(name)
    assert (decoder.image_size, decoder.width, decoder.side, decoder.mask_side) == (1024, 256, 64, 256)
    assert decoder.shapes == ((256, 64, 64), (32, 256, 256), (64, 128, 128))
    assert trained(decoder) == (3_506_560, 4_215_109)


def trained(decoder: MaskDecoder) -> tuple[int, int]:
    """Parameters of a copy of the mask decoder: those that are trained, and all."""
    parameters = list(decoder.trainable_decoder().parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)
