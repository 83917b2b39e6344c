"""Rows of scores that come block by block, of which only what can be in the support is kept: one row per program.

The method is that of `kernels.cpu.screening`: the largest entry so far, and the unknown that makes the entries kept so
far right, bound the row's edge from below. Scores in half precision are off by up to ``slacks``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..output_layer import FEW as FEW_NUMBER
from ..output_layer import FULL as FULL_NUMBER
from ..output_layer import HALF_ULP as HALF_ULP_NUMBER
from ..output_layer import SPOILT as SPOILT_NUMBER
from .arithmetic import INF, POWER, edge
from .simplex import CLOSE, GUESSES, newton, state
from .tiles import number_of

FULL, SPOILT, FEW = tl.constexpr(FULL_NUMBER), tl.constexpr(SPOILT_NUMBER), tl.constexpr(FEW_NUMBER)
HALF_ULP = tl.constexpr(HALF_ULP_NUMBER)


@triton.jit
def unit(COMPUTE: tl.constexpr):
    """The unit in the last place of 1."""
    return 1.2e-7 if tl.float32 == COMPUTE else 2.3e-16


@triton.jit
def floor(top, alpha, COMPUTE: tl.constexpr):
    """Where an entry is zero whatever the others are; lower by some units in the last place."""
    a = (alpha - 1.0).to(COMPUTE)
    return tl.where(a > 0.0, top - 1.0 / tl.where(a > 0.0, a, 1.0) - tl.abs(top) * (4.0 * unit(COMPUTE)), -INF)


@triton.jit
def edge_among(
    d, packed, count, top, scale, exponent, solved, KIND: tl.constexpr, TILE: tl.constexpr, B: tl.constexpr,
    COMPUTE: tl.constexpr,
):  # fmt: skip
    """Below what a row is zero that has these entries among others: the tile d, or ``count`` in memory."""
    X = tl.full([1], -1.0 if KIND < POWER else 1.0, COMPUTE)
    Y = tl.zeros([1], COMPUTE)
    base = tl.where(solved, top, 0.0)
    X, Y, _, _ = newton(d, packed, 1, count, base, X, Y, scale, exponent, solved, CLOSE, GUESSES, KIND, TILE, False, B)
    # Lower by some units in the last place than `evaluate` may round, and than the sum with the top does.
    e = edge(X + Y, scale, KIND)
    return tl.where(solved, base + e - (tl.abs(base) - e) * (32.0 * unit(COMPUTE)), -INF)


@triton.jit
def tighten(values, places, count, low, B: tl.constexpr):
    """How many entries are left above ``low``, which move to the front."""
    j = tl.arange(0, B)[None, :]
    kept = tl.full([], 0, tl.int64)
    at = tl.full([], 0, tl.int64)
    while at < count:
        inside = at + j < count
        v = tl.load(values + at + j, mask=inside, other=-INF)
        w = tl.load(places + at + j, mask=inside, other=0)
        chosen = inside & (v > low[:, None])
        order = tl.cumsum(chosen.to(tl.int32), 1)
        # Entries move to where others of this part have been.
        tl.debug_barrier()
        tl.store(values + kept + order - 1, v, mask=chosen)
        tl.store(places + kept + order - 1, w, mask=chosen)
        kept += tl.max(tl.max(order, 1), 0).to(tl.int64)
        at += B
    tl.debug_barrier()
    return kept


@triton.jit
def margin_of(slack, top, cut, HALF: tl.constexpr):
    """How far below the edge entries are kept, whose scores and edge are off by their slack and by rounding."""
    if HALF:
        return 2.04 * (slack + HALF_ULP * tl.maximum(tl.abs(top), tl.abs(cut)))
    else:
        return slack * 0.0


@triton.jit(do_not_specialize=["columns", "begin", "capacity", "stride", "last"])
def screen(
    block, values, places, counts, tops, cuts, slacks, alpha, number: tl.float64, columns, begin, capacity, stride,
    last, HALF: tl.constexpr, KIND: tl.constexpr, B: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Add what matters of a block of columns to what is kept of a row."""
    row = tl.program_id(0).to(tl.int64)
    count = tl.load(counts + row)
    if count >= 0:
        rows = row + tl.arange(0, 1)
        everywhere = rows >= 0
        a = number_of(number, alpha, rows, everywhere)
        fits, scale, exponent = state(a, KIND)
        scale, exponent = scale.to(COMPUTE), exponent.to(COMPUTE)
        top, cut, slack = tl.load(tops + rows), tl.load(cuts + rows), tl.load(slacks + rows)
        row_values, row_places, scores = values + row * stride, places + row * stride, block + row * columns
        j = tl.arange(0, B)[None, :]
        if tl.max(top, 0) == -INF:
            best = tl.full([1, B], -INF, COMPUTE)
            at = tl.full([], 0, tl.int64)
            while at < columns:
                best = tl.maximum(best, tl.load(scores + at + j, mask=at + j < columns, other=-INF).to(COMPUTE))
                at += B
            top = tl.max(best, 1)
            solved = fits & (top > -INF) & (top < INF)
            d = best - tl.where(solved, top, 0.0)[:, None]
            cut = edge_among(d, row_values, 0, top, scale, exponent, solved, KIND, True, B, COMPUTE)
        before = count
        bad = tl.zeros([1], tl.int32)
        at = tl.full([], 0, tl.int64)
        while (at < columns) & (count >= 0):
            inside = at + j < columns
            x = tl.load(scores + at + j, mask=inside, other=-INF).to(COMPUTE)
            bad = bad | tl.max((x != x).to(tl.int32), 1)
            top = tl.maximum(top, tl.max(x, 1))
            cut = tl.maximum(cut, floor(top, a, COMPUTE))
            low = cut - margin_of(slack, top, cut, HALF)
            chosen = inside & (x > low[:, None])
            order = tl.cumsum(chosen.to(tl.int32), 1)
            tl.store(row_values + count + order - 1, x, mask=chosen)
            tl.store(row_places + count + order - 1, (begin + at + j).to(tl.int32), mask=chosen)
            count += tl.max(tl.max(order, 1), 0).to(tl.int64)
            at += B
            grown = (count > FEW) & ((count - before) * 3 > count)
            if (count > capacity) | ((at >= columns) & (grown | (last != 0))):
                tl.debug_barrier()
                solved = fits & (top > -INF) & (top < INF) & (count > 0)
                none = tl.full([1, B], 0.0, COMPUTE)
                own = edge_among(none, row_values, count, top, scale, exponent, solved, KIND, False, B, COMPUTE)
                cut = tl.maximum(cut, own)
                low = cut - margin_of(slack, top, cut, HALF)
                crowded = count > capacity
                count = tighten(row_values, row_places, count, low, B)
                if crowded & (count * 8 > capacity * 7):
                    count = tl.full([], FULL, tl.int64)
        # Without a finite score there is nothing to choose from.
        spoilt = (tl.max(bad, 0) != 0) | (tl.max(top, 0) == INF) | ((last != 0) & (count == 0))
        tl.store(counts + row, tl.where(spoilt, SPOILT, count))
        tl.store(tops + rows, top)
        tl.store(cuts + rows, cut)
