"""Backward passes: from p and the gradient in p to that in the scores and, row by row, in alpha.

    dz = w (g - <w, g>/sum w),  w = p^(2 - alpha) on the support                          (entmax up to alpha = 2)
    dz = [b (g - <p, g>) - p <b, g - <p, g>>]/a,  b = p r^(-a), r = p/|p|, a = alpha - 1    (normmax)
    dalpha = -<dz, D>,  D the derivative of grad Omega in alpha

Rows that fit into registers are read once, longer ones once for each sum that needs the one before. Normmax is computed
in float64: its powers of r differ by more than float32 holds.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import INF, LN2, log2, tsallis_log_slope, weight
from .tiles import ALPHA, load_pair, load_result, parameter, rows_of_program, store_result


@triton.jit
def slope_of(p, alpha):
    """D on the support."""
    inside = p > 0.0
    return tl.where(inside, tsallis_log_slope(tl.where(inside, p, 1.0), alpha[:, None] - 1.0), 0.0)


@triton.jit
def entmax_sums(p, g, alpha, KIND: tl.constexpr, WANTED: tl.constexpr):
    """Sums of w, w g and, if wanted, w D, and whether there is a NaN."""
    w = weight(p, alpha[:, None], KIND)
    W = tl.sum(w, 1)
    D = tl.sum(w * slope_of(p, alpha), 1) if WANTED else W * 0.0
    return W, tl.sum(w * g, 1), D, tl.max((p != p).to(tl.int32), 1)


@triton.jit
def entmax_share(p, g, alpha, mean, bad, origin, KIND: tl.constexpr, WANTED: tl.constexpr):
    """dz of a tile, and the sum of dz (D - origin) if wanted."""
    d = weight(p, alpha[:, None], KIND) * (g - mean[:, None])
    total = tl.sum(d * (slope_of(p, alpha) - origin[:, None]), 1) if WANTED else mean * 0.0
    return tl.where(bad[:, None] != 0, float("nan"), d), total


@triton.jit(do_not_specialize=["rows"])
def entmax_gradient(
    p, g, dz, dalpha, alpha, number: tl.float64, where, rows, n,
    KIND: tl.constexpr, R: tl.constexpr, B: tl.constexpr, ONE: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Gradients of rows with alpha up to 2."""
    row, live = rows_of_program(rows, R)
    a = parameter(number, alpha, where, ALPHA, row, live).to(COMPUTE)
    j = tl.arange(0, B)
    WANTED: tl.constexpr = dalpha is not None
    q, v = load_pair(p, g, where, row, live, j, n, COMPUTE)
    W, G, D, bad = entmax_sums(q, v, a, KIND, WANTED)
    if not ONE:
        at = tl.full([], B, tl.int64)
        while at < n:
            q, v = load_pair(p, g, where, row, live, at + j, n, COMPUTE)
            more_W, more_G, more_D, more_bad = entmax_sums(q, v, a, KIND, WANTED)
            W, G, D, bad = W + more_W, G + more_G, D + more_D, bad | more_bad
            at += B
    W = tl.where(W > 0.0, W, 1.0)
    # The dz sum to zero, so D may be measured from any value; from its mean, the rounding of the other mean is no loss.
    mean, origin = G / W, D / W
    if ONE:
        d, total = entmax_share(q, v, a, mean, bad, origin, KIND, WANTED)
        store_result(dz, where, row, live, j, n, d)
    else:
        total, at = mean * 0.0, tl.full([], 0, tl.int64)
        while at < n:
            q, v = load_pair(p, g, where, row, live, at + j, n, COMPUTE)
            d, part = entmax_share(q, v, a, mean, bad, origin, KIND, WANTED)
            store_result(dz, where, row, live, at + j, n, d)
            total += part
            at += B
    if WANTED:
        tl.store(dalpha + row, tl.where(bad != 0, float("nan"), -total).to(dalpha.dtype.element_ty), mask=live)


@triton.jit
def logs(q, length):
    """log r on the support, and the support."""
    inside = q > 0.0
    return tl.where(inside, log2(tl.where(inside, q, 1.0)) * LN2 - length[:, None], 0.0), inside


@triton.jit
def power_of(q, length, exponent):
    """q r^exponent."""
    log_r, inside = logs(q, length)
    return tl.where(inside, q * tl.exp(exponent[:, None] * log_r), 0.0)


@triton.jit(do_not_specialize=["rows"])
def normmax_gradient(
    p, g, dz, dalpha, alpha, number: tl.float64, where, rows, n,
    R: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Gradients of normmax rows, in float64."""
    row, live = rows_of_program(rows, R)
    A = parameter(number, alpha, where, ALPHA, row, live)
    j = tl.arange(0, B)
    top, bad = tl.zeros([R], tl.float64), tl.zeros([R], tl.int32)
    at = tl.full([], 0, tl.int64)
    while at < n:
        q = load_result(p, where, row, live, at + j, n).to(tl.float64)
        top, bad = tl.maximum(top, tl.max(q, 1)), bad | tl.max((q != q).to(tl.int32), 1)
        at += B
    some = top > 0.0
    log_top = log2(tl.where(some, top, 1.0)) * LN2
    norm, origin = top * 0.0, top * 0.0 - INF
    at = tl.full([], 0, tl.int64)
    while at < n:
        q, v = load_pair(p, g, where, row, live, at + j, n, tl.float64)
        log_q, inside = logs(q, log_top)
        norm += tl.sum(tl.where(inside, tl.exp(A[:, None] * log_q), 0.0), 1)
        # The Jacobian annihilates constants, here exactly: g is measured from its value at a largest entry.
        origin = tl.maximum(origin, tl.max(tl.where((q == top[:, None]) & inside, v, -INF), 1))
        at += B
    origin = tl.where(origin > -INF, origin, 0.0)
    # log |p|
    length = log_top + log2(tl.where(norm > 0.0, norm, 1.0)) * LN2 / A
    mean, slope = top * 0.0, top * 0.0
    at = tl.full([], 0, tl.int64)
    while at < n:
        q, v = load_pair(p, g, where, row, live, at + j, n, tl.float64)
        log_r, inside = logs(q, length)
        mean += tl.sum(tl.where(inside, q * (v - origin[:, None]), 0.0), 1)
        slope += tl.sum(tl.where(inside, tl.exp(A[:, None] * log_r) * log_r, 0.0), 1)
        at += B
    slope = slope / A
    total = top * 0.0
    at = tl.full([], 0, tl.int64)
    while at < n:
        q, v = load_pair(p, g, where, row, live, at + j, n, tl.float64)
        total += tl.sum(power_of(q, length, 1.0 - A) * (v - (origin + mean)[:, None]), 1)
        at += B
    moved = top * 0.0
    at = tl.full([], 0, tl.int64)
    while at < n:
        q, v = load_pair(p, g, where, row, live, at + j, n, tl.float64)
        log_r, inside = logs(q, length)
        b = power_of(q, length, 1.0 - A)
        d = (b * (v - (origin + mean)[:, None]) - q * total[:, None]) / (A - 1.0)[:, None]
        d = tl.where(inside, d, 0.0)
        if dalpha is not None:
            a = (A - 1.0)[:, None]
            moved -= tl.sum(tl.where(inside, d * tl.exp(a * log_r) * (log_r - a * slope[:, None]), 0.0), 1)
        store_result(dz, where, row, live, at + j, n, tl.where(bad[:, None] != 0, float("nan"), d))
        at += B
    if dalpha is not None:
        tl.store(dalpha + row, tl.where(bad != 0, float("nan"), moved).to(dalpha.dtype.element_ty), mask=live)
