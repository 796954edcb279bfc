"""The table of families. A new family is one file and one line here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

from seglens.backbones.family import Family
from seglens.backbones.gemma3 import Gemma3
from seglens.backbones.glm4v import Glm4V
from seglens.backbones.idefics3 import Idefics3
from seglens.backbones.internvl import InternVL
from seglens.backbones.lfm2_vl import Lfm2VL
from seglens.backbones.llava import Llava
from seglens.backbones.llava_onevision import LlavaOnevision
from seglens.backbones.molmo2 import Molmo2
from seglens.backbones.qwen2_vl import Qwen2VL
from seglens.backbones.qwen3_vl import Qwen3VL
from seglens.core.names import did_you_mean
from seglens.model_files.strict_loading import reaching, refuse_adapter

FAMILIES: dict[str, type[Family]] = {  # by config.model_type
    "llava": Llava,
    "llava_next": LlavaOnevision,
    "llava_onevision": LlavaOnevision,
    "internvl": InternVL,
    "idefics3": Idefics3,
    "smolvlm": Idefics3,
    "qwen2_vl": Qwen2VL,
    "qwen2_5_vl": Qwen2VL,
    "qwen3_vl": Qwen3VL,
    "qwen3_vl_moe": Qwen3VL,
    "glm4v": Glm4V,
    "glm4v_moe": Glm4V,
    "glm46v": Glm4V,
    "gemma3": Gemma3,
    "molmo2": Molmo2,
    "lfm2_vl": Lfm2VL,
}
_LINEAR = (
    "three of four of its layers have linear attention, which gives no map from words to image and keeps a state in "
    "place of keys and values: questions cannot share it, and to continue a copy of it for each of them is not built"
)
_BOTH_WAYS = (
    "its image tokens and the words of the question see each other in every layer, so that the states of an image "
    "change with the question, and none of them can be computed once for all questions"
)
UNREADABLE = {  # known to transformers, and refused: by config.model_type, why
    "qwen3_5": _LINEAR,
    "qwen3_5_moe": _LINEAR,
    "paligemma": _BOTH_WAYS,
}


def family_of(name: str | Path, **where: Any) -> type[Family]:
    """The family of the MLLM in a folder, in a config file or at a hub id; `where` goes to transformers.

    Raises ValueError when there is no config of a model, or the family is not supported, naming those that are."""
    if str(name).startswith((".", "/", "~")) and not Path(name).exists():
        raise ValueError(f"the model {str(name)!r} does not exist; give a folder, a config file or a hub id")
    refuse_adapter(name)
    # the plain file: transformers makes no config of a family that it does not know, or that brings its own code
    with reaching(name):
        config, _ = PreTrainedConfig.get_config_dict(name, **where)
    family = str(config.get("model_type"))
    if "model_type" not in config:
        raise ValueError(f"{name} has no config.json of a model; give a folder that has one, a config file or a hub id")
    if family in UNREADABLE:
        raise ValueError(
            f"{name} is a {family!r} model, which cannot be read: {UNREADABLE[family]}; supported families: "
            f"{', '.join(FAMILIES)}"
        )
    if family not in FAMILIES and family in CONFIG_MAPPING:  # no spelling of another name: no hint
        raise ValueError(
            f"{name} is a {family!r} model, a type of transformers whose family is not read here; supported families: "
            f"{', '.join(FAMILIES)}"
        )
    if family not in FAMILIES:
        hint = did_you_mean(family, FAMILIES, ", with the name of its -hf version")
        raise ValueError(f"{name} is a {family!r} model; supported families: {', '.join(FAMILIES)}{hint}")
    return FAMILIES[family]
