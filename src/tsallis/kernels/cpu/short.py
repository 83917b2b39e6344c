"""Short rows: as many at once as a vector has lanes.

A row of a hundred entries is a handful of vectors. What takes time is not them but the chain of a sum, a root and a
quotient at the end of each sweep. Here each sweep goes over all rows of the tile, and the ends of all chains are one
vector. The first guess comes from the largest entry of each lane of each row: a row's lanes form a tile by themselves,
so those Newton steps need no sum across a vector at all.
"""

from __future__ import annotations

from typing import Any

from .arithmetic import choose, greater, like
from .compiler import PACKS, device
from .members import accelerate
from .packing import pack, unpack
from .rows import PACKED, PACKED_POWERS, fill
from .simd import INF, NAN, epsilon, lanes, load, offset, peek, poke, some, splat, store
from .sweeps import make_sweep, scaled, top
from .tiles import row_maxima, row_sums, tile, transpose

# A start need not be better than this: the rest of the row shifts the sum by more.
CLOSE = 0.3
# Errors below this many tolerances are rounding if neither they shrink to a share nor the sum of the slopes does: each
# move of Newton's on a convex function makes one of them smaller, by shares that add up to less than one.
NOISE, SHRUNK, FELL = 32.0, 0.25, 0.8
GUESSES, SWEEPS = 6, 40


def make_short(
    evaluate: Any, arguments: Any, advance: Any, edge: Any, start: float, normalise: bool, slopes: bool
) -> Any:
    """The solver of a tile of rows for one member. ``normalise``: what `evaluate` gives has yet to be divided by its
    sum; ``slopes``: p are the slopes.
    """
    sweep = make_sweep(evaluate, write=True, slopes=slopes)
    least = PACKED_POWERS if normalise else PACKED

    @device
    def solve(z, stride, out, out_stride, rows, n, scale, exponent, tolerance, values, results, hits, note, state):
        """Solve ``rows`` rows that are ``stride`` apart. ``values`` and ``results`` are room for a tile of rows, each
        one vector longer; ``hits`` as in `packing.unpack`. ``state`` receives five vectors: the largest entries (NaN
        where a row has a NaN), X, Y, S and W; rows whose largest entry is not finite are left as they come.
        """
        L = lanes(z)
        S_tile, W_tile, sizes = tile(z), tile(z), tile(z)
        for r in range(L):
            x, bad = top(offset(z, r * stride), n) if r < rows else (splat(z, 0.0), True)
            store(S_tile, r * L, x)
            poke(state, r, NAN if bad else 0.0)
        M = row_maxima(S_tile) + load(state, 0)
        todo = (M > -INF) & (M < INF)
        base = choose(todo, M, 0.0)
        transpose(S_tile, W_tile)
        X, Y = like(M, start), like(M, 0.0)
        active = todo
        for _ in range(GUESSES):
            A, B, C = arguments(base, X, Y, scale, exponent)
            S, W = like(M, 0.0), like(M, 0.0)
            for j in range(0, L * L, L):
                p, w = evaluate(load(W_tile, j), base, A, B, C)
                S, W = S + p, W + w
            moved, rest, error = advance(S, W, X, Y, scale, exponent)
            # Row by row, so that no result depends on which rows share a tile.
            X, Y = choose(active, moved, X), choose(active, rest, Y)
            active = active & (error > CLOSE)
            if not some(active):
                break
        store(state, 0, base)
        width = n + L
        store(sizes, 0, like(M, -1.0))
        if PACKS and n > least * L:
            # Wider by some units in the last place than `evaluate` may round.
            store(sizes, L, edge(X + Y, scale) * (1.0 + 32.0 * epsilon(z)))
            for r in range(rows):
                row, cut = offset(z, r * stride), peek(sizes, L + r)
                poke(sizes, r, pack(row, n, peek(state, r), cut, offset(values, r * width)))
        # Packed rows are measured from their top.
        origin = choose(load(sizes, 0) < 0.0, base, 0.0)
        before, heavier, S, W = like(M, INF), like(M, INF), like(M, 0.0), like(M, 0.0)
        left, left_rest, right = X, Y, like(M, INF)
        t, G, D = like(M, 0.0), like(M, 0.0), like(M, 0.0)
        for _ in range(SWEEPS):
            A, B, C = arguments(origin, X, Y, scale, exponent)
            store(state, L, A)
            store(state, 2 * L, B)
            store(state, 3 * L, C)
            store(state, 4 * L, choose(todo, like(M, 1.0), 0.0))
            for r in range(rows):
                if peek(state, 4 * L + r) != 0.0:
                    first, second, third = peek(state, L + r), peek(state, 2 * L + r), peek(state, 3 * L + r)
                    k = int(peek(sizes, r))
                    if PACKS and k >= 0:
                        at = r * width
                        k = (k + L - 1) // L * L
                        s, w = sweep(offset(values, at), offset(results, at), k, 0.0, first, second, third)
                    else:
                        row, row_out = offset(z, r * stride), offset(out, r * out_stride)
                        s, w = sweep(row, row_out, n, peek(state, r), first, second, third)
                    store(S_tile, r * L, s)
                    store(W_tile, r * L, w)
            S, W = row_sums(S_tile), row_sums(W_tile)
            moved, rest, error = advance(S, W, X, Y, scale, exponent)
            off = greater(error, 0.0 - error)
            shrinking = (off < SHRUNK * before) | (FELL * heavier > W)
            todo = todo & (off > tolerance) & ((off > NOISE * tolerance) | shrinking)
            before, heavier = off, W
            if not some(todo):
                break
            if normalise:
                moved, rest, left, left_rest, right, t, G, D = accelerate(
                    X, Y, moved, rest, left, left_rest, right, S, W, exponent, t, G, D
                )
            X, Y = choose(todo, moved, X), choose(todo, rest, Y)
        store(state, L, 1.0 / (W if slopes else S) if normalise else like(M, 1.0))
        vectors = (n + L - 1) // L
        for r in range(rows):
            row, row_out, factor = offset(z, r * stride), offset(out, r * out_stride), peek(state, L + r)
            noted = offset(hits, r * vectors)
            if PACKS and peek(sizes, r) >= 0.0:
                values_at = offset(results, r * width)
                unpack(row, n, peek(state, r), peek(sizes, L + r), values_at, factor, row_out, noted, note)
            else:
                if normalise:
                    scaled(row_out, n, factor)
                if note:
                    fill(noted, vectors, 1)
        store(state, 0, M)
        store(state, L, X)
        store(state, 2 * L, Y)
        store(state, 3 * L, S)
        store(state, 4 * L, W)

    return solve
