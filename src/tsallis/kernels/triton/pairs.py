"""What a sparse output layer does with pairs (token, word): products, and sums of rows.

A sum is one program's, in the order of its pairs: no two programs write to the same place.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["stride"])
def products(
    hidden, weight, bias, places, values, counts, width, stride, E: tl.constexpr, H: tl.constexpr,
    COMPUTE: tl.constexpr,
):  # fmt: skip
    """Values at the places of tokens: those of so many as ``counts`` says, or of one."""
    row, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * E
    count = tl.full([], 1, tl.int64)
    if counts is not None:
        count = tl.load(counts + row)
    if first < count:
        k = first + tl.arange(0, E)
        inside = k < count
        word = tl.load(places + row * stride + k, mask=inside, other=0).to(tl.int64)
        total = tl.zeros([E], COMPUTE)
        for start in range(0, width, H):
            h = start + tl.arange(0, H)
            x = tl.load(hidden + row * width + h, mask=h < width, other=0.0)
            w = tl.load(
                weight + word[:, None] * width + h[None, :], mask=inside[:, None] & (h < width)[None, :], other=0.0
            )
            total += tl.sum(w * x[None, :], 1)
        if bias is not None:
            total += tl.load(bias + word, mask=inside, other=0.0)
        tl.store(values + row * stride + k, total, mask=inside)


@triton.jit
def sums(source, out, begins, ends, factors, which, width, E: tl.constexpr, H: tl.constexpr, COMPUTE: tl.constexpr):
    """Of each range of pairs, the sum of rows ``which`` of the source times their factors."""
    row = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * H + tl.arange(0, H)
    at, end = tl.load(begins + row), tl.load(ends + row)
    total = tl.zeros([H], COMPUTE)
    while at < end:
        k = at + tl.arange(0, E)
        inside = k < end
        factor = tl.load(factors + k, mask=inside, other=0.0)
        i = tl.load(which + k, mask=inside, other=0).to(tl.int64)
        x = tl.load(source + i[:, None] * width + h[None, :], mask=inside[:, None] & (h < width)[None, :], other=0.0)
        total += tl.sum(factor[:, None] * x, 0)
        at += E
    tl.store(out + row * width + h, total, mask=h < width)
