"""Entmax up to alpha = 2 and normmax: rows that fit into registers are read once, longer ones three times.

A long row's first reading finds the largest entry of each column of a tile. Those are entries of the row, so
the unknown that makes them right lies left of the row's own, and what is zero there is zero: the second reading moves
the other entries to the front of the row's result, where Newton finds them together; the third writes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import INF, NORMMAX, POWER, SPARSEMAX, TINY, accelerate, advance, arguments, edge, evaluate, expm1
from .tiles import ALPHA, RESULT, load_scores, parameter, place, rows_of_program, store_result

# A start need not be better than this: the rest of the row shifts the sum by more.
CLOSE = tl.constexpr(0.3)
# As on CPU: errors below NOISE tolerances are rounding if neither they nor the sums of the slopes shrink so far.
NOISE, SHRUNK, FELL = tl.constexpr(32.0), tl.constexpr(0.25), tl.constexpr(0.8)
GUESSES, SWEEPS = tl.constexpr(8), tl.constexpr(40)
# Entries per group whose largest gives the first guess, in rows that have a program of their own.
GROUP = tl.constexpr(16)


@triton.jit
def state(alpha, KIND: tl.constexpr):
    """(whether Newton solves rows of this alpha, scale, exponent)."""
    a = alpha - 1.0
    if KIND == NORMMAX:
        fits = (a > 0.0) & (a < INF)
        return fits, tl.full(a.shape, 1.0, a.dtype), tl.where(fits, a / (a + 1.0), 0.5)
    else:
        fits = (a >= -1.0) & (a <= 1.0)
        e = tl.where(fits, tl.where(a == 0.0, TINY, a), 0.5)
        return fits, e, e


@triton.jit
def sums(
    d, packed, stride, count, base, X, Y, scale, exponent, KIND: tl.constexpr, TILE: tl.constexpr, B: tl.constexpr
):
    """Sums of the values and slopes of rows: of the tile d, or of ``count`` entries in memory."""
    A, C, E = arguments(X, Y, scale, exponent, KIND)
    if TILE:
        p, w = evaluate(d, A[:, None], C[:, None], E[:, None], KIND)
    else:
        p, w = tl.zeros([1, B], X.dtype), tl.zeros([1, B], X.dtype)
        j = tl.arange(0, B)[None, :]
        at = tl.full([], 0, tl.int64)
        while at < count:
            x = tl.load(packed + (at + j) * stride, mask=at + j < count, other=-INF).to(X.dtype)
            v, s = evaluate(x - base[:, None], A[:, None], C[:, None], E[:, None], KIND)
            p, w = p + v, w + s
            at += B
    return tl.sum(p, 1), tl.sum(w, 1)


@triton.jit
def unsettled(off, before, W, heavier, tolerance):
    """Whether a row's sum is wrong by more than rounding: ``off``, and ``before`` the sweep before."""
    return (off > tolerance) & ((off > NOISE * tolerance) | (off < before * SHRUNK) | (heavier * FELL > W))


@triton.jit
def newton(
    d, packed, stride, count, base, X, Y, scale, exponent, todo, tolerance, CAP: tl.constexpr, KIND: tl.constexpr,
    TILE: tl.constexpr, LAST: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """(X, Y, S, W) of rows ``todo`` whose sum is right, S and W being the sums at X and Y. Unless it is the last stage,
    all that is wanted is an X left of the root.
    """
    before, heavier, S, W = X * 0.0 + INF, X * 0.0 + INF, X * 0.0 + 1.0, X * 0.0 + 1.0
    left, left_rest, right = X, Y, X * 0.0 + INF
    t, G, D = X * 0.0, X * 0.0, X * 0.0
    step = 0
    active = todo.to(tl.int32)
    while (step < CAP) & (tl.max(active, 0) > 0):
        S, W = sums(d, packed, stride, count, base, X, Y, scale, exponent, KIND, TILE, B)
        # Rows that are done, or not to be solved, must not disturb: their W may be 0.
        S_safe, W_safe = tl.where(active != 0, S, 1.0), tl.where(active != 0, W, 1.0)
        moved, rest, error = advance(S_safe, W_safe, X, Y, scale, exponent, KIND)
        off = tl.abs(error)
        wrong = unsettled(off, before, W_safe, heavier, tolerance) if LAST else off > tolerance
        # S and W are those at X, also if this was the last sweep.
        active = tl.where(wrong & (step < CAP - 1), active, 0)
        before, heavier = off, W_safe
        if LAST and KIND >= POWER:
            moved, rest, left, left_rest, right, t, G, D = accelerate(
                X, Y, moved, rest, left, left_rest, right, S_safe, W_safe, exponent, t, G, D
            )
        X, Y = tl.where(active != 0, moved, X), tl.where(active != 0, rest, Y)
        step += 1
    return X, Y, S, W


@triton.jit
def threshold_of(top, X, Y, S, exponent, KIND: tl.constexpr):
    """lambda of entmax, tau of normmax."""
    if KIND == NORMMAX:
        return top - 1.0 / (X + Y)
    elif KIND == POWER:
        e = exponent.to(tl.float64)
        return top - (expm1(-e * tl.log(S.to(tl.float64))) / e).to(top.dtype)
    elif KIND == SPARSEMAX:
        return top + (X + Y + 1.0)
    else:
        return top + 2.0 * (X + Y + 1.0)


@triton.jit
def finished(d, X, Y, factor, scale, exponent, solved, top, KIND: tl.constexpr):
    """p of a tile: of solved rows, and what the others become."""
    A, C, E = arguments(X, Y, scale, exponent, KIND)
    p, w = evaluate(d, A[:, None], C[:, None], E[:, None], KIND)
    if KIND == NORMMAX:
        p = w
    filler = tl.where(top == -INF, 0.0, float("nan"))
    return tl.where(solved[:, None], p * factor[:, None], filler[:, None])


@triton.jit(do_not_specialize=["rows"])
def solve(
    z, p, kept, thresholds, mask, alpha, number: tl.float64, where, rows, n, tolerance: tl.float64,
    KIND: tl.constexpr, R: tl.constexpr, B: tl.constexpr, ONE: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """p, and if asked for, p in full precision (``kept``) and thresholds."""
    row, live = rows_of_program(rows, R)
    fits, scale, exponent = state(parameter(number, alpha, where, ALPHA, row, live), KIND)
    scale, exponent = scale.to(COMPUTE), exponent.to(COMPUTE)
    eps = 1.2e-7 if tl.float32 == COMPUTE else 2.3e-16
    X = tl.full([R], -1.0 if KIND < POWER else 1.0, COMPUTE)
    Y = tl.zeros([R], COMPUTE)
    j = tl.arange(0, B)
    if ONE:
        x = load_scores(z, mask, where, row, live, j, n).to(COMPUTE)
        bad = tl.max((x != x).to(tl.int32), 1) != 0
    else:
        x = tl.full([R, B], -INF, COMPUTE)
        nans = tl.zeros([R, B], tl.int32)
        at = tl.full([], 0, tl.int64)
        while at < n:
            u = load_scores(z, mask, where, row, live, at + j, n).to(COMPUTE)
            x, nans = tl.maximum(x, u), nans | (u != u).to(tl.int32)
            at += B
        bad = tl.max(nans, 1) != 0
    top = tl.where(bad, float("nan"), tl.max(x, 1))
    todo = (top > -INF) & (top < INF) & fits
    base = tl.where(todo, top, 0.0)
    d = x - base[:, None]
    first, stride = place(where, RESULT, row, n)
    packed, count = p, tl.full([], 0, tl.int64)
    if ONE:
        # Entries may be regrouped at no cost, but of several rows they would change rows too; and compilers fail on
        # groups that keep their order (Triton 3.6).
        if R == 1 and B > GROUP:
            best = tl.max(tl.reshape(d, [R, B // GROUP, GROUP], can_reorder=True), 2)
            X, Y, S, W = newton(best, p, 1, 0, base, X, Y, scale, exponent, todo, CLOSE, GUESSES, KIND, True, False, B)
    else:
        X, Y, S, W = newton(d, p, 1, 0, base, X, Y, scale, exponent, todo, CLOSE, GUESSES, KIND, True, False, B)
        # Wider by some units in the last place than `evaluate` may round.
        cut = edge(X + Y, scale, KIND) * (1.0 + 32.0 * eps)
        packed = p + tl.sum(first, 0)
        at = tl.full([], 0, tl.int64)
        while at < n:
            u = load_scores(z, mask, where, row, live, at + j, n)
            inside = ((u.to(COMPUTE) - base[:, None]) > cut[:, None]) & todo[:, None]
            places = tl.cumsum(inside.to(tl.int32), 1)
            tl.store(packed + (count + places - 1) * stride, u.to(p.dtype.element_ty), mask=inside)
            count += tl.max(tl.max(places, 1), 0).to(tl.int64)
            at += B
        tl.debug_barrier()
    X, Y, S, W = newton(
        d, packed, stride, count, base, X, Y, scale, exponent, todo, tolerance, SWEEPS, KIND, ONE, True, B
    )
    factor = X * 0.0 + 1.0
    if KIND == POWER:
        factor = 1.0 / S
    if KIND == NORMMAX:
        factor = 1.0 / W
    if ONE:
        q = finished(d, X, Y, factor, scale, exponent, todo, top, KIND)
        store_result(p, where, row, live, j, n, q)
        if kept is not None:
            store_result(kept, where, row, live, j, n, q)
    else:
        tl.debug_barrier()
        at = tl.full([], 0, tl.int64)
        while at < n:
            u = load_scores(z, mask, where, row, live, at + j, n).to(COMPUTE)
            q = finished(u - base[:, None], X, Y, factor, scale, exponent, todo, top, KIND)
            store_result(p, where, row, live, at + j, n, q)
            if kept is not None:
                store_result(kept, where, row, live, at + j, n, q)
            at += B
    if thresholds is not None:
        lam = threshold_of(top, X, Y, S, exponent, KIND)
        lam = tl.where(todo, lam, tl.where(top == -INF, -INF, float("nan")))
        tl.store(thresholds + row, lam.to(thresholds.dtype.element_ty), mask=live)
