"""The scalar equation behind the entmax family, solved for the logarithm of the largest probability.

With d_i = z_i - max z <= 0, a = alpha - 1 and P = p_max, every member of the family is self-similar:

    p_i = P exp_alpha(d_i / P^a),        lambda = max z + (1 - P^a)/a,

so one unknown per row, ell = log P in [-log n, 0], decides everything. It is better conditioned than lambda: where the
support is large, 1 - a lambda = P^a is tiny and lambda holds few of its digits, while ell holds all.

Two methods, derived in docs/theory/entmax.md:

* `newton`, for 0 <= alpha <= 2: Newton on the 1/a-norm of the row, monotone from any ell at or right of the root. It
  needs no bracket, and every iterate's support contains the true one. The start is the root of a subset of the row, its
  block maxima: fewer entries, larger p_max.
* `bracketed`, for any alpha and for caps p_i <= 1 with a given total: the same step, kept inside a shrinking bracket.

Rows are along the last dimension; ``d`` may contain -inf (masked). Parameters have shape (..., 1).
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
# Without a start from block maxima the number of steps would grow with log n (at alpha = 2 each one about halves the
# support).
LONG_ROW, BLOCK = 256, 16


class Root(NamedTuple):
    """log p_max (..., 1), p_i / p_max (..., n), and the number of steps taken."""

    ell: Tensor
    ratios: Tensor
    steps: int


def multiplier(ell: Tensor, alpha: Tensor) -> Tensor:
    """lambda - max z = (1 - P^a)/a at P = e^ell, smooth at a = 0."""
    return -ell * phi((alpha - 1) * ell)


def _ratios(d: Tensor, ell: Tensor, alpha: Tensor) -> Tensor:
    # P^-a may overflow for large alpha: then only entries equal to the maximum survive.
    stretched = d * (-(alpha - 1) * ell).exp()
    return tsallis_exp(torch.where(d == 0, 0.0, stretched), alpha)


def _step(ratio_sum: Tensor, slope_sum: Tensor, log_s: Tensor, a: Tensor) -> Tensor:
    """The change of ell that makes the 1/a-norm right to first order; log_s is the log of sum p over its target.

    In P^a the step is P^a (R/V)(s^-a - 1), R = sum r, V = sum r^(1-a). Exact if all free scores are equal, and for
    every row at a = 0.
    """
    share = ratio_sum / slope_sum
    relative = torch.expm1(-a * log_s) * share
    small = a == 0
    return torch.where(small, -log_s * share, torch.log1p(relative) / torch.where(small, 1.0, a))


def _block_maxima(d: Tensor) -> Tensor:
    n = d.shape[-1]
    padded = torch.nn.functional.pad(d, (0, -n % BLOCK), value=-torch.inf)
    return padded.reshape(*d.shape[:-1], -1, BLOCK).amax(-1)


def newton(d: Tensor, alpha: Tensor) -> Root:
    """Monotone Newton for rows with 0 <= alpha <= 2 and maximum score 0; ``steps`` counts those over whole rows."""
    a, eps = alpha - 1, torch.finfo(d.dtype).eps
    ell = newton(_block_maxima(d), alpha).ell if d.shape[-1] >= LONG_ROW else torch.zeros_like(alpha)
    steps = 0
    while True:
        ratios = _ratios(d, ell, alpha)
        total = ratios.sum(-1, keepdim=True)
        log_s = ell + total.log()
        change = _step(total, safe_pow(ratios, 1 - a).sum(-1, keepdim=True), log_s, a)
        # Rounding may put a converged row right of its root; it then stays where it is.
        change = torch.where(log_s > 16 * eps, change, 0.0)
        if steps == NEWTON_CAP or bool((change.abs() <= eps * (1 + ell.abs())).all()):
            return Root(ell, ratios, steps)
        ell = ell + change
        steps += 1


def _between(d: Tensor, low: Tensor, high: Tensor, ell: Tensor, alpha: Tensor, total: Tensor) -> Tensor:
    """Ratios at ell whose sum is right where no floating-point ell makes it right: mixed from both ends of the bracket.

    Near the edge of the support p is so steep that neighbouring values of ell may miss the sum by many ulps. Dividing
    by the sum would spread that over the largest entries, which are accurate; the mixture moves only those that differ.
    """
    below, above = ((end - ell).exp() * _ratios(d, end, alpha) for end in (low, high))
    first, last = below.sum(-1, keepdim=True), above.sum(-1, keepdim=True)
    share = ((total * (-ell).exp() - first) / torch.where(last > first, last - first, 1.0)).clamp(0, 1)
    return below + share * (above - below)


def bracketed(d: Tensor, alpha: Tensor, low: Tensor, total: Tensor, *, capped: bool) -> Root:
    """Safeguarded Newton for sum p = total with log p_max in [low, 0]; with ``capped``, p_i <= 1 and ``d`` may be
    positive.

    Entries at the cap get the ratio inf.
    """
    a, eps = alpha - 1, torch.finfo(d.dtype).eps
    high, ell = torch.zeros_like(low), torch.zeros_like(low)
    done = torch.zeros_like(low, dtype=torch.bool)
    steps = 0
    while True:
        at_cap = d >= multiplier(ell, alpha) if capped else torch.zeros_like(d, dtype=torch.bool)
        ratios = _ratios(torch.where(at_cap, 0.0, d), ell, alpha)
        free = ratios.masked_fill(at_cap, 0)
        free_sum, target = free.sum(-1, keepdim=True), total - at_cap.sum(-1, keepdim=True)
        slope = safe_pow(free, 1 - a).sum(-1, keepdim=True)
        excess = ell.exp() * free_sum - target
        low, high = torch.where(excess <= 0, ell, low), torch.where(excess >= 0, ell, high)
        middle = low + (high - low) / 2
        done = done | (excess.abs() <= 4 * eps * total) | (middle <= low) | (middle >= high)
        if steps == BRACKET_CAP or bool(done.all()):
            rough = excess.abs() > 4 * eps * total
            if not capped and bool(rough.any()):
                ratios = torch.where(rough, _between(d, low, high, ell, alpha, total), ratios)
            return Root(ell, ratios.masked_fill(at_cap, torch.inf), steps)
        solvable = (target > 0) & (free_sum > 0) & (slope < torch.inf)
        log_s = ell + (torch.where(solvable, free_sum, 1.0) / torch.where(solvable, target, 1.0)).log()
        trial = ell + _step(torch.where(solvable, free_sum, 1.0), torch.where(solvable, slope, 1.0), log_s, a)
        steps += 1
        trusted = solvable & (trial > low) & (trial < high) & (steps % 3 != 0)
        ell = torch.where(done, ell, torch.where(trusted, trial, middle))
