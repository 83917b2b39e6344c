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
    G,
    K,
    Q,
    V,
    dot,
    list_codes,
    load_notes,
    of_head,
    probabilities_of,
    rows_from,
    scores_of,
    seen_by,
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
def share_of(p, dp, mean, order, KIND: tl.constexpr):
    """dz of a tile."""
    d = tl.where(p > 0.0, weight(p, order[:, None], KIND) * (dp - mean[:, None]), 0.0)
    return tl.where(p != p, p, d)


@triton.jit(do_not_specialize=["queries", "keys", "heads", "group", "tiles", "blocks"])
def to_queries(
    q, k, v, g, bias, mask, lows, highs, alpha, number: tl.float64, notes, codes, lists, dq, means, slopes, where,
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
    low, high = seen_by(lows, highs, i, queries, keys, CAUSAL)
    base, X, Y, factor = load_notes(notes + owner * queries * NOTES, i, queries)
    query = rows_from(q, tile * M, where[Q + 2], queries, M, WIDTH, D)
    gradient = rows_from(g, tile * M, where[G + 2], queries, M, DEPTH, DV)
    count = list_codes(codes + place * blocks, 1, tl.full([], 0, tl.int32), blocks, 1, lists, False)

    W, total, D_total = tl.zeros([M], tl.float32), tl.zeros([M], tl.float32), tl.zeros([M], tl.float32)
    for at in range(0, count):
        block = tl.load(lists + at).to(tl.int32)
        key = rows_from(k, block * N, where[K + 2], keys, N, WIDTH, D)
        z = scores_of(query, key, bias, mask, i, low, high, block * N + columns, where, scale)
        p = probabilities_of(z, base, X, Y, factor, power, exponent, KIND)
        value = rows_from(v, block * N, where[V + 2], keys, N, DEPTH, DV)
        dp = dot(gradient, tl.trans(value), None)
        w = weight(p, order[:, None], KIND)
        W += tl.sum(w, 1)
        total += tl.sum(tl.where(p > 0.0, w * dp, 0.0), 1)
        if slopes is not None:
            D_total += tl.sum(w * slope_of(p, order), 1)
    W = tl.where(W > 0.0, W, 1.0)
    mean, live = total / W, i < queries
    tl.store(means + owner * queries + i, mean, mask=live)
    if (dq is not None) or (slopes is not None):
        # As in `gradients`: the dz sum to zero, so D may be measured from its mean.
        origin, moved, result = D_total / W, tl.zeros([M], tl.float32), tl.zeros([M, D], tl.float32)
        for at in range(0, count):
            block = tl.load(lists + at).to(tl.int32)
            key = rows_from(k, block * N, where[K + 2], keys, N, WIDTH, D)
            z = scores_of(query, key, bias, mask, i, low, high, block * N + columns, where, scale)
            p = probabilities_of(z, base, X, Y, factor, power, exponent, KIND)
            value = rows_from(v, block * N, where[V + 2], keys, N, DEPTH, DV)
            dz = share_of(p, dot(gradient, tl.trans(value), None), mean, order, KIND)
            if dq is not None:
                result = dot(dz.to(key.dtype), key, result)
            if slopes is not None:
                moved += tl.sum(dz * (slope_of(p, order) - origin[:, None]), 1)
        if dq is not None:
            store_rows(dq + owner * queries * WIDTH, tile * M, queries, result * scale, M, WIDTH, D)
        if slopes is not None:
            tl.store(slopes + owner * queries + i, 0.0 - moved, mask=live)


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
    j = block * N + tl.arange(0, N)
    key = rows_from(k, block * N, where[K + 2], keys, N, WIDTH, D)
    value = rows_from(v, block * N, where[V + 2], keys, N, DEPTH, DV)
    to_k, to_v = tl.zeros([N, D], tl.float32), tl.zeros([N, DV], tl.float32)
    for member in range(0, group):
        head = shared * group + member
        row = batch * heads + head
        q_head, g_head = of_head(q, where, Q, batch, head), of_head(g, where, G, batch, head)
        bias_head, mask_head = bias, mask
        if bias is not None:
            bias_head = of_head(bias, where, BIAS, batch, head)
        if mask is not None:
            mask_head = of_head(mask, where, MASK, batch, head)
        order, power, exponent = order_of(number, alpha, row, KIND)
        column = codes + row * tiles * blocks + block
        count = list_codes(column, blocks, tl.full([], 0, tl.int32), tiles, 1, lists, False)
        for at in range(0, count):
            tile = tl.load(lists + at).to(tl.int32)
            i = tile * M + tl.arange(0, M)
            low, high = seen_by(lows, highs, i, queries, keys, CAUSAL)
            base, X, Y, factor = load_notes(notes + row * queries * NOTES, i, queries)
            query = rows_from(q_head, tile * M, where[Q + 2], queries, M, WIDTH, D)
            gradient = rows_from(g_head, tile * M, where[G + 2], queries, M, DEPTH, DV)
            z = scores_of(query, key, bias_head, mask_head, i, low, high, j, where, scale)
            p = probabilities_of(z, base, X, Y, factor, power, exponent, KIND)
            if dv is not None:
                to_v = dot(tl.trans(p.to(gradient.dtype)), gradient, to_v)
            if dk is not None:
                mean = tl.load(means + row * queries + i, mask=i < queries, other=0.0)
                dz = share_of(p, dot(gradient, tl.trans(value), None), mean, order, KIND)
                to_k = dot(tl.trans(dz.to(query.dtype)), query, to_k)
    if dk is not None:
        store_rows(dk + owner * keys * WIDTH, block * N, keys, to_k * scale, N, WIDTH, D)
    if dv is not None:
        store_rows(dv + owner * keys * DEPTH, block * N, keys, to_v, N, DEPTH, DV)
