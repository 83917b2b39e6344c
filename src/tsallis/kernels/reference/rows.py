"""Reference solutions of the mappings, row by row along the last dimension.

Contract of every function here: scores are float64 (float32 where a device has none), free of NaN and +inf, each row has a finite
entry, and parameters are admissible and of shape (..., 1) or (): `core.guard` sees to it. -inf marks masked entries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.numerics import safe_pow, tsallis_exp
from .threshold import Root, bracketed, pnorm_newton


def _eps(z: Tensor) -> float:
    return torch.finfo(z.dtype).eps


def _column(parameter: Tensor, z: Tensor) -> Tensor:
    return parameter.to(z.dtype).expand(*z.shape[:-1], 1)


def entmax_bracket(d: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """[0, (1 - m^-a)/a] for rows shifted to maximum 0 with m unmasked entries: p_max is 1 at the left end and 1/m at the right one."""
    log_m = (d > -torch.inf).sum(-1, keepdim=True).to(d.dtype).log()
    a = alpha - 1
    safe_a = torch.where(a == 0, 1.0, a)
    return torch.zeros_like(log_m), torch.where(a == 0, log_m, -torch.expm1(-a * log_m) / safe_a)


def entmax_threshold(d: Tensor, alpha: Tensor) -> Root:
    """lambda for rows shifted to maximum 0: monotone Newton up to alpha = 2, bracketed above."""
    low, high = entmax_bracket(d, alpha)
    steep = alpha > 2
    tolerance = 64 * _eps(d)
    # Rows of the other kind are given alpha = 2, where they converge at once, and replaced afterwards.
    root = pnorm_newton(d, torch.where(steep, 2.0, alpha), low, tolerance=tolerance)
    if not bool(steep.any()):
        return root
    one = torch.ones_like(low)
    other = bracketed(d, torch.where(steep, alpha, 2.0), low, high, one, capped=False, tolerance=tolerance)
    return Root(torch.where(steep, other.threshold, root.threshold), max(root.steps, other.steps))


def _polish(d: Tensor, alpha: Tensor, lam: Tensor, total: Tensor, *, capped: bool) -> tuple[Tensor, Tensor]:
    """p at a threshold refined below one ulp of lam.

    Where sum p is steep (alpha > 2, or thousands of equal scores) neighbouring floats lam give sums that differ by far more than rounding. The
    scores are therefore re-centred at lam, and a correction of a few ulps is found in units of its own.
    """
    centred = d - lam
    width = 8 * _eps(d) * (1 + lam.abs())
    delta = bracketed(centred, alpha, -width, width, total, capped=capped, tolerance=_eps(d)).threshold
    half = alpha == 1.5
    if not capped and bool(half.any()):
        # On a known support entmax15 is a quadratic in u = sqrt(p): its exact finish.
        u = safe_pow(tsallis_exp(centred, delta, alpha), torch.full_like(alpha, 0.5))
        rest, linear, size = 1 - u.square().sum(-1, True), u.sum(-1, True), (u > 0).sum(-1, True)
        delta = delta - torch.where(
            half, 2 * rest / (linear + (linear.square() + size * rest).clamp_min(0).sqrt()), 0.0
        )
    p = tsallis_exp(centred.minimum(delta) if capped else centred, delta, alpha)
    return p, lam + delta


def entmax(z: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """p and lambda of alpha-entmax, alpha >= 0."""
    alpha = _column(alpha, z)
    top = z.amax(-1, keepdim=True)
    d = z - top
    lam = entmax_threshold(d, alpha).threshold
    p, lam = _polish(d, alpha, lam, torch.ones_like(lam), capped=False)
    return p, (lam + top).squeeze(-1)


def budget(z: Tensor, k: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """p and lambda of the capped simplex: p_i = min(1, [1 + a (z_i - lambda)]_+^(1/a)), sum p = k."""
    alpha, k = _column(alpha, z), _column(k, z)
    a = alpha - 1
    count = (z > -torch.inf).sum(-1, keepdim=True).to(z.dtype)
    K = k.ceil()
    pivot = z.sort(-1, descending=True).values.gather(-1, (K - 1).long())
    # Relative to the K-th largest score: lambda lies within 1/a of it, however far above the larger ones are.
    d = z - pivot
    log_r = ((k - K + 1) / (count - K + 1)).log()
    high = torch.where(a == 0, -log_r, -torch.expm1(a * log_r) / torch.where(a == 0, 1.0, a))
    lam = bracketed(d, alpha, torch.zeros_like(high), high, k, capped=True, tolerance=64 * _eps(z)).threshold
    p, lam = _polish(d, alpha, lam, k, capped=True)
    return p, (lam + pivot).squeeze(-1)


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
        if bool((step <= 4 * _eps(z)).all()):
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
