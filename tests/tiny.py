"""Tiny MLLMs of the real transformers classes, with random weights and their own processors, saved as on the hub.

One entry of `KINDS` per architecture that a user may bring; a family of the package may have several."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GemmaTokenizer,
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vMoeConfig,
    Glm4vMoeForConditionalGeneration,
    Glm46VConfig,
    Glm46VForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    Lfm2Config,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Molmo2Config,
    Molmo2ForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.gemma3.processing_gemma3 import Gemma3Processor
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.glm4v.processing_glm4v import Glm4vProcessor
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil
from transformers.models.glm46v.processing_glm46v import Glm46VProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.lfm2_vl.processing_lfm2_vl import Lfm2VlProcessor
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor
from transformers.models.molmo2.image_processing_molmo2 import Molmo2ImageProcessor
from transformers.models.molmo2.processing_molmo2 import Molmo2Processor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import convert_image_to_patches
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.processing_smolvlm import SmolVLMProcessor
from transformers.video_processing_utils import VideoProcessorMixin

from seglens.backbones.lfm2_images import Lfm2Images
from seglens.backbones.processors import without_torchvision, without_videos
from seglens.core.geometry import Canvas as Laid
from seglens.embedded.models import CHAT_TEMPLATE, make_llava, make_processor, make_tokenizer

STRONG = {"initializer_range": 0.1}  # random layers that say something: at 0.02 every layer is nearly the identity
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}IMAGE{% else %}{{ item['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
Canvas = Callable[[PreTrainedModel, Any, Tensor, Tensor], dict[str, Any]]


def one_image(model: PreTrainedModel, processor: Any, canvas: Tensor, ids: Tensor) -> dict[str, Any]:
    """What the bare model is given for a canvas (3 s s) and the tokens of a whole conversation."""
    return {"input_ids": ids, "pixel_values": canvas[None]}


@dataclass(frozen=True)
class Kind:
    """How to make a tiny model and its processor, how to load it, and how the bare class is given a canvas."""

    model: Callable[[], PreTrainedModel]
    processor: Callable[[], Any]
    canvas: Canvas = one_image
    options: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        torch.manual_seed(0)
        model = self.model()
        for name, parameter in model.get_decoder().named_parameters():
            if name.endswith("bias"):
                parameter.data.normal_(std=0.1)  # transformers starts them at nothing
        model.save_pretrained(folder)
        save_processor(self.processor(), folder)


def save_processor(processor: Any, folder: Path) -> None:
    """As hub repositories hold it: a file per part. (Its own `save_pretrained` wants the part for videos.)"""
    processor.tokenizer.save_pretrained(folder)
    if isinstance(processor.image_processor, Lfm2Images):  # by the name of transformers' own class
        images = {**processor.image_processor.to_dict(), "image_processor_type": "Lfm2VlImageProcessorFast"}
        (folder / "preprocessor_config.json").write_text(json.dumps(images))
    else:
        processor.image_processor.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(processor.chat_template)
    settings = {
        key: value for key, value in vars(processor).items() if isinstance(value, str | int) and key != "chat_template"
    }
    (folder / "processor_config.json").write_text(json.dumps({**settings, "processor_class": type(processor).__name__}))


# ---------------------------------------------------------------- LLaVA-1.5 and its like: one token per word


def words() -> dict[str, Any]:
    return {"vocab_size": len(make_tokenizer()), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def llava(vision: PreTrainedConfig, text: PreTrainedConfig, tokens: int, **how: Any) -> PreTrainedModel:
    image = make_tokenizer().convert_tokens_to_ids("<image>")
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=image,
            image_seq_length=tokens,
            tie_word_embeddings=text.tie_word_embeddings,
            **how,
        )
    )


def llava_processor(images: Any, strategy: str, extra: int) -> LlavaProcessor:
    return LlavaProcessor(
        images,
        make_tokenizer(),
        patch_size=14,
        vision_feature_select_strategy=strategy,
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=extra,
    )


def llava_1_5() -> PreTrainedModel:
    """LLaVA-1.5-7B in its proportions: CLIP with a class token read at -2, patch 14; LLaMA, FFN 2.7 times the width."""
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=84,
        patch_size=14,
        **STRONG,
    )
    text = LlamaConfig(
        hidden_size=64, intermediate_size=172, num_hidden_layers=8, num_attention_heads=4, **words(), **STRONG
    )
    return llava(vision, text, 36, vision_feature_layer=-2)


def llava_qwen() -> PreTrainedModel:
    """What differs elsewhere: SigLIP without a class token, grouped keys, biases, tied embeddings."""
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14
    )
    text = Qwen2Config(
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        **words(),
        **STRONG,
    )
    return llava(vision, text, 25, vision_feature_layer=-1, vision_feature_select_strategy="full")


def embedded() -> PreTrainedModel:
    tokenizer = make_processor().tokenizer
    return make_llava(len(tokenizer), tokenizer.convert_tokens_to_ids("<image>"))


TILES = [[56, 112], [112, 56], [112, 112]]


def llava_next() -> PreTrainedModel:
    """LLaVA-NeXT with its CLIP as in 1.5; a chat adds tiles."""
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        **STRONG,
    )
    text = LlamaConfig(
        hidden_size=64, intermediate_size=160, num_hidden_layers=6, num_attention_heads=4, **words(), **STRONG
    )
    image = make_tokenizer().convert_tokens_to_ids("<image>")
    return LlavaNextForConditionalGeneration(
        LlavaNextConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=image,
            image_seq_length=16,
            vision_feature_layer=-2,
            image_grid_pinpoints=TILES,
        )
    )


def llava_next_processor() -> LlavaNextProcessor:
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, image_grid_pinpoints=TILES
    )
    return LlavaNextProcessor(
        images,
        make_tokenizer(),
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )


def base_tile(model: PreTrainedModel, processor: Any, canvas: Tensor, ids: Tensor) -> dict[str, Any]:
    """transformers has no way to show a single tile, so its parts are put together here."""
    config = model.config
    tower = model.model.vision_tower(canvas[None], output_hidden_states=True)
    states = tower.hidden_states[config.vision_feature_layer]
    states = states[:, 1:] if config.vision_feature_select_strategy == "default" else states
    embedded = model.get_input_embeddings()(ids)
    embedded[ids == config.image_token_id] = model.model.multi_modal_projector(states)[0].to(embedded)
    return {"inputs_embeds": embedded}


# ---------------------------------------------------------------- the rest: Qwen's tokenizer, one token per byte


def letters(**named: str) -> Qwen2Tokenizer:
    """Qwen's own tokenizer without merges; `named` tokens as the hub's tokenizer_config.json names them."""
    vocabulary = {letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    return Qwen2Tokenizer(
        vocabulary,
        [],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        extra_special_tokens={"start_token": "<|im_start|>", **named},
    )


def text_of(tokenizer: Qwen2Tokenizer, **how: Any) -> dict[str, Any]:
    ids = {f"{part}_token_id": getattr(tokenizer, f"{part}_token_id") for part in ("eos", "pad")}
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": None,
        **ids,
        **STRONG,
        **how,
    }


def onevision_tokenizer() -> Qwen2Tokenizer:
    return letters(image_token="<image>", video_token="<video>")


def onevision(rule: str = "anyres_max_9") -> PreTrainedModel:
    tokenizer = onevision_tokenizer()
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=40,
        patch_size=8,
        vision_use_head=False,
        **STRONG,
    )
    return LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(
            vision_config=vision,
            text_config=Qwen2Config(**text_of(tokenizer)),
            image_token_index=tokenizer.image_token_id,
            video_token_index=tokenizer.video_token_id,
            image_grid_pinpoints=PINPOINTS,
            vision_aspect_ratio=rule,
        )
    )


PINPOINTS = [[40, 40], [40, 80], [80, 40], [80, 80]]


def onevision_processor(rule: str = "anyres_max_9") -> LlavaOnevisionProcessor:
    images = LlavaOnevisionImageProcessorPil(size={"height": 40, "width": 40}, image_grid_pinpoints=PINPOINTS)
    return without_videos(LlavaOnevisionProcessor)(
        images,
        onevision_tokenizer(),
        VideoProcessorMixin(),
        num_image_tokens=25,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=rule,
        chat_template=CHATML.replace("IMAGE", "<image>\n"),
    )


def internvl_tokenizer() -> Qwen2Tokenizer:
    return letters(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )


def internvl(side: int = 64) -> PreTrainedModel:
    tokenizer = internvl_tokenizer()
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": side,
        "patch_size": 8,
        "attention_bias": True,
        **STRONG,
    }
    return InternVLForConditionalGeneration(
        InternVLConfig(
            vision_config=vision,
            text_config=Qwen2Config(**text_of(tokenizer)),
            image_seq_length=(side // 16) ** 2,
            image_token_id=tokenizer.context_image_token_id,
            tie_word_embeddings=False,
        )
    )


def internvl_processor(side: int = 64, tiles: int = 4) -> InternVLProcessor:
    images = GotOcr2ImageProcessorPil(size={"height": side, "width": side}, crop_to_patches=True, max_patches=tiles)
    return without_videos(InternVLProcessor)(
        images,
        internvl_tokenizer(),
        VideoProcessorMixin(),
        image_seq_length=(side // 16) ** 2,
        chat_template=CHATML.replace("IMAGE", "<IMG_CONTEXT>\n"),
    )


IDEFICS3_TEMPLATE = (  # as its repositories have it: the image comes straight after the colon
    "BEGIN{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}"
    "{% for item in message['content'] %}{% if item['type'] == 'text' %}{{ item['text'] }}"
    "{% elif item['type'] == 'image' %}<image>{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def idefics3_tokenizer() -> Qwen2Tokenizer:
    return letters(
        fake_image_token="<fake_token_around_image>",
        image_token="<image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
        video_token="<video>",
    )


def idefics3_like(
    model_class: type[PreTrainedModel], config: type[PreTrainedConfig], side: int, shuffle: int, **how: Any
) -> Any:
    tokenizer = idefics3_tokenizer()
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": side,
        "patch_size": 4,
        **STRONG,
    }
    text = LlamaConfig(
        **{**text_of(tokenizer, **how), "eos_token_id": tokenizer.end_of_utterance_token_id},
        max_position_embeddings=8192,
    )
    return model_class(
        config(
            vision_config=vision,
            text_config=text,
            scale_factor=shuffle,
            image_token_id=tokenizer.image_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=text.tie_word_embeddings,
        )
    )


def idefics3() -> PreTrainedModel:
    return idefics3_like(Idefics3ForConditionalGeneration, Idefics3Config, 40, 2, tie_word_embeddings=True)


def smolvlm() -> PreTrainedModel:
    """SmolVLM2-256M in its proportions: pixel-shuffle of 4 x 4 patches, three heads for each key."""
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 60}
    return idefics3_like(SmolVLMForConditionalGeneration, SmolVLMConfig, 64, 4, **heads)


def idefics3_processor() -> Idefics3Processor:
    images = Idefics3ImageProcessorPil(size={"longest_edge": 40}, max_image_size={"longest_edge": 40})
    return Idefics3Processor(images, idefics3_tokenizer(), 25, IDEFICS3_TEMPLATE.replace("BEGIN", ""))


def smolvlm_processor() -> SmolVLMProcessor:
    images = SmolVLMImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 64})
    videos = VideoProcessorMixin(num_frames=None, fps=None)
    template = IDEFICS3_TEMPLATE.replace("BEGIN", "<|im_start|>")
    return without_videos(SmolVLMProcessor)(images, idefics3_tokenizer(), videos, 16, template)


def idefics3_canvas(model: PreTrainedModel, processor: Any, canvas: Tensor, ids: Tensor) -> dict[str, Any]:
    """One picture of one conversation, all of its pixels inside the mask, as the processor states them."""
    mask = torch.ones(1, 1, *canvas.shape[1:], dtype=torch.long)
    return {"input_ids": ids, "pixel_values": canvas[None, None], "pixel_attention_mask": mask}


LFM2_TEMPLATE = (  # as LiquidAI/LFM2-VL-450M has it
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<image>' }}{% elif content['type'] == 'text' %}{{ content['text'] }}"
    "{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def lfm2_tokenizer() -> Qwen2Tokenizer:
    marks = {"image_start_token": "<|image_start|>", "image_end_token": "<|image_end|>"}
    tokenizer = letters(image_token="<image>", image_thumbnail="<|img_thumbnail|>", **marks)
    tokenizer.add_special_tokens({"bos_token": "<|startoftext|>"})
    return tokenizer


def lfm2_vl() -> PreTrainedModel:
    """LFM2-VL-450M in its proportions: attention at every second or third layer, the others short convolutions."""
    tokenizer = lfm2_tokenizer()
    vision = {
        "model_type": "siglip2_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_patches": 36,
        "patch_size": 4,
        "vision_use_head": False,
    }
    kinds = {"f": "full_attention", "c": "conv"}
    text = {
        **text_of(tokenizer, num_hidden_layers=9, bos_token_id=tokenizer.bos_token_id),
        "layer_types": [kinds[letter] for letter in "ccfcfcfcf"],
        "block_multiple_of": 8,
    }
    return Lfm2VlForConditionalGeneration(
        Lfm2VlConfig(
            vision_config=vision,
            text_config=Lfm2Config(**text),
            image_token_id=tokenizer.image_token_id,
            projector_hidden_size=48,
            projector_use_layernorm=False,
        )
    )


def lfm2_processor() -> Lfm2VlProcessor:
    images = Lfm2Images(min_image_tokens=4, max_image_tokens=16, encoder_patch_size=4, tile_size=32)
    return without_videos(Lfm2VlProcessor)(images, lfm2_tokenizer(), LFM2_TEMPLATE)


def lfm2_canvas(model: PreTrainedModel, processor: Any, canvas: Tensor, ids: Tensor) -> dict[str, Any]:
    rows = convert_image_to_patches(canvas.float().numpy(), 4)
    side = canvas.shape[1] // 4
    return {
        "input_ids": ids,
        "pixel_values": torch.from_numpy(rows)[None].to(canvas),
        "pixel_attention_mask": torch.ones(1, len(rows), dtype=torch.int32),
        "spatial_shapes": torch.tensor([[side, side]]),
    }


def qwen_tokenizer() -> Qwen2Tokenizer:
    return letters(
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
        image_token="<|image_pad|>",
        video_token="<|video_pad|>",
    )


def qwen(
    model_class: type[PreTrainedModel], config: type[PreTrainedConfig], vision: dict, sections: list, **how: Any
) -> Any:
    tokenizer = qwen_tokenizer()
    shared = {"depth": 3, "num_heads": 2, "patch_size": 4, **STRONG, **vision}
    rotary = {"rope_type": "default", "mrope_section": sections, "rope_theta": 1e4}
    ids = {f"{part}_token_id": getattr(tokenizer, f"{part}_token_id") for part in ("image", "video", "vision_start")}
    text = text_of(tokenizer, rope_parameters=rotary, **how)
    return model_class(config(vision_config=shared, text_config=text, tie_word_embeddings=True, **ids))


def qwen2_vl() -> PreTrainedModel:
    return qwen(Qwen2VLForConditionalGeneration, Qwen2VLConfig, {"embed_dim": 32, "hidden_size": 64}, [2, 3, 3])


def qwen2_5_vl() -> PreTrainedModel:
    """With windows of 2 x 2 cells in the tower, all but one layer of it."""
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "out_hidden_size": 64,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    return qwen(Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig, vision, [2, 3, 3])


def qwen3_vl() -> PreTrainedModel:
    """With two depths of the tower added after the first two decoder layers, and heads wider than their share."""
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "out_hidden_size": 64,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }
    model_class, config = Qwen3VLForConditionalGeneration, Qwen3VLConfig
    return qwen(model_class, config, vision, [4, 2, 2], head_dim=20)


def qwen3_vl_moe() -> PreTrainedModel:
    """Qwen3-VL whose decoder layers each choose two of four experts for a token."""
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "out_hidden_size": 64,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }
    model_class, config = Qwen3VLMoeForConditionalGeneration, Qwen3VLMoeConfig
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    return qwen(model_class, config, vision, [4, 2, 2], head_dim=20, **experts)


GLM_TEMPLATE = (  # what GLM's own makes of a question about an image
    "[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>\n"
    "{% if message['role'] == 'system' %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}<|begin_of_image|><|image|><|end_of_image|>"
    "{% else %}{{ item['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def glm_tokenizer() -> Qwen2Tokenizer:
    names = {f"{word}_{of}_token": f"<|{word}_of_{of}|>" for word in ("begin", "end") for of in ("image", "video")}
    turns = {f"{role}_token": f"<|{role}|>" for role in ("system", "user", "assistant")}
    return letters(mask_start_token="[gMASK]", sop_token="<sop>", image_token="<|image|>", **names, **turns)


def glm(model_class: type[PreTrainedModel], config: type[PreTrainedConfig], **how: Any) -> Any:
    """Of GLM-4.1V: half of each head turns, biases of q, k and v, norms before and after, gate and up in one layer."""
    tokenizer = glm_tokenizer()
    vision = {
        "depth": 4,
        "num_heads": 2,
        "hidden_size": 32,
        "out_hidden_size": 64,
        "intermediate_size": 96,
        "image_size": 24,
        "patch_size": 4,
        "initializer_range": 0.05,
    }
    rotary = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    text = text_of(tokenizer, rope_parameters=rotary, **how)
    ids = {
        "image_start_token_id": tokenizer.begin_image_token_id,
        "image_end_token_id": tokenizer.end_image_token_id,
        "video_start_token_id": tokenizer.begin_video_token_id,
        "video_end_token_id": tokenizer.end_video_token_id,
        "image_token_id": tokenizer.image_token_id,
        "video_token_id": len(tokenizer),
    }
    return model_class(config(vision_config=vision, text_config=text, tie_word_embeddings=False, **ids))


def glm4v_moe() -> PreTrainedModel:
    """GLM-4.5V: its first decoder layer is dense, the others choose two of four experts and always run a shared one;
    its heads are wider than their share, and their number does not divide the width."""
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 48}
    heads = {"num_attention_heads": 6, "head_dim": 16}
    return glm(Glm4vMoeForConditionalGeneration, Glm4vMoeConfig, **heads, **experts)


def glm_processor(processor: Any, images: Any) -> Any:
    tiny_images = images(patch_size=4, size={"shortest_edge": 16**2, "longest_edge": 48**2})
    return without_videos(processor)(tiny_images, glm_tokenizer(), VideoProcessorMixin(), chat_template=GLM_TEMPLATE)


def glm4v_processor() -> Glm4vProcessor:
    return glm_processor(Glm4vProcessor, Glm4vImageProcessorPil)


def qwen_images(**how: Any) -> Qwen2VLImageProcessorPil:
    return Qwen2VLImageProcessorPil(patch_size=4, size={"shortest_edge": 16**2, "longest_edge": 48**2}, **how)


def qwen_template() -> str:
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    return system + CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")


def qwen2_vl_processor() -> Qwen2VLProcessor:
    return without_videos(Qwen2VLProcessor)(
        qwen_images(), qwen_tokenizer(), VideoProcessorMixin(), chat_template=qwen_template()
    )


def qwen3_vl_processor() -> Qwen3VLProcessor:
    half = [0.5] * 3
    images = qwen_images(image_mean=half, image_std=half)
    return without_videos(Qwen3VLProcessor)(
        images, qwen_tokenizer(), VideoProcessorMixin(), chat_template=qwen_template()
    )


def qwen_canvas(model: PreTrainedModel, processor: Any, canvas: Tensor, ids: Tensor) -> dict[str, Any]:
    images = processor.image_processor
    cut, rows, columns = images.patchify(
        canvas.float().numpy(), images.patch_size, images.merge_size, images.temporal_patch_size
    )
    return {
        "input_ids": ids,
        "pixel_values": torch.from_numpy(cut).to(canvas),
        "image_grid_thw": torch.tensor([[1, rows, columns]]),
        "mm_token_type_ids": (ids == model.config.image_token_id).int(),
    }


# ---------------------------------------------------------------- Gemma 3: windows, and images that see themselves

GEMMA_TEMPLATE = (  # as google/gemma-3-4b-it has it, for conversations of questions about images
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set first = messages[0]['content'][0]['text'] + '\n\n' %}{% set turns = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}{% for message in turns %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ first if loop.first else '' }}{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}<start_of_image>{% else %}{{ item['text'] | trim }}{% endif %}{% endfor %}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
GEMMA_MARKS = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}


def gemma_tokenizer() -> GemmaTokenizer:
    """Gemma's own with its first special tokens, all bytes and the only words that it joins here: two line ends."""
    turns = {"start_token": "<start_of_turn>", "end_token": "<end_of_turn>"}
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *turns.values(), *GEMMA_MARKS.values()]
    letters = [*(f"<0x{n:02X}>" for n in range(256)), "▁", "\n", "\n\n", *map(chr, range(ord("a"), ord("z") + 1))]
    vocabulary = {token: n for n, token in enumerate([*special, *letters])}
    return GemmaTokenizer(
        vocabulary, [("\n", "\n")], add_bos_token=True, padding_side="left", extra_special_tokens=GEMMA_MARKS | turns
    )


def gemma3() -> PreTrainedModel:
    """Gemma-3-4B in its proportions: a mean of 4 x 4 patches, two layers with a window before each without, a rotary
    base for each kind, and heads whose scale is not that of their width."""
    tokenizer = gemma_tokenizer()
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 48,
        "patch_size": 3,
        "vision_use_head": False,
        "model_type": "siglip_vision_model",
        **STRONG,
    }
    text = text_of(tokenizer, head_dim=20, query_pre_attn_scalar=24, sliding_window=1024, sliding_window_pattern=3)
    scaling = {"rope_type": "linear", "factor": 8.0}
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(
            vision_config=vision,
            text_config={**text, "bos_token_id": tokenizer.bos_token_id, "rope_scaling": scaling},
            mm_tokens_per_image=16,
            image_token_index=tokenizer.image_token_id,
            boi_token_index=tokenizer.boi_token_id,
            eoi_token_index=tokenizer.eoi_token_id,
        )
    )
    model.model.multi_modal_projector.mm_input_projection_weight.data.normal_(std=0.2)  # transformers starts it at 0
    return model


def gemma3_processor() -> Gemma3Processor:
    images = Gemma3ImageProcessorPil(size={"height": 48, "width": 48})
    return Gemma3Processor(images, gemma_tokenizer(), GEMMA_TEMPLATE, image_seq_length=16)


def gemma3_canvas(model: PreTrainedModel, processor: Any, canvas: Tensor, ids: Tensor) -> dict[str, Any]:
    """With the types of tokens that make an image see itself."""
    types = (ids == model.config.image_token_id).int()
    return {"input_ids": ids, "pixel_values": canvas[None], "token_type_ids": types}


# ---------------------------------------------------------------- Molmo 2: crops that overlap, and pooled patches

MOLMO_TEMPLATE = (  # as allenai/Molmo2-4B has it, for conversations of questions about images
    "{% set count = namespace(value=0) %}{% for message in messages %}{% if message['content'] is not string %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{% set count.value = count.value + 1 %}"
    "{% endif %}{% endfor %}{% endif %}{% endfor %}"
    "{% if count.value == 1 %}{{ '<|image|>' }}{% elif count.value > 1 %}{% for i in range(count.value) %}"
    "{{ 'Image ' ~ (i + 1) ~ '<|image|>' }}{% endfor %}{% endif %}"
    "{% for message in messages %}{% set role = message['role'] %}"
    "{% if role != ('user' if loop.index % 2 == 1 else 'assistant') %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['content'] is string %}{% set text_content = message['content'] %}{% else %}"
    "{% set m = namespace(text='') %}{% for content in message['content'] %}{% if content['type'] == 'text' %}"
    "{% set m.text = m.text ~ ('' if not m.text else ' ') ~ content['text'] %}{% endif %}{% endfor %}"
    "{% set text_content = m.text %}{% endif %}"
    "{% if role == 'user' %}{% if not loop.first %}{{ '<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>user\n' }}{{ text_content }}{{ '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>assistant\n' }}{{ text_content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MOLMO_MARKS = {
    "image_start": "<im_start>",
    "image_end": "<im_end>",
    "image_patch": "<im_patch>",
    "image_col": "<im_col>",
    "low_res_image_start": "<low_res_im_start>",
    "frame_start": "<frame_start>",
    "frame_end": "<frame_end>",
    "image_low_res": "<im_low>",
}


def molmo_tokenizer() -> Qwen2Tokenizer:
    return letters(image_token="<|image|>", video_token="<|video|>", **{f"{k}_mark": v for k, v in MOLMO_MARKS.items()})


def molmo2() -> PreTrainedModel:
    """Molmo2-4B in its proportions: crops of 11 x 11 patches, of which neighbours share 8; two layers of the tower."""
    tokenizer = molmo_tokenizer()
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "image_size": [33, 33],
        "patch_size": 3,
        **STRONG,
    }
    adapter = {
        "vision_feature_layer": [2, 0],
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 64,
        "text_hidden_size": 64,
        **STRONG,
    }
    text = text_of(tokenizer, head_dim=20, vocab_size=len(tokenizer) - 8, additional_vocab_size=8)
    marks = {name: tokenizer.convert_tokens_to_ids(token) for name, token in MOLMO_MARKS.items()}
    ids = {f"{name}_token_id": marks[name] for name in MOLMO_MARKS if name not in ("image_patch", "image_col")}
    return Molmo2ForConditionalGeneration(
        Molmo2Config(
            vision_config=vision,
            adapter_config=adapter,
            text_config={**text, "rope_parameters": {"rope_type": "default", "rope_theta": 5e6}},
            image_patch_id=marks["image_patch"],
            image_col_id=marks["image_col"],
            **ids,
        )
    )


def molmo2_processor() -> Molmo2Processor:
    images = without_torchvision(Molmo2ImageProcessor)(size={"height": 33, "width": 33}, patch_size=3)
    return without_videos(Molmo2Processor)(
        images, VideoProcessorMixin(), molmo_tokenizer(), MOLMO_TEMPLATE, use_single_crop_col_tokens=False
    )


def molmo2_canvas(model: PreTrainedModel, processor: Any, canvas: Tensor, ids: Tensor) -> dict[str, Any]:
    """Its own processor's, of a canvas that need not be scaled."""
    images = processor.image_processor
    given = images(canvas, do_rescale=False, do_normalize=False, do_convert_rgb=False, return_tensors="pt")
    given["pixel_values"] = given["pixel_values"].to(canvas.dtype)
    return {
        "input_ids": ids,
        "mm_token_type_ids": torch.isin(ids, torch.tensor(processor.image_token_ids)).int(),
        **given,
    }


# ---------------------------------------------------------------- in tiles, where a family has them


def tiles(canvas: Tensor, side: int) -> list[Tensor]:
    size = canvas.shape[-1]
    return [canvas[:, y : y + side, x : x + side] for y in range(0, size, side) for x in range(0, size, side)]


def overview(canvas: Tensor, side: int) -> Tensor:
    return interpolate(canvas[None].float(), (side, side), mode="bicubic", antialias=True)[0].to(canvas)


def internvl_tiles(model: PreTrainedModel, processor: Any, canvas: Tensor, ids: Tensor) -> dict[str, Any]:
    return {"input_ids": ids, "pixel_values": torch.stack([*tiles(canvas, 64), overview(canvas, 64)])}


def bare_tiles(model: PreTrainedModel, processor: Any, canvas: Tensor, ids: Tensor) -> dict[str, Any]:
    """Without a thumbnail, as the authors of SELF1E and UFO show them."""
    return {"input_ids": ids, "pixel_values": torch.stack(tiles(canvas, 64))}


def llava_tiles(model: PreTrainedModel, processor: Any, canvas: Tensor, ids: Tensor) -> dict[str, Any]:
    side = model.config.vision_config.image_size
    pixels = torch.stack([overview(canvas, side), *tiles(canvas, side)])
    return {"input_ids": ids, "pixel_values": pixels[None], "image_sizes": torch.tensor([canvas.shape[1:]])}


SMALL = {"image_size": 40}  # 5 x 5 cells: no whole number of windows
KINDS = {
    "llava-1.5": Kind(
        llava_1_5,
        lambda: llava_processor(
            CLIPImageProcessorPil(size={"shortest_edge": 84}, crop_size={"height": 84, "width": 84}), "default", 1
        ),
    ),
    "llava-qwen": Kind(
        llava_qwen, lambda: llava_processor(SiglipImageProcessorPil(size={"height": 70, "width": 70}), "full", 0)
    ),
    "embedded": Kind(embedded, make_processor),
    "llava-next": Kind(llava_next, llava_next_processor, base_tile),
    "llava-onevision": Kind(onevision, onevision_processor, base_tile),
    "internvl": Kind(internvl, internvl_processor),
    "idefics3": Kind(idefics3, idefics3_processor, idefics3_canvas),
    "smolvlm": Kind(smolvlm, smolvlm_processor, idefics3_canvas),
    "qwen2-vl": Kind(qwen2_vl, qwen2_vl_processor, qwen_canvas, {**SMALL, "layer": 3}),
    "qwen2.5-vl": Kind(qwen2_5_vl, qwen2_vl_processor, qwen_canvas, SMALL),
    "qwen3-vl": Kind(qwen3_vl, qwen3_vl_processor, qwen_canvas, SMALL),
    "glm4v": Kind(lambda: glm(Glm4vForConditionalGeneration, Glm4vConfig), glm4v_processor, qwen_canvas, SMALL),
    "glm46v": Kind(
        lambda: glm(Glm46VForConditionalGeneration, Glm46VConfig),
        lambda: glm_processor(Glm46VProcessor, Glm46VImageProcessorPil),
        qwen_canvas,
        SMALL,
    ),
    "gemma3": Kind(gemma3, gemma3_processor, gemma3_canvas),
    "lfm2-vl": Kind(lfm2_vl, lfm2_processor, lfm2_canvas, SMALL),
}
# their experts take no adapter of the usual kind: such MLLMs are read frozen
FROZEN = {
    "qwen3-vl-moe": Kind(qwen3_vl_moe, qwen3_vl_processor, qwen_canvas, SMALL),
    "glm4v-moe": Kind(glm4v_moe, glm4v_processor, qwen_canvas, SMALL),
}
TILED = {
    "internvl-tiles": Kind(internvl, internvl_processor, internvl_tiles, {"image_size": 128}),
    "llava-next-tiles": Kind(llava_next, llava_next_processor, llava_tiles, {"image_size": 112}),
    "llava-onevision-tiles": Kind(onevision, onevision_processor, llava_tiles, {"image_size": 80}),
}
# in crops that overlap, with their overview: such MLLMs are read frozen
CROPPED = {"molmo2": Kind(molmo2, molmo2_processor, molmo2_canvas)}
TUNED = {"internvl-bare-tiles": Kind(internvl, internvl_processor, bare_tiles, {"image_size": 128})}
SHAPED = {  # in tiles small enough that the pictures of tests have several
    "internvl-by-shape": Kind(
        lambda: internvl(32), lambda: internvl_processor(32, 6), options={"canvas": Laid(tiles=6)}
    ),
    "llava-next-by-shape": Kind(llava_next, llava_next_processor, options={"canvas": Laid(tiles=4)}),
    "llava-onevision-by-shape": Kind(
        lambda: onevision("anyres_max_2"),
        lambda: onevision_processor("anyres_max_2"),
        options={"canvas": Laid(tiles=4)},
    ),
}
EVERY = {**KINDS, **FROZEN, **TILED, **CROPPED, **TUNED, **SHAPED}
# their tests run among the slow ones; `backbones/test_quick_contract.py` has the essential of each
SLOW = ("idefics3", "smolvlm", "glm4v", "glm46v", "glm4v-moe", "gemma3", "molmo2", "lfm2-vl")


def by_speed(kinds: Iterable[str]) -> list[Any]:
    """The kinds as parameters of tests, those of `SLOW` marked."""
    return [pytest.param(kind, marks=pytest.mark.slow) if kind in SLOW else kind for kind in kinds]
