"""Alpha above 2, and caps: one row per program, in float64.

Above alpha = 2 the sum is not convex in the unknown, and derivatives are unbounded at the edge of the support. The
method is that of `kernels.reference.threshold.bracketed`: Newton inside a shrinking bracket for ell = log P, P being
the value of an entry with d = 0.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import INF, LN2, TINY, expm1, log2_1p
from .tiles import ALPHA, K, load_scores, parameter, rows_of_program, store_result

EPS = tl.constexpr(2.0**-52)
# Two Newton trials, then one bisection: at worst the 53 halvings of a double, tripled.
CAP = tl.constexpr(170)


@triton.jit
def log1p(x):
    return log2_1p(x, 1.0 + x) * LN2


@triton.jit
def inverse_power(ell, a):
    """P^-a, infinite where it is near the end of the range."""
    return tl.where(-a * ell < 700.0, tl.exp(tl.minimum(-a * ell, 700.0)), INF)


@triton.jit
def multiplier(ell, a):
    """lambda less the score that d is measured from: (1 - P^a)/a."""
    return -expm1(a * ell) / a


@triton.jit
def ratios(d, ell, a, CAPPED: tl.constexpr):
    """p/P = [1 + a d/P^a]_+^(1/a) of entries, a != 0; d may be positive below a cap."""
    c = inverse_power(ell, a)
    x = a * d * tl.where(c < INF, c, 1.0)
    inside = (x > -1.0) & (d > -INF) & (c < INF)
    r = tl.where(inside, tl.exp(log1p(tl.where(inside, x, 0.0)) / a), 0.0)
    if CAPPED:
        # Beyond the range of P^-a an entry above P is (e^t + 1)^(1/a) times P.
        above = (d > 0.0) & (c == INF)
        t = tl.log(a * tl.where(above, d, 1.0)) - a * ell
        r = tl.where(above, tl.exp((tl.maximum(t, 0.0) + log1p(tl.exp(-tl.abs(t)))) / a), r)
    return tl.where(d == 0.0, 1.0, r)


@triton.jit
def values(d, ell, a, CAPPED: tl.constexpr):
    """p of entries."""
    at_cap = (d >= multiplier(ell, a)) & CAPPED
    return tl.where(at_cap, 1.0, tl.exp(ell) * ratios(tl.where(at_cap, 0.0, d), ell, a, CAPPED))


@triton.jit
def distances(z, mask, where, row, live, j, n, origin):
    """Scores of a row measured from its origin."""
    return load_scores(z, mask, where, row, live, j, n).to(tl.float64) - origin[:, None]


@triton.jit(do_not_specialize=["rows"])
def solve_steep(
    z, p, kept, thresholds, mask, alpha, number: tl.float64, pivots, ks, k_number: tl.float64, where, rows, n,
    CAPPED: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Entmax of the rows with alpha > 2 (the others are left as they are), or, ``CAPPED``, budgets k of any alpha."""
    row, live = rows_of_program(rows, 1)
    alpha_row = parameter(number, alpha, where, ALPHA, row, live)
    k = parameter(k_number, ks, where, K, row, live) if CAPPED else tl.full([1], 1.0, tl.float64)
    j = tl.arange(0, B)
    steep = (alpha_row > 2.0) & (alpha_row < INF)
    mine = tl.max((live & (CAPPED | steep)).to(tl.int32), 0) > 0
    if mine:
        top, count, bad = tl.full([1], -INF, tl.float64), tl.zeros([1], tl.float64), tl.zeros([1], tl.int32)
        at = tl.full([], 0, tl.int64)
        while at < n:
            x = load_scores(z, mask, where, row, live, at + j, n).to(tl.float64)
            top, bad = tl.maximum(top, tl.max(x, 1)), bad | tl.max((x != x).to(tl.int32), 1)
            count += tl.sum((x > -INF).to(tl.float64), 1)
            at += B
        spoilt = (bad != 0) | (top == INF)
        empty = (top == -INF) & (bad == 0)
        fits = (alpha_row >= 0.0) & (alpha_row < INF) & (k > 0.0) & (k <= count) & (top > -INF) & ~spoilt
        a = tl.where(fits, tl.where(alpha_row == 1.0, TINY, alpha_row - 1.0), 1.0)
        whole = tl.ceil(tl.where(fits, k, 1.0))
        origin = tl.load(pivots + row, mask=live, other=0.0).to(tl.float64) if CAPPED else top
        origin = tl.where(fits, origin, 0.0)
        low = tl.where(fits, tl.log((k - whole + 1.0) / (count - whole + 1.0)), 0.0)
        high, ell = low * 0.0, low * 0.0
        exact = tl.zeros([1], tl.int32)
        step, going = 1, tl.max(fits.to(tl.int32), 0)
        while (step < CAP) & (going > 0):
            total, slope, capped = low * 0.0, low * 0.0, low * 0.0
            at = tl.full([], 0, tl.int64)
            while at < n:
                d = distances(z, mask, where, row, live, at + j, n, origin)
                at_cap = (d >= multiplier(ell, a)[:, None]) & CAPPED
                r = ratios(tl.where(at_cap, 0.0, d), ell[:, None], a[:, None], CAPPED)
                r = tl.where(at_cap, 0.0, r)
                inside = r > 0.0
                power = tl.exp((1.0 - a)[:, None] * tl.log(tl.where(inside, r, 1.0)))
                total += tl.sum(r, 1)
                slope += tl.sum(tl.where(inside, power, 0.0), 1)
                capped += tl.sum(at_cap.to(tl.float64), 1)
                at += B
            left = k - capped
            excess = tl.exp(ell) * total - left
            low, high = tl.where(excess <= 0.0, ell, low), tl.where(excess >= 0.0, ell, high)
            middle = low + (high - low) / 2.0
            exact = (tl.abs(excess) <= tl.maximum(left, 0.0) * (4.0 * EPS)).to(tl.int32)
            spent = (middle <= low) | (middle >= high)
            usable = (left > 0.0) & (total > 0.0) & (slope > 0.0) & (slope < INF) & (step % 3 != 0)
            log_s = ell + tl.log(tl.where(usable, total / tl.where(usable, left, 1.0), 1.0))
            relative = expm1(-a * log_s) * tl.where(usable, total / tl.where(usable, slope, 1.0), 0.0)
            usable = usable & (relative > -1.0)
            trial = ell + log1p(tl.where(usable, relative, 0.0)) / a
            usable = usable & (trial > low) & (trial < high)
            going = tl.max(((exact == 0) & ~spent).to(tl.int32), 0)
            ell = tl.where(going > 0, tl.where(usable, trial, middle), ell)
            step += 1
        low, high = tl.where(exact != 0, ell, low), tl.where(exact != 0, ell, high)
        # Where neighbouring ell miss the sum: the mixture of both whose sum is right.
        below, above = low * 0.0, low * 0.0
        at = tl.full([], 0, tl.int64)
        while at < n:
            d = distances(z, mask, where, row, live, at + j, n, origin)
            first = values(d, low[:, None], a[:, None], CAPPED)
            second = values(d, high[:, None], a[:, None], CAPPED)
            below, above = below + tl.sum(first, 1), above + tl.sum(second, 1)
            at += B
        apart = above > below
        share = tl.where(apart, (k - below) / tl.where(apart, above - below, 1.0), 0.0)
        share = tl.minimum(tl.maximum(share, 0.0), 1.0)
        # Then the last ulps go to the free entries.
        free, capped, factor = low * 0.0, low * 0.0, low * 0.0 + 1.0
        for sweep in tl.static_range(2):
            at = tl.full([], 0, tl.int64)
            while at < n:
                d = distances(z, mask, where, row, live, at + j, n, origin)
                q = values(d, low[:, None], a[:, None], CAPPED)
                other = values(d, high[:, None], a[:, None], CAPPED)
                q += share[:, None] * (other - q)
                at_cap = (q >= 1.0) & CAPPED
                if sweep == 0:
                    capped += tl.sum(at_cap.to(tl.float64), 1)
                    free += tl.sum(tl.where(at_cap, 0.0, q), 1)
                else:
                    q = tl.where(at_cap, q, tl.minimum(q * factor[:, None], 1.0))
                    q = tl.where(fits[:, None], q, tl.where(empty[:, None], 0.0, float("nan")))
                    store_result(p, where, row, live, at + j, n, q)
                    if kept is not None:
                        store_result(kept, where, row, live, at + j, n, q)
                at += B
            left = k - capped
            factor = tl.where((free > 0.0) & (left > 0.0), left / tl.where(free > 0.0, free, 1.0), 1.0)
        if thresholds is not None:
            lam = tl.where(fits, origin + multiplier(ell, a), tl.where(empty, -INF, float("nan")))
            tl.store(thresholds + row, lam.to(thresholds.dtype.element_ty), mask=live)
