"""An MLLM in 8 or 4 bits as it is loaded, by bitsandbytes through transformers."""

from __future__ import annotations

import logging
from typing import Any

import torch

from seglens.core.names import check_name

KINDS = ("8bit", "4bit")


def few_bits(kind: str, device: torch.device, dtype: str | torch.dtype = "auto") -> Any:
    """The `quantization_config` for weights of that many bits, which compute in `dtype` ("auto" is bfloat16).

    Raises ValueError for another kind or a device without such layers, and ImportError without bitsandbytes."""
    check_name(kind, KINDS, "way of loading")
    _refuse_unless_supported(kind, device)
    from transformers import BitsAndBytesConfig

    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = dtype if isinstance(dtype, torch.dtype) else torch.bfloat16
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )


def _refuse_unless_supported(kind: str, device: torch.device) -> None:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it notes the rounding of each product on its own
    try:
        import accelerate  # noqa: F401  (transformers places such a model by it)
        import bitsandbytes
    except ImportError as error:
        raise ImportError(
            f"loading in {kind} needs bitsandbytes and accelerate ({error}); run: pip install 'seglens[quant]'"
        ) from error
    known = getattr(bitsandbytes, "supported_torch_devices", {"cuda"})
    if device.type not in known:
        raise ValueError(
            f"bitsandbytes {bitsandbytes.__version__} has no {kind} layers for {device.type!r}, only for "
            f"{', '.join(sorted(known))}; give another --device, or leave out load_in (--load-in)"
        )
