"""Solvers for the threshold lambda of p_i = [1 + a (z_i - lambda)]_+ ^ (1/a), a = alpha - 1 (`p_i = e^(z_i - lambda)` at a = 0).

Two methods, derived in docs/theory/entmax.md:

* `pnorm_newton`, for 0 <= alpha <= 2: Newton on the 1/a-norm of the row. Monotone from the left of the root, so it needs no bracket, and every
  iterate's support contains the true one.
* `bracketed`, for any alpha and for caps p_i <= 1 with total k: the same step, kept inside a shrinking bracket.

Rows are along the last dimension and already shifted; ``d`` may contain -inf (masked). Parameters have shape (..., 1).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...core.numerics import phi, safe_pow, tsallis_exp

# Monotone convergence takes at most 9 steps on every family we know (tested); the cap only bounds the unknown.
NEWTON_CAP = 32
# Two Newton trials, then one bisection: at worst the 53 halvings of a double, tripled.
BRACKET_CAP = 170


class Root(NamedTuple):
    """A threshold (..., 1) and the number of sweeps over the rows that found it."""

    threshold: Tensor
    steps: int


def _norm_step(total: Tensor, slope: Tensor, target: Tensor, a: Tensor) -> Tensor:
    """The change of lambda that makes the 1/a-norm of the free coordinates right to first order.

    With s = total/target it is total * (1 - s^-a)/(a slope), written without division by a. Exact if the free scores are equal, and at a = 0.
    """
    log_s = (total / target).log()
    return total * log_s * phi(-a * log_s) / slope


def pnorm_newton(d: Tensor, alpha: Tensor, lam: Tensor, *, tolerance: float) -> Root:
    """Monotone Newton from ``lam``, at or left of the root (sum p >= 1), for rows with 0 <= alpha <= 2."""
    a = alpha - 1
    steps = 0
    for _ in range(NEWTON_CAP):
        p = tsallis_exp(d, lam, alpha)
        total = p.sum(-1, keepdim=True)
        if bool((total - 1 <= tolerance).all()):
            break
        slope = safe_pow(p, 1 - a).sum(-1, keepdim=True)
        # Rounding may put a converged row right of its root; it then stays where it is.
        lam = lam + torch.where(total > 1, _norm_step(total, slope, torch.ones_like(total), a), 0.0)
        steps += 1
    return Root(lam, steps)


def bracketed(
    d: Tensor, alpha: Tensor, low: Tensor, high: Tensor, total: Tensor, *, capped: bool, tolerance: float
) -> Root:
    """Safeguarded Newton for sum p = total, p_i <= 1 if ``capped``, with the root in [low, high] (sum p decreases from >= total to <= total)."""
    a = alpha - 1
    lam = low
    done = torch.zeros_like(low, dtype=torch.bool)
    steps = 0
    for steps in range(1, BRACKET_CAP + 1):
        p = tsallis_exp(d.minimum(lam) if capped else d, lam, alpha)
        at_cap = (d >= lam) if capped else torch.zeros_like(d, dtype=torch.bool)
        free_sum = p.masked_fill(at_cap, 0).sum(-1, keepdim=True)
        target = total - at_cap.sum(-1, keepdim=True)
        excess = free_sum - target
        low = torch.where(excess >= 0, lam, low)
        high = torch.where(excess <= 0, lam, high)
        slope = safe_pow(p, 1 - a).masked_fill(at_cap, 0).sum(-1, keepdim=True)
        middle = low + (high - low) / 2
        solvable = (target > 0) & (free_sum > 0) & (slope > 0) & (slope < torch.inf)
        step = _norm_step(
            torch.where(solvable, free_sum, 1.0),
            torch.where(solvable, slope, 1.0),
            torch.where(solvable, target, 1.0),
            a,
        )
        trial = lam + step
        trusted = solvable & (trial > low) & (trial < high) & (steps % 3 != 0)
        done = done | (excess.abs() <= tolerance) | (middle <= low) | (middle >= high)
        if bool(done.all()):
            break
        lam = torch.where(done, lam, torch.where(trusted, trial, middle))
    return Root(lam, steps)
