"""Rows of scores that come block by block, of which only what can be in the support is kept.

The largest entry so far, and the unknown that makes the entries kept so far right, bound the row's edge from below:
both are found among entries of the row. What lies below is dropped, at once or when the edge has moved. What is left in
the end is solved.

Scores in half precision are off by up to ``slack``. The edge moves by no more than the scores do, and an entry by as
much again: what lies less than twice the slack below the edge is kept.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from ..output_layer import FEW, FULL, HALF_ULP, SPOILT
from .arithmetic import greater, like, unordered
from .compiler import SOURCE, Entry, device
from .long import CLOSE, GUESSES, make_long
from .losses import make_sums, steep_sums
from .rows import BLOCK as BLOCK_OF_ROW
from .rows import BYTE, DOUBLE, INTEGER
from .simd import (
    INF,
    NAN,
    add_up,
    epsilon,
    first_of,
    intrinsic,
    lanes,
    largest,
    llvm_type,
    load,
    offset,
    peek,
    pointer,
    poke,
    some,
    splat,
    store,
    vector_at,
    vector_of,
)  # fmt: skip
from .simplex import MEMBERS, POWER, state_of
from .steep import entmax_row
from .sweeps import make_sweep
from .tiles import tile

# A job: addresses (0 where there is nothing), then sizes.
(
    BLOCK, VALUES, PLACES, COUNTS, TOPS, CUTS, SLACKS, ALPHA, TARGET_SCORES, LOSSES, SLOPES, WORK,
    COLUMNS, START, CAPACITY, LAST, TARGETS,
) = range(17)  # fmt: skip
PLACE, HALF = np.int32(0), np.uint16(0)


@intrinsic
def load_half(typingctx: Any, ptr: Any, index: Any, like: Any) -> Any:
    """A vector of bfloat16 as numbers of the type behind ``like`` (float32)."""
    vector = vector_of(like.dtype)

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        target = llvm_type(context, vector)
        halves = ir.VectorType(ir.IntType(16), target.count)
        words = ir.VectorType(ir.IntType(32), target.count)
        raw = builder.load(vector_at(builder, args[0], args[1], halves), align=2)
        shifted = builder.shl(builder.zext(raw, words), ir.Constant(words, [16] * target.count))
        return builder.bitcast(shifted, target)

    return vector(ptr, types.int64, like), code


@device
def scratch(capacity, L):
    """How many numbers of scratch memory a thread needs to finish rows of at most so many entries."""
    return 3 * (capacity + 2 * L) + capacity // BLOCK_OF_ROW + 2 * L


@device
def floor(top, alpha, numbers):
    """Where an entry is zero whatever the others are; lower by some units in the last place."""
    return top - 1.0 / (alpha - 1.0) - 4.0 * epsilon(numbers) * abs(top) if alpha > 1.0 else -INF


def _make_edge(kind: int) -> Any:
    evaluate, arguments, advance, edge, start, _, _ = MEMBERS[kind]
    sums = make_sweep(evaluate, write=False)

    @device
    def edge_among(values, span, top, scale, exponent):
        """Below what a row is zero that has these entries among others: whole vectors of them."""
        M = splat(values, top)
        X, Y = like(M, start), like(M, 0.0)
        K, E = splat(values, scale), splat(values, exponent)
        for _ in range(GUESSES):
            A, B, C = arguments(M, X, Y, K, E)
            s, w = sums(values, values, span, top, first_of(A), first_of(B), first_of(C))
            X, Y, error = advance(splat(values, add_up(s)), splat(values, add_up(w)), X, Y, K, E)
            if first_of(error) < CLOSE:
                break
        # Lower by some units in the last place than `evaluate` may round, and than the sum with the top does.
        d = first_of(edge(X + Y, K))
        return top + d - 32.0 * epsilon(values) * (abs(top) - d)

    return edge_among


def _make_tighten(edge_among: Any) -> Any:
    @device
    def tighten(values, places, count, top, cut, margin, scale, exponent, solved):
        """(count, cut) after moving the edge to where the entries kept so far have it."""
        L = lanes(values)
        if solved:
            for i in range(L):
                poke(values, count + i, -INF)
            cut = max(cut, edge_among(values, (count + L - 1) // L * L, top, scale, exponent))
        kept = 0
        for k in range(count):
            value, place = peek(values, k), peek(places, k)
            poke(values, kept, value)
            poke(places, kept, place)
            kept += value > cut - margin
        return kept, cut

    return tighten


@cache
def screen(kind: int, half: bool) -> Entry:
    """Add what matters of a block of columns to what is kept of rows."""
    edge_among = _make_edge(kind)
    tighten = _make_tighten(edge_among)
    source = SOURCE

    @device
    def block_top(row, columns, buffer, numbers):
        """The largest entry, those of each lane being left in the buffer; NaN may be passed over."""
        L = lanes(numbers)
        best = splat(numbers, -INF)
        for j in range(0, columns - L + 1, L):
            best = greater(load_half(row, j, numbers) if half else load(row, j), best)
        rest = columns // L * L
        if rest < columns:
            store(buffer, 0, load_half(row, rest, numbers) if half else load(row, rest))
            for i in range(columns - rest, L):
                poke(buffer, i, -INF)
            best = greater(load(buffer, 0), best)
        store(buffer, 0, best)
        return largest(best)

    @device
    def margin_of(slack, top, cut):
        """How far below the edge entries are kept, whose scores and edge are off by their slack and by rounding."""
        return 2.04 * (slack + HALF_ULP * max(abs(top), abs(cut))) if half else 0.0 * slack

    def kernel(job_at, value, other, one, first, last, chunk):
        """``value`` is alpha, if it is the same for all rows."""
        _ = source
        job = pointer(job_at, INTEGER)
        columns, begin, capacity = peek(job, COLUMNS), peek(job, START), peek(job, CAPACITY)
        counts, alphas = pointer(peek(job, COUNTS), INTEGER), pointer(peek(job, ALPHA), DOUBLE)
        tops, cuts, slacks = (
            pointer(peek(job, TOPS), one), pointer(peek(job, CUTS), one), pointer(peek(job, SLACKS), one)
        )  # fmt: skip
        block = pointer(peek(job, BLOCK), HALF if half else one)
        L = lanes(tops)
        buffer = tile(tops)
        for r in range(first, last):
            count = peek(counts, r)
            if count < 0:
                continue
            values = offset(pointer(peek(job, VALUES), one), r * (capacity + L))
            places = offset(pointer(peek(job, PLACES), PLACE), r * (capacity + L))
            row = offset(block, r * columns)
            alpha = peek(alphas, r) if peek(job, ALPHA) != 0 else value
            solved, scale, exponent = state_of(kind, alpha)
            top, cut = peek(tops, r), peek(cuts, r)
            if top == -INF:
                top = block_top(row, columns, buffer, tops)
                if solved and -INF < top < INF:
                    cut = edge_among(buffer, L, top, scale, exponent)
            slack = peek(slacks, r)
            cut = max(cut, floor(top, alpha, tops))
            margin = margin_of(slack, top, cut)
            low, before, bad = splat(tops, cut - margin), count, unordered(splat(tops, 0.0), splat(tops, 0.0))
            for j in range(0, columns, L):
                x = load_half(row, j, tops) if half else load(row, j)
                part = min(L, columns - j)
                if part < L:
                    # What lies behind the row may be read, but is not of it.
                    store(buffer, 0, x)
                    for i in range(part, L):
                        poke(buffer, i, -INF)
                    x = load(buffer, 0)
                bad = bad | unordered(x, x)
                if not some(x > low):
                    continue
                store(buffer, 0, x)
                for i in range(part):
                    v = peek(buffer, i)
                    if v > cut - margin and count >= 0:
                        if v > top:
                            top = v
                            cut = max(cut, floor(top, alpha, tops))
                            margin = margin_of(slack, top, cut)
                        if count == capacity:
                            count, cut = tighten(values, places, count, top, cut, margin, scale, exponent, solved)
                            margin = margin_of(slack, top, cut)
                            if count * 8 > capacity * 7:
                                count = FULL
                        if count >= 0 and v > cut - margin:
                            poke(values, count, v)
                            poke(places, count, begin + j + i)
                            count += 1
                if count < 0:
                    break
                low = splat(tops, cut - margin)
            if some(bad) or top == INF:
                poke(counts, r, SPOILT)
                continue
            if count > FEW and (count - before) * 3 > count:
                count, cut = tighten(values, places, count, top, cut, margin, scale, exponent, solved)
            if peek(job, LAST) != 0:
                if count > 0:
                    count, cut = tighten(values, places, count, top, cut, margin, scale, exponent, solved)
                elif count == 0:
                    # All scores are -inf: there is nothing to choose from.
                    count = SPOILT
            poke(counts, r, count)
            poke(tops, r, top)
            poke(cuts, r, cut)

    return Entry(kernel)


@cache
def finish(kind: int) -> Entry:
    """Solve what was kept: probabilities and places of the support, and the losses."""
    evaluate, arguments, advance, edge, start, normalise, slopes = MEMBERS[kind]
    solve_row = make_long(evaluate, arguments, advance, edge, start, normalise, slopes)
    member_sums = make_sums(kind)
    source = SOURCE

    def kernel(job_at, value, other, one, first, last, chunk):
        _ = source
        job = pointer(job_at, INTEGER)
        capacity = peek(job, CAPACITY)
        counts, alphas = pointer(peek(job, COUNTS), INTEGER), pointer(peek(job, ALPHA), DOUBLE)
        scores, losses = pointer(peek(job, TARGET_SCORES), one), pointer(peek(job, LOSSES), one)
        targets = pointer(peek(job, TARGETS), INTEGER)
        wanted = peek(job, SLOPES) != 0
        L = lanes(losses)
        p = offset(pointer(peek(job, WORK), one), chunk * scratch(capacity, L))
        work = offset(p, capacity + 2 * L)
        state = tile(losses)
        for r in range(first, last):
            count = peek(counts, r)
            loss, slope = NAN, NAN
            if count > 0:
                values = offset(pointer(peek(job, VALUES), one), r * (capacity + L))
                places = offset(pointer(peek(job, PLACES), PLACE), r * (capacity + L))
                alpha = peek(alphas, r) if peek(job, ALPHA) != 0 else value
                solved, scale, exponent = state_of(kind, alpha)
                zy = float(peek(scores, r))
                for k in range(count):
                    # The same number as among the entries, where it is one of them: a loss of 0 is 0 then.
                    zy = float(peek(values, k)) if peek(places, k) == peek(targets, r) else zy
                if kind == POWER and alpha > 2.0:
                    top = peek(values, 0)
                    for k in range(count):
                        top = max(top, peek(values, k))
                    entmax_row(values, p, count, top, alpha)
                    inner, entropy, slope, _ = steep_sums(values, p, count, zy, alpha)
                    loss = inner + entropy
                elif solved:
                    maxima = offset(work, 2 * (count + L))
                    K, E = splat(losses, scale), splat(losses, exponent)
                    none = pointer(peek(job, COUNTS), BYTE)
                    solve_row(values, p, count, K, E, maxima, work, offset(work, count + L), none, False, False, state)
                    loss, slope, entropy, _ = member_sums(values, p, count, zy, alpha, none, False, wanted)
                    slope = -(entropy + slope) / alpha
                loss = loss if not loss < 0.0 else 0.0
                kept = 0
                for k in range(count):
                    q, place = peek(p, k), peek(places, k)
                    poke(values, kept, q)
                    poke(places, kept, place)
                    kept += q > 0.0
                poke(counts, r, kept)
            poke(losses, r, loss)
            if wanted:
                poke(pointer(peek(job, SLOPES), one), r, slope)

    return Entry(kernel)
