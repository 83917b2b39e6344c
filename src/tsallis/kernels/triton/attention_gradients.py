"""Attention backward, from what the forward pass kept of each row, in the tiles where it found support.

    dz = w (dp - <w, dp>/sum w),  dp = g v^T,  w = p^(2 - alpha) on the support
    dq = scale dz k,  dk = scale dz^T q,  dv = p^T g,  dalpha = -<dz, D>  (`gradients`)

A program owns what it writes, a tile of queries or a block of keys, and adds in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import weight
from .attention_tiles import (
    BIAS,
    MASK,
    NOTES,
    PART,
    G,
    K,
    Q,
    V,
    dot,
    end_of,
    list_codes,
    load_notes,
    of_head,
    probabilities_of,
    rows_from,
    scores_of,
    store_rows,
)
from .gradients import slope_of
from .simplex import state
from .tiles import number_of


@triton.jit
def order_of(number, alpha, owner, KIND: tl.constexpr):
    """(alpha, scale, exponent) of a head, in float32."""
    which = owner + tl.arange(0, 1)
    order = number_of(number, alpha, which, which >= 0)
    _, power, exponent = state(order, KIND)
    return order.to(tl.float32), power.to(tl.float32), exponent.to(tl.float32)


@triton.jit
def weighted(p, dp, order, KIND: tl.constexpr):
    """(w, w dp) of a tile: zero outside of the support, NaN where p is."""
    w = weight(p, order, KIND)
    return w, tl.where(p != p, p, tl.where(p > 0.0, w * dp, 0.0))


@triton.jit(do_not_specialize=["queries", "keys", "heads", "group", "tiles", "blocks"])
def to_queries(
    q, k, v, g, out, bias, mask, lows, highs, alpha, number: tl.float64, notes, codes, lists, dq, means, slopes, where,
    scale, queries, keys, heads, group, tiles, blocks, CAUSAL: tl.constexpr, KIND: tl.constexpr, M: tl.constexpr,
    N: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, DEPTH: tl.constexpr, DV: tl.constexpr,
):  # fmt: skip
    """<w, dp>/sum w of each row, and if asked for, dq and the slopes in alpha."""
    program = tl.program_id(0)
    tile, owner = tiles - 1 - program % tiles, (program // tiles).to(tl.int64)
    batch, head = owner // heads, owner % heads
    q, k = of_head(q, where, Q, batch, head), of_head(k, where, K, batch, head // group)
    v, g = of_head(v, where, V, batch, head // group), of_head(g, where, G, batch, head)
    if bias is not None:
        bias = of_head(bias, where, BIAS, batch, head)
    if mask is not None:
        mask = of_head(mask, where, MASK, batch, head)
    place = owner * tiles + tile
    lists = lists + place * blocks
    order, power, exponent = order_of(number, alpha, owner, KIND)
    i, columns = tile * M + tl.arange(0, M), tl.arange(0, N)
    row, high = i[:, None], end_of(highs, i, queries, keys, CAUSAL)[:, None]
    low = None
    if lows is not None:
        low = tl.load(lows + i, mask=i < queries, other=0)[:, None]
    base, X, Y, factor = load_notes(notes + owner * queries * NOTES, i, queries)
    base, X, Y, factor = base[:, None], X[:, None], Y[:, None], factor[:, None]
    power, exponent = power[:, None], exponent[:, None]
    query = rows_from(q, tile * M, where[Q + 2], queries, M, WIDTH, D)
    gradient = rows_from(g, tile * M, where[G + 2], queries, M, DEPTH, DV)
    first = tl.full([], 0, tl.int32)
    count = list_codes(codes + place * blocks * (M // PART), M // PART, first, blocks, 1, lists, M, False)
    # What is subtracted from dp anyhow: <p, dp> = <g, out> is near <w, dp>/sum w, and so no digits are lost after.
    result = rows_from(out + owner * queries * DEPTH, tile * M, DEPTH, queries, M, DEPTH, DV)
    origin = tl.sum(tl.where(result == result, gradient.to(tl.float32) * result.to(tl.float32), 0.0), 1)
    # The slopes of entries in alpha are measured from that of the largest entry: the dz sum to zero.
    D_origin = slope_of(probabilities_of(base * 0.0, base * 0.0, X, Y, factor, power, exponent, KIND), order)

    W, total = tl.zeros([M], tl.float32), tl.zeros([M], tl.float32)
    moved, D_total = tl.zeros([M], tl.float32), tl.zeros([M], tl.float32)
    along, across = tl.zeros([M, D], tl.float32), tl.zeros([M, D], tl.float32)
    for at in range(0, count):
        block = tl.load(lists + at).to(tl.int32)
        key = rows_from(k, block * N, where[K + 2], keys, N, WIDTH, D)
        j, products = (block * N + columns)[None, :], dot(query, tl.trans(key), None)
        z = scores_of(products, bias, mask, row, low, high, j, where, scale, False)
        p = probabilities_of(z, base, X, Y, factor, power, exponent, KIND)
        value = rows_from(v, block * N, where[V + 2], keys, N, DEPTH, DV)
        w, s = weighted(p, dot(gradient, tl.trans(value), None) - origin[:, None], order[:, None], KIND)
        W += tl.sum(w, 1)
        total += tl.sum(s, 1)
        if dq is not None:
            along, across = dot(s.to(key.dtype), key, along), dot(w.to(key.dtype), key, across)
        if slopes is not None:
            moves = slope_of(p, order) - D_origin
            moved += tl.sum(s * moves, 1)
            D_total += tl.sum(w * moves, 1)
    rest, live = total / tl.where(W > 0.0, W, 1.0), i < queries
    tl.store(means + owner * queries + i, origin + rest, mask=live)
    if dq is not None:
        store_rows(
            dq + owner * queries * WIDTH, tile * M, queries, (along - rest[:, None] * across) * scale, M, WIDTH, D
        )
    if slopes is not None:
        tl.store(slopes + owner * queries + i, rest * D_total - moved, mask=live)


@triton.jit(do_not_specialize=["queries", "keys", "heads", "group", "tiles", "blocks"])
def to_keys(
    q, k, v, g, bias, mask, lows, highs, alpha, number: tl.float64, notes, codes, lists, means, dk, dv, where, scale,
    queries, keys, heads, group, tiles, blocks, CAUSAL: tl.constexpr, KIND: tl.constexpr, M: tl.constexpr,
    N: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, DEPTH: tl.constexpr, DV: tl.constexpr,
):  # fmt: skip
    """dk and dv, if asked for, of a block of keys, summed over all heads of queries that share them."""
    program = tl.program_id(0)
    block, owner = program % blocks, (program // blocks).to(tl.int64)
    batch, shared = owner // (heads // group), owner % (heads // group)
    k, v = of_head(k, where, K, batch, shared), of_head(v, where, V, batch, shared)
    lists = lists + (owner * blocks + block) * tiles
    j = (block * N + tl.arange(0, N))[:, None]
    key = rows_from(k, block * N, where[K + 2], keys, N, WIDTH, D)
    value = rows_from(v, block * N, where[V + 2], keys, N, DEPTH, DV)
    to_k, to_v = tl.zeros([N, D], tl.float32), tl.zeros([N, DV], tl.float32)
    for member in range(0, group):
        head = shared * group + member
        place = batch * heads + head
        q_head, g_head = of_head(q, where, Q, batch, head), of_head(g, where, G, batch, head)
        bias_head, mask_head = bias, mask
        if bias is not None:
            bias_head = of_head(bias, where, BIAS, batch, head)
        if mask is not None:
            mask_head = of_head(mask, where, MASK, batch, head)
        order, power, exponent = order_of(number, alpha, place, KIND)
        column = codes + (place * tiles * blocks + block) * (M // PART)
        first = tl.full([], 0, tl.int32)
        count = list_codes(column, blocks * (M // PART), first, tiles, 1, lists, M, False)
        for at in range(0, count):
            tile = tl.load(lists + at).to(tl.int32)
            i = tile * M + tl.arange(0, M)
            row, high = i[None, :], end_of(highs, i, queries, keys, CAUSAL)[None, :]
            low = None
            if lows is not None:
                low = tl.load(lows + i, mask=i < queries, other=0)[None, :]
            base, X, Y, factor = load_notes(notes + place * queries * NOTES, i, queries)
            query = rows_from(q_head, tile * M, where[Q + 2], queries, M, WIDTH, D)
            gradient = rows_from(g_head, tile * M, where[G + 2], queries, M, DEPTH, DV)
            # Keys by queries: what comes out is multiplied from the left as it is.
            products = dot(key, tl.trans(query), None)
            z = scores_of(products, bias_head, mask_head, row, low, high, j, where, scale, False)
            p = probabilities_of(
                z, base[None, :], X[None, :], Y[None, :], factor[None, :], power[:, None], exponent[:, None], KIND
            )
            if dv is not None:
                to_v = dot(p.to(gradient.dtype), gradient, to_v)
            if dk is not None:
                mean = tl.load(means + place * queries + i, mask=i < queries, other=0.0)
                _, dz = weighted(p, dot(value, tl.trans(gradient), None) - mean[None, :], order[:, None], KIND)
                to_k = dot(dz.to(query.dtype), query, to_k)
    if dk is not None:
        store_rows(dk + owner * keys * WIDTH, block * N, keys, to_k * scale, N, WIDTH, D)
    if dv is not None:
        store_rows(dv + owner * keys * DEPTH, block * N, keys, to_v, N, DEPTH, DV)
