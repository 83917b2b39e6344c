"""Attention forward: one program per tile of queries, which makes its scores as often as it needs them.

The first pass sees all keys. It finds each row's largest score, the largest score of each column of tiles (entries of
the row: the unknown that makes them right lies left of the row's own), and for each block of keys how near it comes to
the rows' largest scores so far. From there on only blocks that reach the edge of a row's support are visited. Newton's
iterates stay left of the root, so what lies outside of all supports at one of them stays outside.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import INF, POWER, advance, arguments, edge, evaluate
from .attention_tiles import (
    BIAS,
    MASK,
    NOTES,
    PART,
    K,
    Q,
    V,
    code_of,
    dot,
    end_of,
    list_codes,
    of_head,
    rows_from,
    scores_of,
    store_notes,
    store_parts,
    store_rows,
)
from .simplex import CLOSE, GUESSES, SWEEPS, newton, state, unsettled
from .tiles import number_of

# By how much of itself, in float32, the edge is put further off: more than `evaluate` may round, and than Newton's last
# moves may come back.
WIDER = tl.constexpr(1.0 + 32.0 * 1.2e-7)


@triton.jit
def cut_of(X, Y, scale, solved, KIND: tl.constexpr):
    """How far below its largest score a row is zero, surely."""
    return tl.where(solved, edge(X + Y, scale, KIND) * WIDER, INF)


@triton.jit
def moved_from(X, Y, S, W, before, heavier, active, power, exponent, tolerance, step, KIND: tl.constexpr):
    """Newton's move of the rows that are active and have wrong sums: (X, Y, errors, slopes, active, largest error)."""
    S, W = tl.where(active != 0, S, 1.0), tl.where(active != 0, W, 1.0)
    moved, rest, error = advance(S, W, X, Y, power, exponent, KIND)
    off = tl.abs(error)
    wrong = unsettled(off, before, W, heavier, tolerance) & (step < SWEEPS - 1)
    active = tl.where(wrong, active, 0)
    worst = tl.max(tl.where(active != 0, off, 0.0), 0)
    return tl.where(active != 0, moved, X), tl.where(active != 0, rest, Y), off, W, active, worst


@triton.jit
def look(
    query, k, bias, mask, i, low, high, where, scale, keys, begin, end, a, codes, best, top, WHOLE: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """The first pass over blocks [begin, end): (largest scores of columns, of rows), infinite if a score is NaN."""
    for block in range(begin, end):
        key = rows_from(k, block * N, where[K + 2], keys, N, WIDTH, D)
        j = block * N + tl.arange(0, N)
        z = scores_of(dot(query, tl.trans(key), None), bias, mask, i, low, high, j[None, :], where, scale, WHOLE)
        z = tl.where(z == z, z, INF)
        best, peak = tl.maximum(best, z), tl.max(z, 1)
        top = tl.maximum(top, peak)
        gap = tl.where((peak > -INF) & (top < INF), peak - top, -INF)
        store_parts(codes, block, code_of(gap, a), M)
    return best, top


@triton.jit(do_not_specialize=["queries", "keys", "heads", "group", "tiles", "blocks"])
def attend(
    q, k, v, bias, mask, lows, highs, alpha, number: tl.float64, out, notes, codes, lists, where, scale, queries, keys,
    heads, group, tiles, blocks, tolerance: tl.float64, CAUSAL: tl.constexpr, KIND: tl.constexpr, M: tl.constexpr,
    N: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, DEPTH: tl.constexpr, DV: tl.constexpr,
):  # fmt: skip
    """Results; and what the backward pass wants to have kept (``notes``; ``codes`` become 1 where there is support)."""
    # Late tiles see the most keys if attention is causal: they come first.
    program = tl.program_id(0)
    tile, owner = tiles - 1 - program % tiles, (program // tiles).to(tl.int64)
    batch, head = owner // heads, owner % heads
    q, k = of_head(q, where, Q, batch, head), of_head(k, where, K, batch, head // group)
    v = of_head(v, where, V, batch, head // group)
    if bias is not None:
        bias = of_head(bias, where, BIAS, batch, head)
    if mask is not None:
        mask = of_head(mask, where, MASK, batch, head)
    place = owner * tiles + tile
    codes, lists = codes + place * blocks * (M // PART), lists + place * blocks
    which = owner + tl.arange(0, 1)
    order = number_of(number, alpha, which, which >= 0)
    fits, power, exponent = state(order, KIND)
    power, exponent, a = power.to(tl.float32), exponent.to(tl.float32), tl.max(order - 1.0, 0).to(tl.float32)

    i, columns = tile * M + tl.arange(0, M), tl.arange(0, N)
    row, end = i[:, None], end_of(highs, i, queries, keys, CAUSAL)
    high, first, whole = end[:, None], tl.full([], 0, tl.int32), tl.full([], 0, tl.int32)
    low = None
    if lows is not None:
        begin = tl.load(lows + i, mask=i < queries, other=keys)
        low, first, whole = begin[:, None], tl.min(begin, 0) // N, (tl.max(begin, 0) + N - 1) // N
    last = (tl.max(end, 0) + N - 1) // N
    # Blocks of which every query sees every key; between them and the ends lie few.
    whole = tl.minimum(whole, last)
    past = tl.maximum(whole, tl.minimum(tl.min(end, 0) // N, last))
    query = rows_from(q, tile * M, where[Q + 2], queries, M, WIDTH, D)
    best, top = tl.full([M, N], -INF, tl.float32), tl.full([M], -INF, tl.float32)
    if lows is not None:
        best, top = look(
            query, k, bias, mask, row, low, high, where, scale, keys, first, whole, a, codes, best, top, False,
            M, N, WIDTH, D,
        )  # fmt: skip
    best, top = look(
        query, k, bias, mask, row, low, high, where, scale, keys, whole, past, a, codes, best, top, True,
        M, N, WIDTH, D,
    )  # fmt: skip
    best, top = look(
        query, k, bias, mask, row, low, high, where, scale, keys, past, last, a, codes, best, top, False,
        M, N, WIDTH, D,
    )  # fmt: skip
    bad = tl.where(fits & (top < INF), 0, 1)
    solved = (bad == 0) & (top > -INF)
    base = tl.where(solved, top, 0.0)
    # Rows that are NaN make NaN of gradients in all keys that they see.
    spoilt = tl.max(bad, 0)

    X, Y = tl.full([M], -1.0 if KIND < POWER else 1.0, tl.float32), tl.zeros([M], tl.float32)
    X, Y, S, W = newton(
        best - base[:, None], notes, 1, 0, base, X, Y, power, exponent, solved, CLOSE, GUESSES, KIND, True, False, N
    )
    cut = tl.min(cut_of(X, Y, power, solved, KIND), 0)
    # One lower, for the compiler may round the same expression differently elsewhere.
    least = tl.where(spoilt != 0, 0, tl.maximum(code_of(cut, a) - 1, 1))
    count = list_codes(codes, M // PART, first, last, least, lists, M, True)

    before, heavier, step = X * 0.0 + INF, X * 0.0 + INF, 0
    active = solved.to(tl.int32)
    # An error is about squared by a step. Where the next sum will be right it is made together with the result below;
    # and both again if it is not. (Triton 3.7 fails on conditions that the loop itself does not use: hence ``going``.)
    going = tl.max(active, 0)
    while going > 0:
        A, C, E = arguments(X, Y, power, exponent, KIND)
        cuts = cut_of(X, Y, power, solved, KIND)
        S, W = tl.zeros([M], tl.float32), tl.zeros([M], tl.float32)
        for at in range(0, count):
            block = tl.load(lists + at).to(tl.int32)
            key = rows_from(k, block * N, where[K + 2], keys, N, WIDTH, D)
            j, products = (block * N + columns)[None, :], dot(query, tl.trans(key), None)
            d = scores_of(products, bias, mask, row, low, high, j, where, scale, False) - base[:, None]
            p, w = evaluate(d, A[:, None], C[:, None], E[:, None], KIND)
            S, W = S + tl.sum(p, 1), W + tl.sum(w, 1)
            store_parts(codes, block, (tl.max(d, 1) > cuts).to(tl.int32) | spoilt, M)
        # Blocks outside of all supports leave the list.
        count = list_codes(codes, M // PART, first, last, 1, lists, M, True)
        X, Y, before, heavier, active, worst = moved_from(
            X, Y, S, W, before, heavier, active, power, exponent, tolerance, step, KIND
        )
        step += going
        going = ((tl.max(active, 0) > 0) & (worst * worst > tolerance)).to(tl.int32)

    going = tl.full([], 1, tl.int32)
    while going > 0:
        A, C, E = arguments(X, Y, power, exponent, KIND)
        S, W, total = tl.zeros([M], tl.float32), tl.zeros([M], tl.float32), tl.zeros([M, DV], tl.float32)
        for at in range(0, count):
            block = tl.load(lists + at).to(tl.int32)
            key = rows_from(k, block * N, where[K + 2], keys, N, WIDTH, D)
            j, products = (block * N + columns)[None, :], dot(query, tl.trans(key), None)
            d = scores_of(products, bias, mask, row, low, high, j, where, scale, False) - base[:, None]
            p, w = evaluate(d, A[:, None], C[:, None], E[:, None], KIND)
            S, W = S + tl.sum(p, 1), W + tl.sum(w, 1)
            value = rows_from(v, block * N, where[V + 2], keys, N, DEPTH, DV)
            total = dot(p.to(value.dtype), value, total)
            if notes is not None:
                store_parts(codes, block, (tl.max(p, 1) > 0.0).to(tl.int32) | spoilt, M)
        factor = tl.where(S > 0.0, 1.0 / tl.where(S > 0.0, S, 1.0), 0.0)
        result = tl.where((bad != 0)[:, None], float("nan"), total * factor[:, None])
        store_rows(out + owner * queries * DEPTH, tile * M, queries, result, M, DEPTH, DV)
        if notes is not None:
            kept = tl.where(bad != 0, float("nan"), base)
            store_notes(notes + owner * queries * NOTES, i, queries, kept, X, Y, factor)
        X, Y, before, heavier, active, worst = moved_from(
            X, Y, S, W, before, heavier, active, power, exponent, tolerance, step, KIND
        )
        step += going
        going = tl.max(active, 0)
