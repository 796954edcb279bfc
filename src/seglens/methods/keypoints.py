"""Keypoints of an attention map: greedy non-maximum suppression (LENS S1.1) and one Newton step (S1.2).

Equation numbers are those of the supplement of arXiv 2510.16785. Cell (x, y) is its own centre, so the samples that
S1 and S2 place one cell apart are the cells around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

EPSILON = 1e-6  # ε of S1.2


def suppress(
    heat: Float[Tensor, "n h w"], count: int, radius: float, threshold: float = 0.0
) -> tuple[Float[Tensor, "n m 2"], Float[Tensor, "n m"], Bool[Tensor, "n m"]]:
    """S1.1: take the strongest cell, set all within `radius` cells of it to zero, and so on, `count` times.

    Returns cell coordinates (x, y) of cell centres, their responses, and which of them count: a positive response of at
    least `threshold` times the map's peak (the paper: any positive one). All maps are searched at once; the only loop
    is over the `count` picks."""
    n, h, w = heat.shape
    y, x = (torch.arange(size, device=heat.device, dtype=torch.int32) for size in (h, w))
    rows, columns = ((k[:, None] - k).square() for k in (y, x))
    # whole numbers: a cell at exactly the radius is always near (torch.cdist rounds)
    near = rows[:, None, :, None] + columns[:, None] <= int(radius**2 + EPSILON)
    near = rearrange(near, "y x v u -> (y x) (v u)")
    rest = heat.detach().reshape(n, -1)
    cells, responses = [], []
    for _ in range(min(count, h * w)):
        response, cell = rest.max(-1)
        cells.append(cell)
        responses.append(response)
        rest = rest.masked_fill(near[cell], 0.0)
    cell, response = torch.stack(cells, -1), torch.stack(responses, -1)
    keep = (response > 0) & (response >= threshold * response[:, :1])
    return torch.stack([cell % w, cell // w], -1).to(heat.dtype), response, keep


def _quadratic(padded: Float[Tensor, "n hp wp"], points: Float[Tensor, "n m 2"]) -> _Quadratic:
    """Eqs. S3 to S6 around every point of a map with a border of one cell."""
    x, y = (points[..., k].long() + 1 for k in (0, 1))
    row = torch.arange(len(padded), device=padded.device)[:, None]
    v = lambda dx, dy: padded[row, y + dy, x + dx]  # noqa: E731
    # Eq. S3: v0 = H(x, y), v1 = H(x + 1, y), v2 = H(x - 1, y), v3 = H(x, y + 1), v4 = H(x, y - 1), and the diagonals
    v0, v1, v2, v3, v4 = v(0, 0), v(1, 0), v(-1, 0), v(0, 1), v(0, -1)
    v5, v6, v7, v8 = v(1, 1), v(-1, -1), v(-1, 1), v(1, -1)
    dx, dy = 0.5 * (v1 - v2), 0.5 * (v3 - v4)  # Eq. S4: D_x = (v1 - v2) / 2,  D_y = (v3 - v4) / 2
    dxx, dyy = v1 - 2 * v0 + v2, v3 - 2 * v0 + v4  # Eq. S5: D_xx = v1 - 2 v0 + v2,  D_yy = v3 - 2 v0 + v4
    dxy = 0.25 * (v5 + v6 - v7 - v8)  # Eq. S6: D_xy = (v5 + v6 - v7 - v8) / 4
    return _Quadratic(dx, dy, dxx + EPSILON, dyy + EPSILON, dxy)


@dataclass(frozen=True)
class _Quadratic:
    """Eq. S7: g = [D_x, D_y] and H + εI, where H = [[D_xx, D_xy], [D_xy, D_yy]]; `dxx` and `dyy` hold
    the ε."""

    dx: Float[Tensor, "n m"]
    dy: Float[Tensor, "n m"]
    dxx: Float[Tensor, "n m"]
    dyy: Float[Tensor, "n m"]
    dxy: Float[Tensor, "n m"]

    @property
    def determinant(self) -> Float[Tensor, "n m"]:
        return self.dxx * self.dyy - self.dxy**2

    def step(self, where: Bool[Tensor, "n m"]) -> Float[Tensor, "n m 2"]:
        """The regularised Newton step, δ = -(H + εI)^-1 g; zero outside `where`."""
        adjugate_g = [self.dyy * self.dx - self.dxy * self.dy, self.dxx * self.dy - self.dxy * self.dx]
        numerator = torch.stack(adjugate_g, -1)
        denominator = torch.where(where, self.determinant, torch.ones_like(self.determinant))[..., None]
        return torch.where(where[..., None], -numerator / denominator, torch.zeros_like(numerator))


def newton_step(heat: Float[Tensor, "n h w"], points: Float[Tensor, "n m 2"]) -> Float[Tensor, "n m 2"]:
    """Eq. S8: p^sub = p^int + δ, with δ clipped to [-1, 1]; S1.2 as written.

    The map is as it is, zero beyond the border. Every point moves, towards a saddle or a minimum too, and may leave the
    grid by up to a cell. Where H + εI has no inverse, the point stays: the diagonal fallback, which the paper allows,
    is not used."""
    local = _quadratic(F.pad(heat, (1, 1, 1, 1)), points)
    return points + local.step(local.determinant != 0).clamp(-1, 1)


def guarded_newton_step(heat: Float[Tensor, "n h w"], points: Float[Tensor, "n m 2"]) -> Float[Tensor, "n m 2"]:
    """S1.2 with three guards that the paper does not have: a point moves only where the Hessian is negative definite
    (elsewhere the step would climb down), neighbours beyond the border repeat it, and the result stays on the grid."""
    h, w = heat.shape[1:]
    # responses relative to the peak: ε then means the same on a sharp and on a flat map
    scaled = heat / heat.flatten(1).amax(-1).clamp(min=1e-12)[:, None, None]
    local = _quadratic(F.pad(scaled[:, None], (1, 1, 1, 1), mode="replicate")[:, 0], points)
    peaked = (local.dxx < 0) & (local.dyy < 0) & (local.determinant > EPSILON)
    step = torch.where(peaked[..., None], local.step(peaked), torch.zeros_like(points)).clamp(-1, 1)
    return (points + step).clamp(min=points.new_zeros(2), max=points.new_tensor([w - 1, h - 1]))
