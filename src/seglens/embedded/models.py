"""The embedded MLLM and SAM: transformers' own classes at small sizes, with tokenizer and processor files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    AutoModelForMaskGeneration,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SamConfig,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from seglens.model_files.int8_weights import pack_folder
from seglens.world.language import vocabulary

PATCH = 16
IMAGE_MEAN, IMAGE_STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
SPECIAL = ("<pad>", "<s>", "</s>", "<image>", "<unk>")
VISION = {
    "hidden_size": 192,
    "intermediate_size": 640,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "hidden_act": "gelu_pytorch_tanh",
}
# The same conversation as LLaVA-1.5's own template
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}<image>\n"
    "{% else %}{{ item['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@dataclass(frozen=True)
class VisionSize:
    """The image of an embedded MLLM: patches and image tokens along a side of its square canvas, the word of an image
    token, and the words before and after all of them."""

    patches: int
    tokens: int
    image: str
    before: str = ""
    after: str = ""

    @property
    def side(self) -> int:
        """Of the canvas, in pixels."""
        return self.patches * PATCH

    @property
    def fold(self) -> int:
        """Patches along a side of an image token."""
        return self.patches // self.tokens


LLAVA = VisionSize(patches=12, tokens=12, image="<image>")
LLAVA_TOKENS = {"image_token": LLAVA.image}


def make_tokenizer(named: Mapping[str, str] = LLAVA_TOKENS, words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """One token per word of the world; everything else is `<unk>`. `named` are special tokens by the name under which
    a processor looks for them; those that are not `SPECIAL` come last, followed by `words` that are learnt later."""
    more = [token for token in named.values() if token not in SPECIAL]
    vocab = {word: i for i, word in enumerate([*SPECIAL, *vocabulary(), *more, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (*SPECIAL, *more)])
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=dict(named),
        padding_side="left",
    )


def make_processor(words: Sequence[str] = ()) -> LlavaProcessor:
    """`words` are known beside those of the world."""
    images = CLIPImageProcessorPil(
        size={"height": LLAVA.side, "width": LLAVA.side},
        do_center_crop=False,
        resample=2,
        image_mean=IMAGE_MEAN,
        image_std=IMAGE_STD,
    )
    return LlavaProcessor(
        images,
        make_tokenizer(words=words),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )


def text_config(vocabulary_size: int) -> LlamaConfig:
    """The 256-wide, 6-layer LLaMA of every embedded MLLM."""
    return LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def make_llava(vocabulary_size: int, image_token: int, attention: str = "eager") -> LlavaForConditionalGeneration:
    """LLaVA with a 192-wide, 6-layer CLIP ViT on 12 x 12 patches and a 256-wide, 6-layer LLaMA."""
    vision = CLIPVisionConfig(**VISION, image_size=LLAVA.side, patch_size=PATCH)
    text = text_config(vocabulary_size)
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=LLAVA.tokens**2,
        tie_word_embeddings=True,
    )
    return AutoModelForImageTextToText.from_config(config, attn_implementation=attention)


def make_sam(attention: str = "eager") -> SamModel:
    """SAM at 256 px with a 160-wide, 6-layer encoder and a 128-wide mask decoder."""
    width, side = 128, 256
    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=160,
            output_channels=width,
            num_hidden_layers=6,
            num_attention_heads=5,
            image_size=side,
            patch_size=PATCH,
            mlp_ratio=4.0,
            use_rel_pos=False,
            window_size=0,
            global_attn_indexes=list(range(6)),
            num_pos_feats=width // 2,
            initializer_range=0.02,
            hidden_act="gelu_pytorch_tanh",
        ),
        prompt_encoder_config=SamPromptEncoderConfig(hidden_size=width, image_size=side, patch_size=PATCH),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=width, mlp_dim=256, num_hidden_layers=2, num_attention_heads=4, iou_head_hidden_dim=width
        ),
    )
    sam = AutoModelForMaskGeneration.from_config(config, attn_implementation=attention)
    with torch.no_grad():
        # transformers starts the Fourier positions with a std of hidden/2, far too fine to learn from scratch
        position = torch.randn_like(sam.shared_image_embedding.positional_embedding)
        for holder in (sam.shared_image_embedding, sam.prompt_encoder.shared_embedding):
            holder.positional_embedding.copy_(position).requires_grad_(False)
        nn.init.trunc_normal_(sam.vision_encoder.pos_embed, std=0.02)
    return sam


def save_packed(model: PreTrainedModel, folder: Path) -> None:
    """Write a transformers model in int8, without touching the one in memory."""
    model.save_pretrained(folder)
    pack_folder(folder)
