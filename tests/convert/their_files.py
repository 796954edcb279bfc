"""A checkpoint of MLLMSeg as its released code saves one, under that code's own names, written out here once more.

The names are those of module attributes at commit a8fceda: `InternVisionModel` and `InternVLChatModel` of OpenGVLab,
its InternLM2, transformers' Qwen2 in 4.37, peft 0.10 around the language model, and `RESDecoder`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Size:
    """Of a language model: how wide, how many layers, heads and heads of keys, how wide inside, how many words."""

    d: int
    layers: int
    heads: int
    keys: int
    inner: int
    words: int
    internlm: bool
    image_token: int


SIZES = {  # the four of InternVL2.5 that the checkpoints are made from; all with InternViT-300M
    "1B": Size(896, 24, 14, 2, 4864, 151674, False, 151667),
    "2B": Size(2048, 24, 16, 8, 8192, 92553, True, 92546),
    "4B": Size(2048, 36, 16, 2, 11008, 151674, False, 151667),
    "8B": Size(4096, 32, 32, 8, 14336, 92553, True, 92546),
}


def vision_shapes(v: int = 1024, layers: int = 24, inner: int = 4096, patch: int = 14, patches: int = 1024) -> Shapes:
    at = "vision_model.embeddings."
    shapes: Shapes = {
        f"{at}class_embedding": (1, 1, v),
        f"{at}position_embedding": (1, patches + 1, v),
        f"{at}patch_embedding.weight": (v, 3, patch, patch),
        f"{at}patch_embedding.bias": (v,),
    }
    for n in range(layers):
        at = f"vision_model.encoder.layers.{n}."
        shapes |= {f"{at}{name}": (v,) for name in ("ls1", "ls2", "norm1.weight", "norm1.bias", "norm2.weight")}
        shapes |= {
            f"{at}norm2.bias": (v,),
            f"{at}attn.qkv.weight": (3 * v, v),
            f"{at}attn.qkv.bias": (3 * v,),
            f"{at}attn.proj.weight": (v, v),
            f"{at}attn.proj.bias": (v,),
            f"{at}mlp.fc1.weight": (inner, v),
            f"{at}mlp.fc1.bias": (inner,),
            f"{at}mlp.fc2.weight": (v, inner),
            f"{at}mlp.fc2.bias": (v,),
        }
    return shapes


def projector_shapes(d: int, v: int = 1024) -> Shapes:
    return {
        "mlp1.0.weight": (4 * v,),
        "mlp1.0.bias": (4 * v,),
        "mlp1.1.weight": (d, 4 * v),
        "mlp1.1.bias": (d,),
        "mlp1.3.weight": (d, d),
        "mlp1.3.bias": (d,),
    }


def language_shapes(size: Size) -> Shapes:
    """With two words more than the base model has."""
    d, inner, head = size.d, size.inner, size.d // size.heads
    start = "language_model.model."
    shapes: Shapes = {f"{start}norm.weight": (d,)}
    for n in range(size.layers):
        at = f"{start}layers.{n}."
        if size.internlm:
            shapes |= {
                f"{at}attention.wqkv.weight": ((size.heads + 2 * size.keys) * head, d),
                f"{at}attention.wo.weight": (d, d),
                f"{at}feed_forward.w1.weight": (inner, d),
                f"{at}feed_forward.w2.weight": (d, inner),
                f"{at}feed_forward.w3.weight": (inner, d),
                f"{at}attention_norm.weight": (d,),
                f"{at}ffn_norm.weight": (d,),
            }
            continue
        for part, rows in (("q", d), ("k", size.keys * head), ("v", size.keys * head)):
            shapes |= {f"{at}self_attn.{part}_proj.weight": (rows, d), f"{at}self_attn.{part}_proj.bias": (rows,)}
        shapes |= {
            f"{at}self_attn.o_proj.weight": (d, d),
            f"{at}mlp.gate_proj.weight": (inner, d),
            f"{at}mlp.up_proj.weight": (inner, d),
            f"{at}mlp.down_proj.weight": (d, inner),
            f"{at}input_layernorm.weight": (d,),
            f"{at}post_attention_layernorm.weight": (d,),
        }
    words, output = ("tok_embeddings", "output") if size.internlm else ("embed_tokens", "lm_head")
    shapes |= {f"{start}{words}.weight": (size.words + 2, d), f"language_model.{output}.weight": (size.words + 2, d)}
    return shapes


def decoder_shapes(d: int, c: int = 1024, inner: int = 1024, groups: int = 4, subpixels: int = 14) -> Shapes:
    at, channels = "res_decoder.", subpixels**2
    shapes: Shapes = {
        f"{at}img_llm_down.weight": (c, d),
        f"{at}img_llm_down.bias": (c,),
        f"{at}text_down.weight": (c, d),
        f"{at}text_down.bias": (c,),
        f"{at}text_out_adapter.weight": (c, 3 * c),
        f"{at}text_out_adapter.bias": (c,),
        f"{at}upsample_adapter_l.offset.weight": (8 * groups, c, 1, 1),
        f"{at}upsample_adapter_l.offset.bias": (8 * groups,),
        f"{at}upsample_adapter_l.init_pos": (1, 8 * groups, 1, 1),
        f"{at}conv1.0.weight": (channels, c, 3, 3),
        f"{at}conv2.weight": (1, 1, 5, 5),
        f"{at}conv2.bias": (1,),
        f"{at}conv1.1.num_batches_tracked": (),
    }
    parts = ("0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var")
    shapes |= {f"{at}conv1.{part}": (channels,) for part in parts}
    for block in ("ca_layer_v2l", "ca_layer_vl"):
        inside = f"{at}{block}.decoder.layers.0."
        for attention in ("self_attn", "multihead_attn"):
            shapes |= {
                f"{inside}{attention}.in_proj_weight": (3 * c, c),
                f"{inside}{attention}.in_proj_bias": (3 * c,),
                f"{inside}{attention}.out_proj.weight": (c, c),
                f"{inside}{attention}.out_proj.bias": (c,),
            }
        shapes |= {
            f"{inside}linear1.weight": (inner, c),
            f"{inside}linear1.bias": (inner,),
            f"{inside}linear2.weight": (c, inner),
            f"{inside}linear2.bias": (c,),
        }
        for norm in ("layers.0.norm1", "layers.0.norm2", "layers.0.norm3", "norm"):
            shapes |= {f"{at}{block}.decoder.{norm}.{kind}": (c,) for kind in ("weight", "bias")}
    return shapes


def config_of(size: Size, **changes: Any) -> dict[str, Any]:
    """What matters of the config that InternVL's own code saves."""
    llm = {
        "architectures": ["InternLM2ForCausalLM" if size.internlm else "Qwen2ForCausalLM"],
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.keys,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"factor": 2.0, "type": "dynamic"} if size.internlm else None,
        "vocab_size": size.words + 2,
    }
    vision = {"num_attention_heads": 16, "layer_norm_eps": 1e-6, "image_size": 448}
    return {
        "model_type": "internvl_chat",
        "downsample_ratio": 0.5,
        "select_layer": -1,
        "ps_version": "v2",
        "use_llm_lora": 0,
        "use_backbone_lora": 0,
        "llm_config": llm,
        "vision_config": vision,
        **changes,
    }


def points(groups: int) -> Tensor:
    """`init_pos` of DySample at twice the size: across for every group, then down."""
    return torch.tensor([-0.25, 0.25, -0.25, 0.25] * groups + [-0.25, -0.25, 0.25, 0.25] * groups).reshape(1, -1, 1, 1)


def save(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any], size: Size, shards: int = 2) -> None:
    folder.mkdir(parents=True)
    names = sorted(tensors)
    for n in range(shards):
        part = {name: tensors[name].contiguous() for name in names[n::shards]}
        save_file(part, folder / f"model-{n + 1:05}-of-{shards:05}.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    added = {"<IMG_CONTEXT>": size.image_token, "[SEG]": size.words, "[REJ]": size.words + 1}
    (folder / "added_tokens.json").write_text(json.dumps(added))
