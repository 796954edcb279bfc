"""LLaVA and SAM with random weights in the shapes of the true ones, saved to a folder and loaded as a user would.

`7b` is LLaVA-1.5-7B and SAM ViT-H. `small` keeps what ratios depend on (32 layers read at 14, 24 CLIP layers, 576 image
tokens, a 1024-pixel canvas for SAM with its windows) and has an eighth of every width: two of its costs, attention and
what is done per pixel, fall by 8 where the others fall by 64. `tiny` is for tests: its ratios say nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoModelForMaskGeneration,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    SamConfig,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from seglens.backbones import MLLM, Backbone, hide_loading_bars
from seglens.backbones.llava import Llava
from seglens.backbones.read_layer import Depth
from seglens.checkpoints.config import HeadConfig
from seglens.checkpoints.origin import Origin
from seglens.embedded.models import CHAT_TEMPLATE, make_tokenizer
from seglens.inference.frozen_models import Parts
from seglens.inference.segmenter import Segmenter
from seglens.methods import Lens, LensConfig, build_lens

PATCH, SAM_PATCH = 14, 16


@dataclass(frozen=True)
class Size:
    """Shapes of the MLLM, of its vision tower, of SAM and of the head."""

    vocabulary: int
    width: int
    feed_forward: int
    layers: int
    heads: int
    read: int  # the layer that LENS reads
    cells: int  # image tokens of a side
    vision_width: int
    vision_layers: int
    vision_heads: int
    sam_width: int
    sam_layers: int
    sam_heads: int
    canvas: int  # pixels of SAM's side
    window: int
    seen_whole: tuple[int, ...]  # layers of SAM without windows
    prompt_width: int
    prompt_heads: int
    encoder_width: int  # of the head's self-attention


SIZES = {
    "7b": Size(32064, 4096, 11008, 32, 32, 14, 24, 1024, 24, 16, 1280, 32, 16, 1024, 14, (7, 15, 23, 31), 256, 8, 2048),
    "small": Size(4008, 512, 1376, 32, 4, 14, 24, 128, 24, 2, 160, 32, 2, 1024, 14, (7, 15, 23, 31), 32, 4, 256),
    "tiny": Size(1024, 32, 88, 8, 4, 4, 6, 32, 3, 2, 32, 2, 2, 128, 4, (1,), 32, 4, 32),
}


def llava(
    size: Size, dtype: torch.dtype = torch.float32, attention: str | None = None
) -> LlavaForConditionalGeneration:
    vision = CLIPVisionConfig(
        hidden_size=size.vision_width,
        intermediate_size=4 * size.vision_width,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.vision_heads,
        image_size=PATCH * size.cells,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    image = make_tokenizer().convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image,
        vision_feature_layer=-2,
        image_seq_length=size.cells**2,
        tie_word_embeddings=False,
    )
    return AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=attention)


def sam_config(size: Size) -> SamConfig:
    width = size.prompt_width
    return SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=size.sam_width,
            mlp_dim=4 * size.sam_width,
            output_channels=width,
            num_hidden_layers=size.sam_layers,
            num_attention_heads=size.sam_heads,
            image_size=size.canvas,
            patch_size=SAM_PATCH,
            window_size=size.window,
            global_attn_indexes=list(size.seen_whole),
            num_pos_feats=width // 2,
        ),
        prompt_encoder_config=SamPromptEncoderConfig(hidden_size=width, image_size=size.canvas, patch_size=SAM_PATCH),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=width, mlp_dim=8 * width, num_attention_heads=size.prompt_heads, iou_head_hidden_dim=width
        ),
    )


def sam(size: Size, dtype: torch.dtype = torch.float32, attention: str | None = None) -> SamModel:
    model = AutoModelForMaskGeneration.from_config(sam_config(size), dtype=dtype, attn_implementation=attention)
    torch.nn.init.normal_(model.shared_image_embedding.positional_embedding)  # as in SAM; transformers draws hidden/2
    return model


def processor(size: Size) -> LlavaProcessor:
    side = PATCH * size.cells
    images = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return LlavaProcessor(
        images,
        make_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )


def backbone(model: LlavaForConditionalGeneration, size: Size) -> Backbone:
    """A model in memory as it would be loaded from a folder."""
    family = Llava(model, Llava.layout_of(model.config, None))
    return Backbone(MLLM.of(family, processor(size), Depth(size.read, size.layers, (size.read, size.read + 1))))


def half(device: torch.device | str) -> torch.dtype:
    """The MLLM's precision where it runs: bf16 on a GPU, fp32 on a CPU, as `Parts.load` has it."""
    return torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16


def save(size: Size, folder: Path, device: torch.device | str) -> None:
    """Both models with random weights, made where there is room and speed for them."""
    hide_loading_bars()
    torch.manual_seed(0)
    with torch.device(device):
        llava(size, half(device)).save_pretrained(folder / "mllm")
        sam(size).save_pretrained(folder / "sam")
    processor(size).save_pretrained(folder / "mllm")


def load(size: Size, folder: Path, device: torch.device | str) -> Parts:
    """The saved models as frozen parts, every layer there so that the MLLM can talk."""
    origins = Origin.of(str(folder / "mllm")), Origin.of(str(folder / "sam"))
    return Parts.load(*origins, device=device, segmentation_only=False, layer=size.read, dtype=half(device))


def head_config(size: Size) -> LensConfig:
    return replace(LensConfig(), encoder_width=size.encoder_width)


def head(size: Size, parts: Parts) -> Lens:
    """A fresh head on the parts, in fp32 on their device."""
    torch.manual_seed(0)
    return build_lens(head_config(size), parts.backbone, parts.decoder).to(parts.decoder.device)


def segmenter(size: Size, parts: Parts) -> Segmenter:
    names = (Origin(str(part.name)) for part in (parts.backbone, parts.decoder))
    settings: dict[str, Any] = asdict(head_config(size))
    backbone, decoder = names
    config = HeadConfig("lens", settings, backbone, size.read, decoder)
    return Segmenter(parts.backbone, parts.decoder, head(size, parts), config)
