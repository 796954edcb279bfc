"""InternVL as its own code saves it (OpenGVLab) to the names of transformers' own form (`-hf`).

The map is that of transformers' `convert_internvl_weights_to_hf.py`: InternViT and the projector are renamed, their
attention is cut in three; Qwen's language models keep their names; InternLM2, which is LLaMA under other names with
queries, keys and values in one matrix, becomes a LLaMA.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from einops import rearrange
from torch import Tensor

from seglens.backbones.internvl_spec import Skeleton
from seglens.checkpoints.origin import CheckpointError
from seglens.convert.configs import faults_of, read_json
from seglens.convert.weights import Piece

VISION, LANGUAGE = r"vision_model\.encoder\.layers\.(\d+)", r"language_model\.model\.layers\.(\d+)"
LAYER, BLOCK, KINDS = r"vision_tower.encoder.layer.\1", r"language_model.model.layers.\1", "(weight|bias)"
LEFT = ("*.safetensors", "*.index.json", "*.bin", "*.pt", "*.pth", "*.py", "*.md", "*.msgpack", "*.h5", ".*")
SCALE = 2.0  # of low-rank updates: the alpha of InternVL's own code is twice the rank, whatever the rank
WORDS, OUTPUT = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
RENAMED = {
    r"vision_model\.embeddings\.class_embedding": "vision_tower.embeddings.cls_token",
    r"vision_model\.embeddings\.position_embedding": "vision_tower.embeddings.position_embeddings",
    rf"vision_model\.embeddings\.patch_embedding\.{KINDS}": r"vision_tower.embeddings.patch_embeddings.projection.\1",
    rf"{VISION}\.ls([12])": rf"{LAYER}.lambda_\2",
    rf"{VISION}\.norm1\.{KINDS}": rf"{LAYER}.layernorm_before.\2",
    rf"{VISION}\.norm2\.{KINDS}": rf"{LAYER}.layernorm_after.\2",
    rf"{VISION}\.attn\.([qk]_norm)\.weight": rf"{LAYER}.attention.\2.weight",
    rf"{VISION}\.attn\.proj\.{KINDS}": rf"{LAYER}.attention.projection_layer.\2",
    rf"{VISION}\.mlp\.(fc[12])\.{KINDS}": rf"{LAYER}.mlp.\2.\3",
    rf"mlp1\.0\.{KINDS}": r"multi_modal_projector.layer_norm.\1",
    rf"mlp1\.1\.{KINDS}": r"multi_modal_projector.linear_1.\1",
    rf"mlp1\.3\.{KINDS}": r"multi_modal_projector.linear_2.\1",
    r"language_model\.model\.tok_embeddings\.weight": WORDS,  # InternLM2, up to the next remark
    r"language_model\.output\.weight": OUTPUT,
    rf"{LANGUAGE}\.attention\.wo\.weight": rf"{BLOCK}.self_attn.o_proj.weight",
    rf"{LANGUAGE}\.feed_forward\.w1\.weight": rf"{BLOCK}.mlp.gate_proj.weight",
    rf"{LANGUAGE}\.feed_forward\.w2\.weight": rf"{BLOCK}.mlp.down_proj.weight",
    rf"{LANGUAGE}\.feed_forward\.w3\.weight": rf"{BLOCK}.mlp.up_proj.weight",
    rf"{LANGUAGE}\.attention_norm\.weight": rf"{BLOCK}.input_layernorm.weight",
    rf"{LANGUAGE}\.ffn_norm\.weight": rf"{BLOCK}.post_attention_layernorm.weight",
    r"(language_model\..+)": r"\1",  # Qwen's, and what both have
}
PACKED = {  # queries, keys and values in one tensor
    rf"{VISION}\.attn\.qkv\.{KINDS}": rf"{LAYER}.attention.%s_proj.\2",
    rf"{LANGUAGE}\.attention\.wqkv\.(weight)": rf"{BLOCK}.self_attn.%s_proj.\2",
}


def mllm_pieces(shapes: Mapping[str, tuple[int, ...]], skeleton: Skeleton) -> dict[str, Piece]:
    """What becomes of tensors of these names and shapes, by the names that they get; a name that is not InternVL's
    keeps its own, for the strict comparison to come."""
    pieces = dict[str, Piece]()
    for source, shape in shapes.items():
        parts = _unpacked(source, shape, skeleton) or {_renamed(source): Piece(shape, source)}
        for name in parts.keys() & pieces.keys():
            raise CheckpointError(f"both {pieces[name].source} and {source} make {name}; the files are of two models")
        pieces |= parts
    return pieces


def _renamed(source: str) -> str:
    for pattern, name in RENAMED.items():
        match = re.fullmatch(pattern, source)
        if match:
            return match.expand(name)
    return source


def _unpacked(source: str, shape: tuple[int, ...], skeleton: Skeleton) -> dict[str, Piece]:
    for pattern, name in PACKED.items():
        match = re.fullmatch(pattern, source)
        if match is None:
            continue
        group = skeleton.heads // skeleton.key_heads if "language" in pattern else 1
        share = shape[0] // (group + 2)
        rows = {"q": group * share, "k": share, "v": share}
        cut: Callable[..., Tensor] = partial(_grouped, skeleton.key_heads, group) if "language" in pattern else _thirds
        return {
            match.expand(name % part): Piece((count, *shape[1:]), source, partial(cut, part))
            for part, count in rows.items()
        }
    return {}


def _thirds(part: str, packed: Tensor) -> Tensor:
    """InternViT: all queries, then all keys, then all values."""
    return packed.chunk(3)["qkv".index(part)]


def _grouped(key_heads: int, group: int, part: str, packed: Tensor) -> Tensor:
    """InternLM2: for each head of keys the heads of queries that share it, then its keys, then its values."""
    heads = rearrange(packed, "(h g e) d -> h g e d", h=key_heads, g=group + 2)
    chosen = {"q": heads[:, :group], "k": heads[:, group : group + 1], "v": heads[:, group + 1 :]}[part]
    return rearrange(chosen, "h g e d -> (h g e) d")


def check_facts(config: Mapping[str, Any], skeleton: Skeleton, where: str) -> None:
    """Raises CheckpointError when `config`, of InternVL's own code, describes another model than the skeleton's."""
    for name, wanted in skeleton.facts.items():
        value: Any = config
        for step in name.split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
        if name.endswith("rope_scaling"):
            kind = (value or {}).get("rope_type", (value or {}).get("type"))
            value = None if kind in (None, "default") else (kind, value.get("factor"))
        if value != wanted:
            raise CheckpointError(
                f"{where} has {name}={value!r}, and the base model has {wanted!r}; give the base model of the same "
                "size and generation"
            )


def token_numbers(source: Path) -> dict[str, int]:
    """The numbers of added tokens, from either of the tokenizer's files."""
    added, whole = source / "added_tokens.json", source / "tokenizer_config.json"
    with faults_of(source):
        if added.is_file():
            return {token: int(number) for token, number in read_json(added).items()}
        if whole.is_file():
            tokens = read_json(whole).get("added_tokens_decoder", {})
            return {token["content"]: int(number) for number, token in tokens.items()}
    raise CheckpointError(
        f"{source} needs {added.name} or {whole.name}, which number its special tokens; copy its tokenizer"
    )
