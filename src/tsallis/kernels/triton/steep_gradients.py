"""Backward pass above alpha = 2 and of budgets, one row per program, in float64.

Weights p^(2 - alpha) may leave the range of numbers where the product J g does not. J annihilates constants, so what it
is applied to is measured from its value at the heaviest free entry, which then enters only by what the others exchange
with it (`core.domains.SumConstrained`).
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import INF, log2, tsallis_log_slope
from .tiles import ALPHA, load_pair, load_result, parameter, rows_of_program, store_result


@triton.jit
def power(q, inside, exponent):
    """q^exponent where inside, else 0."""
    return tl.where(inside, tl.exp2(exponent * log2(tl.where(inside, q, 1.0))), 0.0)


@triton.jit
def vanishing_times(x, y):
    """x * y where y = 0 wins over an infinite x."""
    return tl.where(y == 0.0, 0.0, tl.where(y == 0.0, 1.0, x) * y)


@triton.jit
def free(q, CAPPED: tl.constexpr):
    """Which entries are at no bound."""
    inside = q > 0.0
    if CAPPED:
        inside = inside & (q < 1.0)
    return inside


@triton.jit
def direction(q, v, a, inside, OWN: tl.constexpr):
    """g, or with ``OWN`` the derivative of the deformed logarithm in alpha at p."""
    if OWN:
        return tl.where(inside, tsallis_log_slope(tl.where(inside, q, 1.0), a[:, None]), 0.0)
    else:
        return v


@triton.jit
def tangent(
    p, g, dz, where, row, live, n, e, scale, origin, shares, bad,
    CAPPED: tl.constexpr, OWN: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """J times the direction, whose value at the heaviest entry is ``origin``: written to dz, or times g if ``OWN``."""
    j = tl.arange(0, B)
    total, mean, product = scale * 0.0, scale * 0.0, scale * 0.0
    at = tl.full([], 0, tl.int64)
    while at < n:
        q, v = load_pair(p, g, where, row, live, at + j, n, tl.float64)
        inside = free(q, CAPPED)
        x = tl.where(inside, direction(q, v, 1.0 - e, inside, OWN) - origin[:, None], 0.0)
        total += tl.sum(vanishing_times(power(q, inside, e[:, None]), x), 1)
        mean += tl.sum(power(q / scale[:, None], inside, e[:, None]) / shares[:, None] * x, 1)
        at += B
    fits = tl.abs(total) < INF
    at = tl.full([], 0, tl.int64)
    while at < n:
        q, v = load_pair(p, g, where, row, live, at + j, n, tl.float64)
        inside = free(q, CAPPED)
        x = tl.where(inside, direction(q, v, 1.0 - e, inside, OWN) - origin[:, None], 0.0)
        w = power(q, inside, e[:, None])
        share = power(q / scale[:, None], inside, e[:, None]) / shares[:, None]
        known = vanishing_times(w, x) - share * tl.where(fits, total, 0.0)[:, None]
        d = tl.where(fits[:, None], known, vanishing_times(w, x - mean[:, None]))
        d = tl.where(inside, d, 0.0)
        if OWN:
            product += tl.sum(vanishing_times(d, v), 1)
        else:
            store_result(dz, where, row, live, at + j, n, tl.where(bad[:, None] != 0, float("nan"), d))
        at += B
    return product


@triton.jit(do_not_specialize=["rows"])
def steep_gradient(
    p, g, dz, dalpha, dk, alpha, number: tl.float64, where, rows, n, CAPPED: tl.constexpr, B: tl.constexpr
):
    """Gradients of entmax rows with alpha > 2 (the others are left as they are), or, ``CAPPED``, of budgets."""
    row, live = rows_of_program(rows, 1)
    alpha_row = parameter(number, alpha, where, ALPHA, row, live)
    j = tl.arange(0, B)
    mine = tl.max((live & (CAPPED | (alpha_row > 2.0))).to(tl.int32), 0) > 0
    if mine:
        lightest, heaviest = tl.full([1], INF, tl.float64), tl.zeros([1], tl.float64)
        bad = tl.zeros([1], tl.int32)
        at = tl.full([], 0, tl.int64)
        while at < n:
            q = load_result(p, where, row, live, at + j, n).to(tl.float64)
            inside = free(q, CAPPED)
            lightest = tl.minimum(lightest, tl.min(tl.where(inside, q, INF), 1))
            heaviest = tl.maximum(heaviest, tl.max(tl.where(inside, q, 0.0), 1))
            bad = bad | tl.max((q != q).to(tl.int32), 1)
            at += B
        e = 2.0 - alpha_row
        some = heaviest > 0.0
        scale = tl.where(some, tl.where(e < 0.0, lightest, heaviest), 1.0)
        shares, product, origin = scale * 0.0, scale * 0.0, scale * 0.0 - INF
        at = tl.full([], 0, tl.int64)
        while at < n:
            q, v = load_pair(p, g, where, row, live, at + j, n, tl.float64)
            inside = free(q, CAPPED)
            share = power(q / scale[:, None], inside, e[:, None])
            shares += tl.sum(share, 1)
            product += tl.sum(share * v, 1)
            origin = tl.maximum(origin, tl.max(tl.where(inside & (q == scale[:, None]), v, -INF), 1))
            at += B
        shares = tl.where(some, shares, 1.0)
        origin = tl.where(origin > -INF, origin, 0.0)
        if dk is not None:
            tl.store(dk + row, tl.where(bad != 0, float("nan"), product / shares).to(dk.dtype.element_ty), mask=live)
        tangent(p, g, dz, where, row, live, n, e, scale, origin, shares, bad, CAPPED, False, B)
        if dalpha is not None:
            own = tl.where(some, tsallis_log_slope(scale, 1.0 - e), 0.0)
            moved = -tangent(p, g, dz, where, row, live, n, e, scale, own, shares, bad, CAPPED, True, B)
            tl.store(dalpha + row, tl.where(bad != 0, float("nan"), moved).to(dalpha.dtype.element_ty), mask=live)
