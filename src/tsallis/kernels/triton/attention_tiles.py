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
# Rows that have a code together: those of a warp.
PART = tl.constexpr(16)


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
def end_of(highs, i, queries, keys, CAUSAL: tl.constexpr):
    """Each query sees no key from here on; queries that are not there see none."""
    if highs is not None:
        high = tl.load(highs + i, mask=i < queries, other=0)
    elif CAUSAL:
        high = tl.minimum(i + 1, keys)
    else:
        high = tl.zeros(i.shape, tl.int32) + keys
    return tl.where(i < queries, high, 0)


@triton.jit
def scores_of(products, bias, mask, i, low, high, j, where, scale, WHOLE: tl.constexpr):
    """Scores of a tile from its products: scaled in float32, -inf where nothing is attended to. ``WHOLE`` says that
    every key lies between ``low`` (None for 0) and ``high``. i, low and high run along one dimension, j the other.
    """
    z = products * scale
    seen = (i >= 0) & (j >= 0)
    if not WHOLE:
        seen = (j < high) if low is None else (j < high) & (j >= low)
    row, column = i.to(tl.int64), j.to(tl.int64)
    if bias is not None:
        z += tl.load(bias + row * where[BIAS + 2] + column * where[BIAS + 3], mask=seen, other=0.0).to(tl.float32)
    if mask is not None:
        seen = seen & (tl.load(mask + row * where[MASK + 2] + column * where[MASK + 3], mask=seen, other=0) != 0)
    if WHOLE and mask is None:
        return z
    else:
        return tl.where(seen, z, -INF)


@triton.jit
def code_of(gap, a):
    """Where between 0 (support is impossible) and 255 (the row's largest entry) a gap below that largest entry lies.
    It does not decrease in the gap, so comparing codes loses nothing.
    """
    share = 1.0 + a * gap
    return tl.where(share > -1e-5, 1 + (tl.minimum(tl.maximum(share, 0.0), 1.0) * STEPS).to(tl.int32), 0)


@triton.jit
def store_parts(codes, block, code, M: tl.constexpr):
    """Write the largest of the codes of rows, part by part: warps need not wait for each other."""
    parts: tl.constexpr = M // PART
    largest = tl.max(tl.reshape(code, [parts, PART]), 1)
    tl.store(codes + block * parts + tl.arange(0, parts), largest.to(codes.dtype.element_ty))


@triton.jit
def list_codes(codes, stride, first, last, low, lists, M: tl.constexpr, WIPE: tl.constexpr):
    """List the numbers of those among [first, last) of which a part has a code of ``low`` or more. Returns how many."""
    # What was written before is read, and what is written read afterwards.
    tl.debug_barrier()
    count, at = tl.full([], 0, tl.int32), first
    part = tl.arange(0, M // PART)[None, :]
    while at < last:
        n = at + tl.arange(0, CODES)
        inside, place = n < last, codes + n.to(tl.int64)[:, None] * stride + part
        code = tl.max(tl.load(place, mask=inside[:, None], other=0).to(tl.int32), 1)
        chosen = inside & (code >= low)
        order = tl.cumsum(chosen.to(tl.int32), 0)
        tl.store(lists + count + order - 1, n.to(lists.dtype.element_ty), mask=chosen)
        if WIPE:
            tl.store(place, tl.zeros([CODES, M // PART], codes.dtype.element_ty), mask=inside[:, None])
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
    """p of a tile again, from what was kept of its rows, along the dimension of these; NaN of rows that are."""
    bad = base != base
    A, C, E = arguments(X, Y, scale, exponent, KIND)
    p, _ = evaluate(z - tl.where(bad, 0.0, base), A, C, E, KIND)
    return tl.where(bad & (z != -INF), float("nan"), p * factor)
