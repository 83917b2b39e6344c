"""Where rows lie, and tiles of them: R rows by B columns.

Rows are counted along up to three leading dimensions; ``where`` holds the sizes of the inner two and each tensor's
strides (`kernels.layout`), or is None for contiguous rows without a mask and with parameters that are numbers. A
parameter of a row is a number, or stands in a tensor of any dtype.
"""

from __future__ import annotations

import triton
import triton.language as tl

SCORES, RESULT, MASK, ALPHA, K = (tl.constexpr(i) for i in (2, 6, 10, 14, 17))


@triton.jit
def rows_of_program(rows, R: tl.constexpr):
    """(numbers of the rows of this program, which of them exist)."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    return row, row < rows


@triton.jit
def start(where, tensor: tl.constexpr, row):
    """Index of a row's first entry in a tensor."""
    inner, rest = row % where[1], row // where[1]
    return rest // where[0] * where[tensor] + rest % where[0] * where[tensor + 1] + inner * where[tensor + 2]


@triton.jit
def place(where, tensor: tl.constexpr, row, n):
    """(index of a row's first entry, distance of its entries)."""
    if where is None:
        return row * n, 1
    else:
        return start(where, tensor, row), where[tensor + 3]


@triton.jit
def parameter(number, tensor, where, which: tl.constexpr, row, live):
    """A parameter of each row, in float64."""
    if tensor is None:
        return tl.full(row.shape, number, tl.float64)
    else:
        return tl.load(tensor + start(where, which, row), mask=live, other=1).to(tl.float64)


@triton.jit
def number_of(number, tensor, row, live):
    """A parameter of each row, in float64: a number, or one after the other in a tensor."""
    if tensor is None:
        return tl.full(row.shape, number, tl.float64)
    else:
        return tl.load(tensor + row, mask=live, other=1).to(tl.float64)


@triton.jit
def load_scores(z, mask, where, row, live, j, n):
    """Entries j of rows, -inf where there are none or the mask says False."""
    at, step = place(where, SCORES, row, n)
    inside = live[:, None] & (j < n)[None, :]
    index = j.to(tl.int64)[None, :]
    x = tl.load(z + at[:, None] + index * step, mask=inside, other=-float("inf"))
    if mask is not None:
        kept = start(where, MASK, row)[:, None] + index * where[MASK + 3]
        x = tl.where(tl.load(mask + kept, mask=inside, other=0) != 0, x, -float("inf"))
    return x


@triton.jit
def load_result(p, where, row, live, j, n):
    """Entries j of rows of a tensor that lies as the result does; 0 where there are none."""
    at, step = place(where, RESULT, row, n)
    inside = live[:, None] & (j < n)[None, :]
    return tl.load(p + at[:, None] + j.to(tl.int64)[None, :] * step, mask=inside, other=0.0)


@triton.jit
def load_pair(p, g, where, row, live, j, n, COMPUTE: tl.constexpr):
    """Entries j of p and of the gradient in it."""
    return load_result(p, where, row, live, j, n).to(COMPUTE), load_result(g, where, row, live, j, n).to(COMPUTE)


@triton.jit
def store_result(p, where, row, live, j, n, value):
    """The same for writing; half precision by way of float32, from which all conversions exist."""
    if p.dtype.element_ty != tl.float64:
        value = value.to(tl.float32)
    at, step = place(where, RESULT, row, n)
    inside = live[:, None] & (j < n)[None, :]
    tl.store(p + at[:, None] + j.to(tl.int64)[None, :] * step, value.to(p.dtype.element_ty), mask=inside)
