"""The k-th largest of each row, and the k largest: bit by bit, as integers that are ordered like the scores."""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import INF
from .tiles import K, load_scores, parameter, rows_of_program, store_result


@triton.jit
def keys(x):
    """Integers ordered like these float32 or float64 numbers, with one zero."""
    x = x + 0.0
    if x.dtype == tl.float32:
        bits = x.to(tl.int32, bitcast=True)
        return bits ^ ((bits >> 31) & 0x7FFFFFFF)
    else:
        bits = x.to(tl.int64, bitcast=True)
        return bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)


@triton.jit
def number_of(key):
    """What `keys` made it of."""
    if key.dtype == tl.int32:
        return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    else:
        return (key ^ ((key >> 63) & 0x7FFFFFFFFFFFFFFF)).to(tl.float64, bitcast=True)


@triton.jit
def kth_key(z, mask, where, row, live, n, k, B: tl.constexpr, COMPUTE: tl.constexpr):
    """The key of the k-th largest score of each row, 1 <= k <= n."""
    j = tl.arange(0, B)
    BITS: tl.constexpr = 32 if tl.float32 == COMPUTE else 64
    INTEGER: tl.constexpr = tl.int32 if tl.float32 == COMPUTE else tl.int64
    one = tl.full(k.shape, 1, INTEGER)
    # The smallest integer; adding 2^(BITS - 1) to it gives 0.
    found = one << (BITS - 1)
    bit = BITS - 1
    while bit >= 0:
        candidate = found ^ (one << bit)
        count = tl.zeros(k.shape, tl.int64)
        at = tl.full([], 0, tl.int64)
        while at < n:
            x = load_scores(z, mask, where, row, live, at + j, n).to(COMPUTE)
            reaches = (keys(x) >= candidate[:, None]) & (at + j < n)[None, :]
            count += tl.sum(reaches.to(tl.int64), 1)
            at += B
        found = tl.where(count >= k, candidate, found)
        bit -= 1
    return found


@triton.jit
def whole(k, n):
    """k rounded up, as a place in a row of n; 1 if it is none."""
    return tl.minimum(tl.ceil(tl.where((k > 0.0) & (k < INF), k, 1.0)), n * 1.0).to(tl.int64)


@triton.jit(do_not_specialize=["rows"])
def kth_largest(z, out, mask, ks, k_number: tl.float64, where, rows, n, B: tl.constexpr, COMPUTE: tl.constexpr):
    """The ceil(k)-th largest score of each row."""
    row, live = rows_of_program(rows, 1)
    k = whole(parameter(k_number, ks, where, K, row, live), n)
    tl.store(out + row, number_of(kth_key(z, mask, where, row, live, n, k, B, COMPUTE)), mask=live)


@triton.jit(do_not_specialize=["rows"])
def keep_largest(z, out, mask, ks, k_number: tl.float64, where, rows, n, B: tl.constexpr, COMPUTE: tl.constexpr):
    """Scores outside the k largest of each row replaced by -inf; at a tie across the cut the lowest index stays. Rows
    become NaN where k is not admissible, and are left to the next kernel where they hold NaN or inf.
    """
    row, live = rows_of_program(rows, 1)
    k = parameter(k_number, ks, where, K, row, live)
    fits = (k >= 1.0) & (k < INF)
    size = whole(k, n)
    edge = kth_key(z, mask, where, row, live, n, size, B, COMPUTE)
    j = tl.arange(0, B)
    spare, at = size, tl.full([], 0, tl.int64)
    while at < n:
        x = load_scores(z, mask, where, row, live, at + j, n).to(COMPUTE)
        above = (keys(x) > edge[:, None]) & (at + j < n)[None, :]
        spare -= tl.sum(above.to(tl.int64), 1)
        at += B
    at = tl.full([], 0, tl.int64)
    while at < n:
        x = load_scores(z, mask, where, row, live, at + j, n).to(COMPUTE)
        key = keys(x)
        tie = (key == edge[:, None]) & (at + j < n)[None, :]
        rank = tl.cumsum(tie.to(tl.int64), 1)
        stays = (key > edge[:, None]) | (tie & (rank <= spare[:, None])) | (x != x) | (x == INF)
        spare -= tl.sum(tie.to(tl.int64), 1)
        kept = tl.where(stays, x, -INF)
        store_result(out, where, row, live, at + j, n, tl.where(fits[:, None] | (x == -INF), kept, float("nan")))
        at += B
