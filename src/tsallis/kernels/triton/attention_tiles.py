"""Attention tile by tile: M queries of one head by N keys. What forward and backward pass have in common.

``where`` holds strides: of batch entries, heads and rows of q, k, v and the gradient of the result, whose columns lie
side by side; then of batch entries, heads, queries and keys of the mask and of what is added to scores. Numbers of keys
and queries are arguments: no length compiles anything anew.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

from .arithmetic import INF, arguments, evaluate

Q, K, V, G, MASK, BIAS = (tl.constexpr(i) for i in (0, 3, 6, 9, 12, 16))
# What is kept of each row: its largest score (NaN if the row is), both parts of the unknown, one over the sum.
NOTES = tl.constexpr(4)
# The interpreter holds bfloat16 as integers, and multiplies those.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
# Codes that are read together; steps between 0 and 255.
CODES, STEPS = tl.constexpr(128), tl.constexpr(254.0)


@triton.jit
def of_head(x, where, tensor: tl.constexpr, batch, head):
    """The part of a tensor that belongs to a head."""
    return x + batch * where[tensor] + head * where[tensor + 1]


@triton.jit
def dot(x, y, total):
    """total + x y, added up in float32."""
    if INTERPRETED:
        x, y = x.to(tl.float32), y.to(tl.float32)
    return tl.dot(x, y, total, input_precision="ieee")


@triton.jit
def rows_from(x, first, stride, count, ROWS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows from ``first`` on, WIDTH entries each; zeros where there are none."""
    i, c = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    inside = (first + i < count)[:, None]
    if WIDTH != COLUMNS:
        inside = inside & (c < WIDTH)[None, :]
    return tl.load(
        x + tl.cast(first, tl.int64) * stride + i.to(tl.int64)[:, None] * stride + c[None, :], mask=inside, other=0.0
    )


@triton.jit
def store_rows(x, first, count, value, ROWS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    """Write rows that lie side by side."""
    i, c = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    inside = (first + i < count)[:, None] & (c < WIDTH)[None, :]
    at = x + tl.cast(first, tl.int64) * WIDTH + i[:, None] * WIDTH + c[None, :]
    tl.store(at, value.to(x.dtype.element_ty), mask=inside)


@triton.jit
def seen_by(lows, highs, i, queries, keys, CAUSAL: tl.constexpr):
    """Each query sees keys [low, high)."""
    live = i < queries
    if lows is None:
        low = tl.zeros(i.shape, tl.int32)
        high = tl.minimum(i + 1, keys) if CAUSAL else low + keys
    else:
        low, high = tl.load(lows + i, mask=live, other=0), tl.load(highs + i, mask=live, other=0)
    return low, tl.where(live, high, low)


@triton.jit
def scores_of(q, k, bias, mask, i, low, high, j, where, scale):
    """Scores of a tile, -inf where nothing is attended to: scaled after the product, in float32."""
    z = dot(q, tl.trans(k), None) * scale
    seen = (j[None, :] >= low[:, None]) & (j[None, :] < high[:, None])
    row, column = i.to(tl.int64)[:, None], j.to(tl.int64)[None, :]
    if bias is not None:
        z += tl.load(bias + row * where[BIAS + 2] + column * where[BIAS + 3], mask=seen, other=0.0).to(tl.float32)
    if mask is not None:
        kept = tl.load(mask + row * where[MASK + 2] + column * where[MASK + 3], mask=seen, other=0)
        seen = seen & (kept != 0)
    return tl.where(seen, z, -INF)


@triton.jit
def code_of(gap, a):
    """Where between 0 (support is impossible) and 255 (the row's largest entry) a gap below that largest entry lies.
    It does not decrease in the gap, so comparing codes loses nothing.
    """
    share = 1.0 + a * gap
    return tl.where(share > -1e-5, 1 + (tl.minimum(tl.maximum(share, 0.0), 1.0) * STEPS).to(tl.int32), 0)


@triton.jit
def list_codes(codes, stride, first, last, low, lists, WIPE: tl.constexpr):
    """List the numbers of those codes among [first, last) that are at least ``low``. Returns how many."""
    # What was written before is read, and what is written read afterwards.
    tl.debug_barrier()
    count = tl.full([], 0, tl.int32)
    at = first
    while at < last:
        n = at + tl.arange(0, CODES)
        inside = n < last
        code = tl.load(codes + n.to(tl.int64) * stride, mask=inside, other=0).to(tl.int32)
        chosen = inside & (code >= low)
        order = tl.cumsum(chosen.to(tl.int32), 0)
        tl.store(lists + count + order - 1, n.to(lists.dtype.element_ty), mask=chosen)
        if WIPE:
            tl.store(codes + n.to(tl.int64) * stride, tl.zeros([CODES], codes.dtype.element_ty), mask=inside)
        count += tl.max(order, 0)
        at += CODES
    tl.debug_barrier()
    return count


@triton.jit
def store_notes(notes, i, queries, base, X, Y, factor):
    live, at = i < queries, notes + i.to(tl.int64) * NOTES
    tl.store(at, base, mask=live)
    tl.store(at + 1, X, mask=live)
    tl.store(at + 2, Y, mask=live)
    tl.store(at + 3, factor, mask=live)


@triton.jit
def load_notes(notes, i, queries):
    live, at = i < queries, notes + i.to(tl.int64) * NOTES
    base, X = tl.load(at, mask=live, other=0.0), tl.load(at + 1, mask=live, other=1.0)
    return base, X, tl.load(at + 2, mask=live, other=0.0), tl.load(at + 3, mask=live, other=0.0)


@triton.jit
def probabilities_of(z, base, X, Y, factor, scale, exponent, KIND: tl.constexpr):
    """p of a tile again; NaN of rows that are."""
    bad = base != base
    A, C, E = arguments(X, Y, scale, exponent, KIND)
    p, _ = evaluate(z - tl.where(bad, 0.0, base)[:, None], A[:, None], C[:, None], E[:, None], KIND)
    return tl.where(bad[:, None] & (z != -INF), float("nan"), p * factor[:, None])
