"""All that decides the numbers of a reading, other than the weights."""

from __future__ import annotations

import json

from seglens.backbones.chat_template import PROBES
from seglens.backbones.mllm import MLLM
from seglens.backbones.processors import processor_hash, text_hash


def signature(mllm: MLLM) -> dict[str, str | int]:
    """As plain values, the same in every process."""
    layout = mllm.family.layout
    return {
        "family": mllm.model.config.model_type,
        "layer": mllm.depth.layer,
        "dtype": str(mllm.model.dtype).removeprefix("torch."),
        "image_size": layout.image_size,
        "grid": "x".join(map(str, layout.grid)),
        "frame": mllm.canvas.name,
        "packing": _packing(mllm),
        "processor": processor_hash(mllm.processor),
        "template": text_hash(mllm.reading.text(PROBES[0])),
    }


def _packing(mllm: MLLM) -> str:
    """The quantisation of the weights, if any."""
    config = getattr(mllm.model.config, "quantization_config", None)
    if config is None:
        return "none"
    settings = config if isinstance(config, dict) else config.to_dict()
    return text_hash(json.dumps(settings, sort_keys=True, default=str))
