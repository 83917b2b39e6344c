"""The best matching of rows to columns, by shortest augmenting paths."""

from __future__ import annotations

from ..compiler import device
from ..simd import INF, offset, peek, poke


@device
def lowest_cost(r, slope):
    """What a ruled-out pair costs: so much that no sum of others makes up for it."""
    least, most = INF, -INF
    for j in range(r.d):
        x = peek(slope, j)
        x = x if x > -INF else 0.0
        least, most = min(least, x), max(most, x)
    return 2.0 * r.n * (most - least + 1.0) - least


@device
def best_matching(r, slope):
    """Rows enter one after the other. From the new row the nearest column by reduced cost is looked for, through rows
    that have columns; when a free one is found, the columns on the way change hands.
    """
    n, m = r.n, r.columns
    out = lowest_cost(r, slope)
    # Prices of rows and columns; place m is where a row that enters waits, n is nobody.
    u, v, near = r.numbers, offset(r.numbers, n + 1), offset(r.numbers, n + m + 2)
    owner, way, seen = r.words, offset(r.words, m + 1), offset(r.words, 2 * m + 2)
    for j in range(m + 1):
        poke(owner, j, n)
        poke(v, j, 0.0)
    for i in range(n):
        poke(u, i, 0.0)
    for i in range(n):
        poke(owner, m, i)
        for j in range(m + 1):
            poke(near, j, INF)
            poke(seen, j, 0)
        at = m
        while peek(owner, at) != n:
            poke(seen, at, 1)
            row, step, nearest = peek(owner, at), INF, 0
            for j in range(m):
                if peek(seen, j) == 0:
                    x = peek(slope, row * m + j)
                    reduced = (-x if x > -INF else out) - peek(u, row) - peek(v, j)
                    if reduced < peek(near, j):
                        poke(near, j, reduced)
                        poke(way, j, at)
                    if peek(near, j) < step:
                        step, nearest = peek(near, j), j
            for j in range(m + 1):
                if peek(seen, j) != 0:
                    poke(u, peek(owner, j), peek(u, peek(owner, j)) + step)
                    poke(v, j, peek(v, j) - step)
                else:
                    poke(near, j, peek(near, j) - step)
            at = nearest
        while at != m:
            poke(owner, at, peek(owner, peek(way, at)))
            at = peek(way, at)
    for j in range(m):
        if peek(owner, j) < n:
            poke(r.found, peek(owner, j), peek(owner, j) * m + j)
