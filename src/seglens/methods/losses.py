"""Mask losses as pure functions: one value per mask; weights, means and sums belong to the caller.

Targets may be soft, in [0, 1], as area-averaged masks are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
from torch import Tensor


def bce_with_logits(logits: Float[Tensor, " n *size"], target: Float[Tensor, " n *size"]) -> Float[Tensor, " n"]:
    """Binary cross-entropy in nats, mean over the pixels of each mask."""
    return reduce(F.binary_cross_entropy_with_logits(logits, target, reduction="none"), "n ... -> n", "mean")


def dice(
    logits: Float[Tensor, " n *size"], target: Float[Tensor, " n *size"], scale: float = 1000.0, eps: float = 1e-6
) -> Float[Tensor, " n"]:
    """Soft dice loss of each mask, in [0, 1], as LISA computes it (arXiv 2308.00692, its `model/LISA.py`).

    1 - (2 sum(s t) / scale + eps) / (sum(s) / scale + sum(t) / scale + eps), where s = sigmoid(logits). The scale keeps
    half-precision sums finite and, because eps does not shrink with it, is part of the loss.
    """
    s, t = logits.sigmoid() / scale, target / scale
    shared = reduce(s * target, "n ... -> n", "sum")
    total = reduce(s, "n ... -> n", "sum") + reduce(t, "n ... -> n", "sum")
    return 1 - (2 * shared + eps) / (total + eps)


def bce(probability: Float[Tensor, " n *size"], target: Float[Tensor, " n *size"]) -> Float[Tensor, " n"]:
    """Binary cross-entropy in nats of maps that are already probabilities, mean over each map (Eq. 5 of LENS):
    -1/(h w) Σ_ij [M_ij log p_ij + (1 - M_ij) log(1 - p_ij)].

    Finite, and with finite gradients, for every probability from 0 to 1.
    """
    # Attention is often far below 1e-6 where it should rise, and a floor there would remove its gradient: this one only
    # keeps log and 1 / p finite in the map's own precision.
    floor = max(1e-12, torch.finfo(probability.dtype).tiny)
    log_p, log_q = probability.clamp(min=floor).log(), (1 - probability).clamp(min=floor).log()
    return reduce(-(target * log_p + (1 - target) * log_q), "n ... -> n", "mean")


def focal(
    logits: Float[Tensor, " n *size"],
    target: Float[Tensor, " n *size"],
    alpha: float = 0.25,
    gamma: float = 2.0,
    double_sigmoid: bool = False,
) -> Float[Tensor, " n"]:
    """Focal loss (arXiv 1708.02002, Eq. 5): cross-entropy in nats times alpha_t (1 - p_t)^gamma, mean over each mask.

    `double_sigmoid` takes the cross-entropy, and nothing else, of sigmoid(logits) as if that were a logit: what the
    released code of MLLMSeg does (arXiv 2508.04107, its `utils/losses.py`)."""
    p = logits.sigmoid()
    missed = p * (1 - target) + (1 - p) * target  # 1 - p_t, without the cancellation
    alpha_t = alpha * target + (1 - alpha) * (1 - target)
    ce = F.binary_cross_entropy_with_logits(p if double_sigmoid else logits, target, reduction="none")
    return reduce(alpha_t * missed**gamma * ce, "n ... -> n", "mean")


def smooth_dice(
    logits: Float[Tensor, " n *size"], target: Float[Tensor, " n *size"], smooth: float = 1.0
) -> Float[Tensor, " n"]:
    """Soft dice loss of each mask, in [0, 1], as MLLMSeg computes it (arXiv 2508.04107, its `utils/losses.py`).

    1 - (2 sum(s t) + smooth) / (sum(s) + sum(t) + smooth), where s = sigmoid(logits). `smooth` is in pixels: an empty
    mask can be learnt from it, and it counts for more the smaller a mask is."""
    s = logits.sigmoid()
    shared = reduce(s * target, "n ... -> n", "sum")
    total = reduce(s, "n ... -> n", "sum") + reduce(target, "n ... -> n", "sum")
    return 1 - (2 * shared + smooth) / (total + smooth)


def mask_terms(logits: Float[Tensor, " n *size"], target: Float[Tensor, " n *size"]) -> dict[str, Float[Tensor, " n"]]:
    """The two terms of a mask loss, by name, one value per mask."""
    return {"bce": bce_with_logits(logits, target), "dice": dice(logits, target)}
