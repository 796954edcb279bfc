"""Tiny models of the real transformers classes, with random weights, saved as anybody would save them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from decoders.tiny import save_sam
from seglens.backbones import Backbone, load_backbone
from seglens.data.world import WorldData
from seglens.decoders import MaskDecoder, load_decoder
from seglens.features import FeatureStore, collect
from seglens.miniature.models import CHAT_TEMPLATE, make_llava, make_processor, make_tokenizer
from seglens.segmenter import OpenedImage, Segmenter
from seglens.types import Sample

torch.set_num_threads(1)  # the suite runs in parallel processes
STRONG = {"initializer_range": 0.1}  # random layers that say something: at 0.02 every layer is nearly the identity


def _llava_1_5(folder: Path) -> None:
    """LLaVA-1.5-7B in its proportions: CLIP with a class token read at -2, patch 14; LLaMA, FFN 2.7 times the width."""
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, image_size=84,
        patch_size=14, **STRONG,
    )  # fmt: skip
    text = LlamaConfig(
        hidden_size=64, intermediate_size=172, num_hidden_layers=8, num_attention_heads=4, **_words(), **STRONG
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 84}, crop_size={"height": 84, "width": 84})
    _save(
        folder,
        LlavaConfig(vision_config=vision, text_config=text, vision_feature_layer=-2, **_image(36)),
        images,
        "default",
        extra=1,
    )


def _llava_qwen(folder: Path) -> None:
    """What differs elsewhere: SigLIP without a class token, grouped keys, biases, tied embeddings."""
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14
    )
    text = Qwen2Config(
        hidden_size=64, intermediate_size=160, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2,
        tie_word_embeddings=True, **_words(), **STRONG,
    )  # fmt: skip
    images = SiglipImageProcessorPil(size={"height": 70, "width": 70})
    config = LlavaConfig(
        vision_config=vision, text_config=text, vision_feature_layer=-1, vision_feature_select_strategy="full",
        tie_word_embeddings=True, **_image(25),
    )  # fmt: skip
    _save(folder, config, images, "full", extra=0)


def _miniature(folder: Path) -> None:
    processor = make_processor()
    tokenizer = processor.tokenizer
    make_llava(len(tokenizer), tokenizer.convert_tokens_to_ids("<image>")).save_pretrained(folder)
    processor.save_pretrained(folder)


def _words() -> dict:
    return {"vocab_size": len(make_tokenizer()), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _image(tokens: int) -> dict:
    return {"image_token_index": make_tokenizer().convert_tokens_to_ids("<image>"), "image_seq_length": tokens}


def _save(folder: Path, config: LlavaConfig, images: object, strategy: str, extra: int) -> None:
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        images, make_tokenizer(), patch_size=14, vision_feature_select_strategy=strategy,
        chat_template=CHAT_TEMPLATE, num_additional_image_tokens=extra,
    ).save_pretrained(folder)  # fmt: skip


FAMILIES: dict[str, Callable[[Path], None]] = {
    "llava-1.5": _llava_1_5,
    "llava-qwen": _llava_qwen,
    "miniature": _miniature,
}


@pytest.fixture(scope="session", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of each kind of MLLM in turn."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    FAMILIES[request.param](folder)
    return folder


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny LLaVA-1.5."""
    folder = tmp_path_factory.mktemp("llava")
    torch.manual_seed(0)
    _llava_1_5(folder)
    return folder


@pytest.fixture(scope="session")
def backbone(llava: Path) -> Backbone:
    return load_backbone(llava, attn_implementation="eager")


@pytest.fixture(scope="session")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny SAM, with windows, relative positions and its image processor's file."""
    folder = tmp_path_factory.mktemp("sam")
    torch.manual_seed(0)
    save_sam(folder)
    return folder


@pytest.fixture(scope="session")
def decoder(sam: Path) -> MaskDecoder:
    return load_decoder(sam)


@pytest.fixture
def picture() -> np.ndarray:
    """A landscape image of noise."""
    return np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)


# ---------------------------------------------------------------- the embedded model, and features of the tiny ones


@pytest.fixture(scope="session")
def segmenter() -> Segmenter:
    """The embedded model, as a user gets it."""
    return Segmenter.from_pretrained()


@pytest.fixture(scope="session")
def scene() -> Sample:
    """A scene of the world with three queries."""
    return WorldData(n=1, seed=5, queries=3)[0]


@pytest.fixture(scope="session")
def opened(segmenter: Segmenter, scene: Sample) -> OpenedImage:
    return segmenter.open(scene.image)


@pytest.fixture(scope="session")
def lessons() -> WorldData:
    """Six scenes to train on."""
    return WorldData(n=6, seed=3, split="train", queries=4)


@pytest.fixture(scope="session")
def store(lessons: WorldData, backbone: Backbone, decoder: MaskDecoder) -> FeatureStore:
    """What the tiny MLLM and the tiny SAM say of them."""
    return collect(lessons, backbone, decoder)
