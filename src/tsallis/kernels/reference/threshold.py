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

import math
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
    """log P (..., 1), p (..., n) with its sum right to a few ulps, and what finding them took.

    ``steps`` counts Newton steps on whole rows; each is a sweep, and one more sweep finds that none is needed.
    ``stage`` is the work of finding the start from block maxima, in sweeps over whole rows.
    """

    ell: Tensor
    p: Tensor
    steps: int
    stage: float = 0.0


def multiplier(ell: Tensor, alpha: Tensor) -> Tensor:
    """lambda - max z = (1 - P^a)/a at P = e^ell, smooth at a = 0."""
    return -ell * phi((alpha - 1) * ell)


def _ratios(d: Tensor, ell: Tensor, alpha: Tensor) -> Tensor:
    """p_i / P = [1 + a d_i / P^a]^(1/a) of entries that are not at a cap."""
    a = alpha - 1
    stretched = torch.where(d == 0, 0.0, d * (-a * ell).exp())
    # For large alpha P^-a may overflow. Then entries below P vanish, and those equal to it stay, as they should.
    steep = -a * ell > math.log(torch.finfo(d.dtype).max) - 1
    if not bool(steep.any()):
        return tsallis_exp(stretched, alpha)
    # Above P, which only a cap allows, the bracket is 1 + e^t with a large t.
    above = steep & (d > 0)
    t = torch.where(above, a * d, 1.0).log() - a * ell
    raised = (torch.logaddexp(t, torch.zeros_like(t)) / torch.where(above, a, 1.0)).exp()
    return torch.where(above, raised, tsallis_exp(torch.where(above, 0.0, stretched), alpha))


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
    return padded.unflatten(-1, (-1, BLOCK)).amax(-1)


def newton(d: Tensor, alpha: Tensor) -> Root:
    """Monotone Newton for rows with 0 <= alpha <= 2 and maximum score 0."""
    a, eps = alpha - 1, torch.finfo(d.dtype).eps
    ell, steps, stage = torch.zeros_like(alpha), 0, 0.0
    if d.shape[-1] >= LONG_ROW:
        start = newton(_block_maxima(d), alpha)
        ell, stage = start.ell, (start.steps + 1 + start.stage) / BLOCK
    while True:
        ratios = _ratios(d, ell, alpha)
        total = ratios.sum(-1, keepdim=True)
        log_s = ell + total.log()
        change = _step(total, safe_pow(ratios, 1 - a).sum(-1, keepdim=True), log_s, a)
        # Rounding may put a converged row right of its root; it then stays where it is.
        change = torch.where(log_s > 16 * eps, change, 0.0)
        if steps == NEWTON_CAP or bool((change.abs() <= eps * (1 + ell.abs())).all()):
            return Root(ell, ell.exp() * ratios, steps, stage)
        ell = ell + change
        steps += 1


def _capped(d: Tensor, ell: Tensor, alpha: Tensor, capped: bool) -> tuple[Tensor, Tensor]:
    """(ratios of the free entries, which entries are at the cap); a capped entry has ratio 0."""
    at_cap = d >= multiplier(ell, alpha) if capped else torch.zeros_like(d, dtype=torch.bool)
    return _ratios(torch.where(at_cap, 0.0, d), ell, alpha).masked_fill(at_cap, 0), at_cap


def _between(low: Tensor, high: Tensor, total: Tensor) -> Tensor:
    """The mixture of the results at both ends of an exhausted bracket whose sum is right.

    Near the edge of the support p is so steep that neighbouring values of ell may miss the sum by many ulps. Dividing
    by the sum would spread that over the largest entries, which are accurate; the mixture moves only those that differ,
    and stays in the box.
    """
    first, last = low.sum(-1, keepdim=True), high.sum(-1, keepdim=True)
    share = ((total - first) / torch.where(last > first, last - first, 1.0)).clamp(0, 1)
    return low + share * (high - low)


def bracketed(d: Tensor, alpha: Tensor, low: Tensor, total: Tensor, *, capped: bool) -> Root:
    """Safeguarded Newton for sum p = total with log P in [low, 0], P being the value of a score d = 0; with ``capped``,
    p_i <= 1 and ``d`` may be positive.
    """
    a, eps = alpha - 1, torch.finfo(d.dtype).eps
    high, ell = torch.zeros_like(low), torch.zeros_like(low)
    done = torch.zeros_like(low, dtype=torch.bool)
    steps = 0
    while True:
        free, at_cap = _capped(d, ell, alpha, capped)
        free_sum, target = free.sum(-1, keepdim=True), total - at_cap.sum(-1, keepdim=True)
        slope = safe_pow(free, 1 - a).sum(-1, keepdim=True)
        # Measured by what is left for the free entries, which carry the error: the count of the others is exact.
        excess, tolerance = ell.exp() * free_sum - target, 4 * eps * target.clamp_min(0)
        low, high = torch.where(excess <= 0, ell, low), torch.where(excess >= 0, ell, high)
        middle = low + (high - low) / 2
        done = done | (excess.abs() <= tolerance) | (middle <= low) | (middle >= high)
        if steps == BRACKET_CAP or bool(done.all()):
            break
        solvable = (target > 0) & (free_sum > 0) & (slope < torch.inf)
        log_s = ell + (torch.where(solvable, free_sum, 1.0) / torch.where(solvable, target, 1.0)).log()
        trial = ell + _step(torch.where(solvable, free_sum, 1.0), torch.where(solvable, slope, 1.0), log_s, a)
        steps += 1
        trusted = solvable & (trial > low) & (trial < high) & (steps % 3 != 0)
        ell = torch.where(done, ell, torch.where(trusted, trial, middle))
    p = torch.where(at_cap, 1.0, ell.exp() * free)
    rough = excess.abs() > tolerance
    if bool(rough.any()):
        ends = [_capped(d, end, alpha, capped) for end in (low, high)]
        below, above = (torch.where(c, 1.0, e.exp() * r) for (r, c), e in zip(ends, (low, high), strict=True))
        p = torch.where(rough, _between(below, above, total), p)
    return Root(ell, p, steps)
