"""Reference solutions of the mappings, row by row along the last dimension.

Contract of every function here: scores are float64 (float32 where a device has none), free of NaN and +inf, each row
has a finite entry, and parameters are admissible and of shape (..., 1) or (): `core.guard` sees to it. -inf marks
masked entries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.numerics import safe_pow
from .threshold import Root, bracketed, multiplier, newton


def _column(parameter: Tensor, z: Tensor) -> Tensor:
    return parameter.to(z.dtype).expand(*z.shape[:-1], 1)


def _kept(z: Tensor) -> Tensor:
    return (z > -torch.inf).sum(-1, keepdim=True).to(z.dtype)


def entmax_root(d: Tensor, alpha: Tensor) -> Root:
    """log p_max and p for rows shifted to maximum 0: monotone Newton up to alpha = 2, bracketed above."""
    steep = alpha > 2
    # Rows of the other kind are given alpha = 2, where they converge at once, and replaced afterwards.
    root = newton(d, torch.where(steep, 2.0, alpha))
    if not bool(steep.any()):
        return root
    other = bracketed(d, torch.where(steep, alpha, 2.0), -_kept(d).log(), torch.ones_like(alpha), capped=False)
    ell, p = (torch.where(steep, x, y) for x, y in zip(other[:2], root[:2], strict=True))
    return Root(ell, p, max(root.steps, other.steps), root.stage)


def entmax(z: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """p and lambda of alpha-entmax, alpha >= 0."""
    alpha = _column(alpha, z)
    top = z.amax(-1, keepdim=True)
    root = entmax_root(z - top, alpha)
    # The sum is one to a few ulps; dividing by it removes those.
    p = root.p / root.p.sum(-1, keepdim=True)
    return p, (top + multiplier(root.ell, alpha)).squeeze(-1)


def budget(z: Tensor, k: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """p and lambda of the capped simplex: p_i = min(1, [1 + a (z_i - lambda)]_+^(1/a)), sum p = k."""
    alpha, k = _column(alpha, z), _column(k, z)
    K = k.ceil()
    # Relative to the K-th largest score: lambda lies within 1/a of it, however far above the larger ones are. At its
    # value r or below, the K - 1 larger entries give at most K - 1 and the others at most r each, together at most k.
    pivot = z.sort(-1, descending=True).values.gather(-1, (K - 1).long())
    low = ((k - K + 1) / (_kept(z) - K + 1)).log()
    root = bracketed(z - pivot, alpha, low, k, capped=True)
    at_cap = root.p == 1
    free = root.p.masked_fill(at_cap, 0)
    rest, total = k - at_cap.sum(-1, keepdim=True), free.sum(-1, keepdim=True)
    # As in entmax, the last ulps go to the free entries, if there is something left for them.
    share = torch.where((rest > 0) & (total > 0), rest / torch.where(total > 0, total, 1.0), 1.0)
    p = torch.where(at_cap, 1.0, (free * share).clamp_max(1))
    return p, (pivot + multiplier(root.ell, alpha)).squeeze(-1)


def normmax(z: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """p and tau of the norm-entropy mapping: y_i = [z_i - tau]_+^(1/a), sum y^alpha = 1, p = y / sum y, alpha > 1."""
    alpha = _column(alpha, z)
    top = z.amax(-1, keepdim=True)
    d = z - top
    q = alpha / (alpha - 1)
    tau = -torch.ones_like(q)
    for _ in range(64):
        u = (d - tau).clamp_min(0)
        y = safe_pow(u, q - 1)
        total = (u * y).sum(-1, keepdim=True)
        # Newton on the q-norm, convex in tau for every alpha > 1, hence monotone from the left.
        step = -total * torch.expm1(-total.log() / q) / y.sum(-1, keepdim=True)
        tau = tau + step.clamp_min(0)
        if bool((step <= 4 * torch.finfo(z.dtype).eps).all()):
            break
    y = safe_pow((d - tau).clamp_min(0), q - 1)
    return y / y.sum(-1, keepdim=True), (tau + top).squeeze(-1)


def topk(z: Tensor, k: Tensor) -> Tensor:
    """Scores outside the k largest of each row replaced by -inf; at a tie across the cut the lowest index stays."""
    order = torch.sort(z, dim=-1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(-1, order, torch.arange(z.shape[-1], device=z.device).expand_as(order))
    return torch.where(rank < _column(k, z), z, -torch.inf)


def softmax(z: Tensor) -> tuple[Tensor, Tensor]:
    """torch's own softmax and log-sum-exp."""
    return torch.softmax(z, -1), torch.logsumexp(z, -1)
