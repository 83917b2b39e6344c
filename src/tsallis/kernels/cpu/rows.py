"""A job: what kernels are told about tensors and rows, as an array of 64-bit integers.

It begins with addresses (0 where there is nothing) and sizes. Rows are counted along up to three leading dimensions of
sizes (any, N1, N2); each tensor has a stride for each of them, and one along the row. Where scores and result are
unmasked contiguous rows (PLAIN) these strides are not read. HITS has a byte for each vector
of each row, PAST says whether zeros are written past the caches. `jobs.py` writes jobs, the names below read them.
"""

from __future__ import annotations

import numpy as np

from .compiler import device
from .simd import INF, offset, peek, pointer, poke

BYTE, INTEGER, DOUBLE = np.uint8(0), np.int64(0), np.float64(0)

# Longer rows are solved one by one: a tile of them would not stay in the cache.
LONGEST_IN_TILES = 4096
# Rows of more vectors than this are packed, and need scratch memory for it; powers are dear, and worth it earlier.
PACKED, PACKED_POWERS = 16, 2
# Entries per block of a long row.
BLOCK = 64

SCORES, RESULT, THRESHOLD, MASK, HITS, WORK, ALPHA, K, SLOPES = range(9)
N, PAST, PLAIN, N1, N2 = range(9, 14)
SCORES_STRIDES, RESULT_STRIDES, MASK_STRIDES, ALPHA_STRIDES, K_STRIDES = 14, 18, 22, 26, 29


@device
def start_of(job, strides, row):
    """Index of the first entry of a row in the tensor whose strides stand at that place."""
    inner, rest = row % peek(job, N2), row // peek(job, N2)
    middle, outer = rest % peek(job, N1), rest // peek(job, N1)
    return outer * peek(job, strides) + middle * peek(job, strides + 1) + inner * peek(job, strides + 2)


@device
def parameter(job, which, strides, value, row):
    """A row's parameter: the value, or the float64 its address leads to."""
    address = peek(job, which)
    if address == 0:
        return value
    return peek(pointer(address, DOUBLE), start_of(job, strides, row))


@device
def fetch(job, z, strides, row, n, target, masked):
    """Copy a row of a tensor, with -inf where the mask, if there is one and it is ``masked``, says False."""
    source, step = offset(z, start_of(job, strides, row)), peek(job, strides + 3)
    if not masked or peek(job, MASK) == 0:
        for j in range(n):
            poke(target, j, peek(source, j * step))
        return
    mask = pointer(peek(job, MASK), BYTE)
    keep, stride = offset(mask, start_of(job, MASK_STRIDES, row)), peek(job, MASK_STRIDES + 3)
    for j in range(n):
        poke(target, j, peek(source, j * step) if peek(keep, j * stride) != 0 else -INF)


@device
def deliver(job, source, row, n, out):
    """Copy a finished row to its place."""
    target, step = offset(out, start_of(job, RESULT_STRIDES, row)), peek(job, RESULT_STRIDES + 3)
    for j in range(n):
        poke(target, j * step, peek(source, j))


@device
def fill(out, n, value):
    """The same number in the whole row."""
    for j in range(n):
        poke(out, j, value)


@device
def room(n, L, plain):
    """How many numbers of scratch memory a thread needs to solve rows of n entries with vectors of L."""
    width = n + L
    solving = 2 * L * width if n <= LONGEST_IN_TILES else 2 * width + n // BLOCK + 2 * L
    return solving if plain else solving + 2 * L * n
