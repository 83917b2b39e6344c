"""The best tree whose arcs do not cross, by dynamic programming over spans (Eisner)."""

from __future__ import annotations

from ..compiler import device
from ..simd import INF, offset, peek, poke


@device
def _split(one, other, first, last):
    """The best of one[k] + other[k], and where."""
    best, at = peek(one, first) + peek(other, first), first
    for k in range(first + 1, last):
        x = peek(one, k) + peek(other, k)
        if x > best:
            best, at = x, k
    return best, at


@device
def best_projective(r, slope):
    """Spans [i, j] that hang on their left end (right) or on their right end (left); in open ones the other end hangs
    on that one itself. Each is kept by the end that a split goes along.
    """
    N, columns = r.n + 1, r.columns
    A = N * N
    right, right_to, left, open_right, open_left = (
        r.numbers, offset(r.numbers, A), offset(r.numbers, 2 * A), offset(r.numbers, 3 * A), offset(r.numbers, 4 * A),
    )  # fmt: skip
    joins, rights, lefts, stack = r.words, offset(r.words, A), offset(r.words, 2 * A), offset(r.words, 3 * A)
    # With one word on the root only, spans begin at words.
    begin = 1 if r.high == 1 else 0
    for i in range(N):
        poke(right, i * N + i, 0.0)
        poke(right_to, i * N + i, 0.0)
        poke(left, i * N + i, 0.0)
    for width in range(1, N):
        for i in range(begin, N - width):
            j = i + width
            # left[k + 1, j] stands at j N + k + 1.
            best, k = _split(offset(right, i * N), offset(left, j * N + 1), i, j)
            poke(joins, i * N + j, k)
            poke(open_right, i * N + j, best + peek(slope, i * columns + j - 1))
            if i > 0:
                # By its right end.
                poke(open_left, j * N + i, best + peek(slope, j * columns + i - 1))
                best, k = -INF, i
                for k_ in range(i, j):
                    x = peek(left, k_ * N + i) + peek(open_left, j * N + k_)
                    if x > best:
                        best, k = x, k_
                poke(left, j * N + i, best)
                poke(lefts, i * N + j, k)
            else:
                poke(left, j * N + i, -INF)
            best, k = _split(offset(open_right, i * N), offset(right_to, j * N), i + 1, j + 1)
            poke(right, i * N + j, best)
            poke(right_to, j * N + i, best)
            poke(rights, i * N + j, k)
    # Spans yet to be taken apart, with what they are: 0 right, 1 left.
    size = 0
    if begin == 0:
        poke(stack, 0, 0)
        poke(stack, 1, N - 1)
        poke(stack, 2, 0)
        size = 1
    elif r.n > 0:
        best, root = -INF, 1
        for k in range(1, N):
            x = peek(left, k * N + 1) + peek(right, k * N + N - 1) + peek(slope, k - 1)
            if x > best:
                best, root = x, k
        poke(r.found, root - 1, root - 1)
        for k in range(2):
            poke(stack, 3 * k, root if k == 0 else 1)
            poke(stack, 3 * k + 1, N - 1 if k == 0 else root)
            poke(stack, 3 * k + 2, k)
        size = 2
    while size > 0:
        size -= 1
        i, j, kind = peek(stack, 3 * size), peek(stack, 3 * size + 1), peek(stack, 3 * size + 2)
        if i == j:
            continue
        k = peek(rights if kind == 0 else lefts, i * N + j)
        # The arc from one end to k, or from the other; what lies behind it, and the two halves below it.
        a, b = (i, k) if kind == 0 else (k, j)
        if kind == 0:
            poke(r.found, k - 1, i * columns + k - 1)
        else:
            poke(r.found, k - 1, j * columns + k - 1)
        m = peek(joins, a * N + b)
        for part in range(3):
            if part == 0:
                i2, j2, kind2 = (k, j, 0) if kind == 0 else (i, k, 1)
            elif part == 1:
                i2, j2, kind2 = a, m, 0
            else:
                i2, j2, kind2 = m + 1, b, 1
            poke(stack, 3 * size, i2)
            poke(stack, 3 * size + 1, j2)
            poke(stack, 3 * size + 2, kind2)
            size += 1
