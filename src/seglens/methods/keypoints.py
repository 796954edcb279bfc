"""Keypoints of an attention map: greedy non-maximum suppression (LENS S1.1) and one Newton step (S1.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

EPSILON = 1e-6  # Tikhonov term of S1.2


def suppress(
    heat: Float[Tensor, "n h w"], count: int, radius: float, threshold: float = 0.0
) -> tuple[Float[Tensor, "n m 2"], Float[Tensor, "n m"], Bool[Tensor, "n m"]]:
    """The `count` strongest cells, none within `radius` cells of a stronger one.

    Returns cell coordinates (x, y) of cell centres, their responses, and which of them count: a positive response of at
    least `threshold` times the map's peak. All maps are searched at once; the only loop is over the `count` picks."""
    n, h, w = heat.shape
    y, x = (torch.arange(size, device=heat.device, dtype=torch.int32) for size in (h, w))
    rows, columns = ((k[:, None] - k).square() for k in (y, x))
    # whole numbers: a cell at exactly the radius is always near (torch.cdist rounds)
    near = rows[:, None, :, None] + columns[:, None] <= int(radius**2 + EPSILON)
    near = rearrange(near, "y x v u -> (y x) (v u)")
    rest = heat.detach().reshape(n, -1)
    picked, scores = [], []
    for _ in range(min(count, h * w)):
        score, at = rest.max(-1)
        picked.append(at)
        scores.append(score)
        rest = rest.masked_fill(near[at], 0.0)
    at, score = torch.stack(picked, -1), torch.stack(scores, -1)
    keep = (score > 0) & (score >= threshold * score[:, :1])
    return torch.stack([at % w, at // w], -1).to(heat.dtype), score, keep


def refine(heat: Float[Tensor, "n h w"], points: Float[Tensor, "n m 2"]) -> Float[Tensor, "n m 2"]:
    """One regularised Newton step from cell centres to the peak of the local quadratic model.

    Follows S1.2 (Eqs. S3 to S8) with three guards: a point moves only where the Hessian is negative definite (elsewhere
    the step would climb down), neighbours beyond the border repeat it, and the result stays on the grid."""
    h, w = heat.shape[1:]
    # responses relative to the peak: epsilon then means the same on a sharp and on a flat map
    scaled = heat / heat.flatten(1).amax(-1).clamp(min=1e-12)[:, None, None]
    local = _quadratic(F.pad(scaled[:, None], (1, 1, 1, 1), mode="replicate")[:, 0], points)
    peaked = (local.a < 0) & (local.d < 0) & (local.determinant > EPSILON)
    step = torch.where(peaked[..., None], local.step(peaked), torch.zeros_like(points)).clamp(-1, 1)
    return (points + step).clamp(min=points.new_zeros(2), max=points.new_tensor([w - 1, h - 1]))


def refine_unguarded(heat: Float[Tensor, "n h w"], points: Float[Tensor, "n m 2"]) -> Float[Tensor, "n m 2"]:
    """S1.2 (Eqs. S3 to S8) to the letter: the map as it is, zero beyond the border, a step at every point, towards a
    saddle or a minimum too, and a result that may lie off the grid by up to a cell.

    Where the regularised Hessian has no inverse at all, there is no step, and the point stays."""
    local = _quadratic(F.pad(heat, (1, 1, 1, 1)), points)
    return points + local.step(local.determinant != 0).clamp(-1, 1)


@dataclass(frozen=True)
class _Quadratic:
    """The second-order model around every point: g (Eq. S4) and H + epsilon I (Eqs. S5 to S7)."""

    dx: Float[Tensor, "n m"]
    dy: Float[Tensor, "n m"]
    a: Float[Tensor, "n m"]
    d: Float[Tensor, "n m"]
    dxy: Float[Tensor, "n m"]

    @property
    def determinant(self) -> Float[Tensor, "n m"]:
        return self.a * self.d - self.dxy**2

    def step(self, where: Bool[Tensor, "n m"]) -> Float[Tensor, "n m 2"]:
        """Eq. S8, -(H + epsilon I)^-1 g; nothing outside `where`."""
        towards = torch.stack([self.d * self.dx - self.dxy * self.dy, self.a * self.dy - self.dxy * self.dx], -1)
        safe = torch.where(where, self.determinant, torch.ones_like(self.determinant))[..., None]
        return torch.where(where[..., None], -towards / safe, torch.zeros_like(towards))


def _quadratic(padded: Float[Tensor, "n hp wp"], points: Float[Tensor, "n m 2"]) -> _Quadratic:
    """From the 3 x 3 cells around every point of a map with a border of one cell."""
    x, y = (points[..., k].long() + 1 for k in (0, 1))
    row = torch.arange(len(padded), device=padded.device)[:, None]
    v = lambda dx, dy: padded[row, y + dy, x + dx]  # noqa: E731
    dx, dy = 0.5 * (v(1, 0) - v(-1, 0)), 0.5 * (v(0, 1) - v(0, -1))  # Eq. S4
    dxx, dyy = v(1, 0) - 2 * v(0, 0) + v(-1, 0), v(0, 1) - 2 * v(0, 0) + v(0, -1)  # Eq. S5
    dxy = 0.25 * (v(1, 1) + v(-1, -1) - v(-1, 1) - v(1, -1))  # Eq. S6
    return _Quadratic(dx, dy, dxx + EPSILON, dyy + EPSILON, dxy)
