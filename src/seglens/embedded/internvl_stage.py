"""The second embedded MLLM: an InternVL whose ViT and LLaMA start as the embedded LLaVA's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    AutoModelForImageTextToText,
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVisionConfig,
    LlavaForConditionalGeneration,
)
from transformers.video_processing_utils import VideoProcessorMixin

from seglens.backbones.processors import without_videos
from seglens.embedded.models import (
    CHAT_TEMPLATE,
    IMAGE_MEAN,
    IMAGE_STD,
    LLAVA,
    PATCH,
    VISION,
    VisionSize,
    make_tokenizer,
    text_config,
)

INTERNVL = VisionSize(patches=16, tokens=8, image="<IMG_CONTEXT>", before="<img>", after="</img>")
INTERNVL_TOKENS = {
    "start_image_token": INTERNVL.before,
    "end_image_token": INTERNVL.after,
    "context_image_token": INTERNVL.image,
    "video_token": "<video>",
}


def make_internvl_processor() -> InternVLProcessor:
    """Shows one tile, the whole image, whatever its shape."""
    images = GotOcr2ImageProcessorPil(
        size={"height": INTERNVL.side, "width": INTERNVL.side},
        max_patches=1,
        resample=2,
        image_mean=IMAGE_MEAN,
        image_std=IMAGE_STD,
    )
    return without_videos(InternVLProcessor)(
        images,
        make_tokenizer(INTERNVL_TOKENS),
        VideoProcessorMixin(),
        image_seq_length=INTERNVL.tokens**2,
        chat_template=CHAT_TEMPLATE.replace(LLAVA.image, INTERNVL.image),
    )


def make_internvl(vocabulary_size: int, image_token: int, attention: str = "eager") -> InternVLForConditionalGeneration:
    """InternVL with an InternViT of the embedded LLaVA's size on 16 x 16 patches, folded to 8 x 8 image tokens."""
    vision = InternVLVisionConfig(
        **VISION,
        image_size=INTERNVL.side,
        patch_size=PATCH,
        attention_bias=True,
        layer_norm_eps=1e-5,
        layer_scale_init_value=1.0,
    )
    config = InternVLConfig(
        vision_config=vision,
        text_config=text_config(vocabulary_size),
        image_token_id=image_token,
        image_seq_length=INTERNVL.tokens**2,
        downsample_ratio=1 / INTERNVL.fold,
        tie_word_embeddings=True,
    )
    return AutoModelForImageTextToText.from_config(config, attn_implementation=attention)


@torch.no_grad()
def start_from_llava(
    llava: LlavaForConditionalGeneration, internvl: InternVLForConditionalGeneration, images: Tensor
) -> None:
    """Start `internvl` from a trained `llava`.

    The LLaMA and the layers of the ViT are copied; new words are the mean of the old. CLIP normalises its embeddings
    and InternViT does not: that norm is folded into kernel and positions, exact but for its divisor, which becomes its
    mean over `images`, pixels of "b 3 s s". The projector takes the mean of the patches that it folds."""
    tower, new_tower = llava.model.vision_tower, internvl.model.vision_tower
    _embeddings(tower, new_tower, images)
    for layer, new in zip(tower.encoder.layers, new_tower.encoder.layer, strict=True):
        for old, target in _pairs(layer, new):
            target.load_state_dict(old.state_dict())
        new.lambda_1.fill_(1)
        new.lambda_2.fill_(1)
    _projector(llava, internvl, new_tower(images).last_hidden_state[:, 1:])
    words, new_words = (m.model.language_model.embed_tokens.weight for m in (llava, internvl))
    state = llava.model.language_model.state_dict()
    known = len(words)
    state["embed_tokens.weight"] = torch.cat([words, words.mean(0).expand(len(new_words) - known, -1)])
    internvl.model.language_model.load_state_dict(state)


def _pairs(layer: Any, new: Any) -> list[tuple[nn.Module, nn.Module]]:
    """The parts of a CLIP layer with their places in an InternViT layer."""
    old, target = layer.self_attn, new.attention
    return [
        (old.q_proj, target.q_proj),
        (old.k_proj, target.k_proj),
        (old.v_proj, target.v_proj),
        (old.out_proj, target.projection_layer),
        (layer.layer_norm1, new.layernorm_before),
        (layer.layer_norm2, new.layernorm_after),
        (layer.mlp.fc1, new.mlp.fc1),
        (layer.mlp.fc2, new.mlp.fc2),
    ]


def _embeddings(tower: Any, new_tower: Any, images: Float[Tensor, "b 3 s s"]) -> None:
    old, new, norm = tower.embeddings, new_tower.embeddings, tower.pre_layrnorm
    positions = old.position_embedding.weight
    spread = rearrange(positions[1:], "(h w) c -> 1 c h w", h=LLAVA.patches)
    spread = F.interpolate(spread, size=(INTERNVL.patches, INTERNVL.patches), mode="bicubic", align_corners=False)
    spread = rearrange(spread, "1 c h w -> (h w) c")
    kernel = old.patch_embedding.weight
    rows = rearrange(F.conv2d(images, kernel, stride=PATCH), "b c h w -> b (h w) c") + spread
    scale = norm.weight / (rows.var(-1, unbiased=False) + norm.eps).sqrt().mean()
    new.patch_embeddings.projection.weight.copy_(scale[:, None, None, None] * (kernel - kernel.mean(0)))
    new.patch_embeddings.projection.bias.zero_()
    new.position_embeddings[0, 1:] = scale * (spread - spread.mean(-1, keepdim=True)) + norm.bias
    new.cls_token.zero_()
    new.position_embeddings[0, 0] = norm(old.class_embedding + positions[0])


def _projector(
    llava: LlavaForConditionalGeneration, internvl: InternVLForConditionalGeneration, patches: Float[Tensor, "b p c"]
) -> None:
    old, new, folded = llava.model.multi_modal_projector, internvl.model.multi_modal_projector, INTERNVL.fold**2
    new.layer_norm.weight.copy_(patches.std(-1).mean().expand_as(new.layer_norm.weight))
    new.layer_norm.bias.copy_(patches.mean().expand_as(new.layer_norm.bias))
    new.linear_1.weight.copy_(old.linear_1.weight.repeat(1, folded) / folded)
    new.linear_1.bias.copy_(old.linear_1.bias)
    new.linear_2.load_state_dict(old.linear_2.state_dict())
