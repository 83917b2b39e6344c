"""The inverse of the bordered matrix [[0, 1], [1, G]] of an active set, kept as structures enter and leave.

Row 0 is the border, row s + 1 belongs to structure s. Rows are ``ld`` apart; what lies behind their ends, up to a whole
vector, is zero, so loops need not look where a row ends. The same holds for the vectors that go with it.
"""

from __future__ import annotations

from ..compiler import device
from ..simd import add_up, lanes, load, peek, poke, splat, store


@device
def begin(M, ld, size):
    """The inverse for one structure with so many variables."""
    for i in range(2):
        store(M, i * ld, splat(M, 0.0))
    poke(M, 0, -size)
    poke(M, 1, 1.0)
    poke(M, ld, 1.0)


@device
def times(M, ld, n, v, out):
    """out = M v, of n rows."""
    L = lanes(M)
    for j in range(0, n, L):
        one, other = splat(M, 0.0), splat(M, 0.0)
        i = 0
        while i + 2 <= n:
            one = one + splat(M, peek(v, i)) * load(M, i * ld + j)
            other = other + splat(M, peek(v, i + 1)) * load(M, (i + 1) * ld + j)
            i += 2
        if i < n:
            one = one + splat(M, peek(v, i)) * load(M, i * ld + j)
        store(out, j, one + other)


@device
def dot(v, w, n):
    """<v, w>, both with zeros behind their ends."""
    total = splat(v, 0.0)
    for j in range(0, n, lanes(v)):
        total = total + load(v, j) * load(w, j)
    return add_up(total)


@device
def pad(v, n):
    """Zeros behind the end of a vector of n numbers."""
    L = lanes(v)
    for j in range(n, (n + L - 1) // L * L):
        poke(v, j, 0.0)


@device
def enter(M, ld, n, z, schur):
    """One row more, for a structure off the hull of the others: ``z`` is M times its column of the matrix, ``schur``
    the squared distance.
    """
    L = lanes(M)
    none = splat(M, 0.0)
    if n % L == 0:
        store(z, n, none)
        for i in range(n):
            store(M, i * ld + n, none)
    for i in range(n):
        factor = splat(M, peek(z, i) / schur)
        for j in range(0, n, L):
            store(M, i * ld + j, load(M, i * ld + j) + factor * load(z, j))
    factor = splat(M, -1.0 / schur)
    for j in range(0, n + 1, L):
        store(M, n * ld + j, factor * load(z, j))
    for i in range(n):
        poke(M, i * ld + n, -peek(z, i) / schur)
    poke(M, n * ld + n, 1.0 / schur)


@device
def leave(M, ld, n, r, z):
    """One row less; the last one takes the place of row r. ``z`` is room for a row."""
    L, last = lanes(M), n - 1
    pivot = peek(M, r * ld + r)
    for j in range(0, n, L):
        store(z, j, load(M, r * ld + j))
    for i in range(n):
        factor = splat(M, -peek(M, i * ld + r) / pivot)
        if i != r:
            for j in range(0, n, L):
                store(M, i * ld + j, load(M, i * ld + j) + factor * load(z, j))
    if r != last:
        for j in range(0, n, L):
            store(M, r * ld + j, load(M, last * ld + j))
        for i in range(last):
            poke(M, i * ld + r, peek(M, i * ld + last))
        poke(M, r * ld + r, peek(M, last * ld + last))
    for i in range(last):
        poke(M, i * ld + last, 0.0)
