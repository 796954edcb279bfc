"""Tiny mask decoders of the true architectures with random weights, saved as anybody would save them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2PromptEncoderConfig,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam2VisionConfig,
    SamConfig,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
)
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

WIDTH = 32
STRONG = {"initializer_range": 0.1}  # random layers that say something: at 0.02 every layer is nearly the identity
SAM2_MEAN, SAM2_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def save_sam(folder: Path) -> None:
    """SAM with windows, relative positions and its image processor's file."""
    side, patch = 64, 8
    model = SamModel(
        SamConfig(
            vision_config=SamVisionConfig(
                hidden_size=32,
                output_channels=WIDTH,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=side,
                patch_size=patch,
                mlp_ratio=2.0,
                num_pos_feats=WIDTH // 2,
                window_size=4,
                global_attn_indexes=[1],
                **STRONG,
            ),
            prompt_encoder_config=SamPromptEncoderConfig(hidden_size=WIDTH, image_size=side, patch_size=patch),
            mask_decoder_config=SamMaskDecoderConfig(
                hidden_size=WIDTH, mlp_dim=64, num_hidden_layers=2, num_attention_heads=4, iou_head_hidden_dim=WIDTH
            ),
        )
    )
    torch.nn.init.normal_(model.shared_image_embedding.positional_embedding)  # as in SAM; transformers draws hidden/2
    model.save_pretrained(folder)
    size = {"height": side, "width": side}
    SamImageProcessorPil(size={"longest_edge": side}, pad_size=size).save_pretrained(folder)


def save_sam2(folder: Path) -> None:
    """SAM 2: Hiera in four stages with windows that do not divide them, query pooling and a global block."""
    _save(Sam2Model(Sam2Config(**_parts(), **STRONG)), folder)


def save_sam2_video(folder: Path) -> None:
    """The same as a tracker, as the checkpoints on the hub are: memory encoder, memory attention and all."""
    parts = {name: part if name == "vision_config" else part.to_dict() for name, part in _parts().items()}
    model = Sam2VideoModel(
        Sam2VideoConfig(
            **parts,
            image_size=128,
            memory_attention_hidden_size=WIDTH,
            memory_attention_num_layers=1,
            memory_attention_feed_forward_hidden_size=32,
            memory_attention_rope_feat_sizes=[8, 8],
            memory_encoder_hidden_size=WIDTH,
            memory_encoder_output_channels=16,
            mask_downsampler_embed_dim=WIDTH,
            memory_fuser_num_layers=1,
            memory_fuser_embed_dim=WIDTH,
            memory_fuser_intermediate_dim=32,
            **STRONG,
        )
    )
    _save(model, folder)


def _parts() -> dict[str, Any]:
    """Hiera's own proportions: widths and heads double from stage to stage."""
    hiera = Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        image_size=[128, 128],
        blocks_per_stage=[1, 2, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[8, 4, 6, 2],
        global_attention_blocks=[4],
        **STRONG,
    )
    return {
        "vision_config": Sam2VisionConfig(
            backbone_config=hiera,
            backbone_channel_list=[64, 32, 16, 8],
            backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
            fpn_hidden_size=WIDTH,
            **STRONG,
        ),
        "prompt_encoder_config": Sam2PromptEncoderConfig(hidden_size=WIDTH, image_size=128, patch_size=16),
        "mask_decoder_config": Sam2MaskDecoderConfig(
            hidden_size=WIDTH, mlp_dim=64, num_attention_heads=4, iou_head_hidden_dim=WIDTH
        ),
    }


def _save(model: Any, folder: Path) -> None:
    hiera = model.vision_encoder.backbone
    for tensor in (hiera.pos_embed, hiera.pos_embed_window, model.no_memory_embedding):  # zero in a fresh model
        torch.nn.init.normal_(tensor)
    with torch.no_grad():  # two buffers, one meaning: so in every checkpoint
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(
            model.shared_image_embedding.positional_embedding
        )
    model.save_pretrained(folder)
    pixels = {"image_mean": SAM2_MEAN, "image_std": SAM2_STD, "image_processor_type": "Sam2ImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))  # the class itself needs torchvision


@dataclass(frozen=True)
class Kind:
    """How to save a tiny model, and transformers' class that shows single images to it."""

    save: Callable[[Path], None]
    own: type[PreTrainedModel]


TINY = {
    "sam": Kind(save_sam, SamModel),
    "sam2": Kind(save_sam2, Sam2Model),
    "sam2_video": Kind(save_sam2_video, Sam2Model),
}
