"""Long rows, one at a time: read once, then only where the support can be.

One pass stores the largest entry of each block. These maxima are entries of the row, so the unknown that makes *them*
right lies left of the row's own, and an entry outside that support is outside the row's. If few blocks reach into it,
the entries that do are moved together and solved among themselves; the rest of the row is never looked at again, not
even by the backward pass, for which the blocks in use are noted. Otherwise the row is swept as it is.
"""

from __future__ import annotations

import math
from typing import Any

from .arithmetic import greater, like, unordered
from .compiler import device
from .packing import pack, pack_blocks, unpack_blocks
from .rows import BLOCK, fill
from .short import FELL, NOISE, SHRUNK
from .simd import INF, NAN, add_up, epsilon, first_of, lanes, load, load_first, some, splat, store
from .sweeps import clear, make_sweep, scaled
from .tiles import row_maxima, tile
from .whole_powers import make_start

# The sum from which one Newton step ends within rounding, as the error of the next is its square.
NEARLY = 3e-4
CLOSE = 0.02
# A sum that far off moves the edge enough to pack again.
FAR = 0.1
GUESSES, SWEEPS = 12, 48
# Entries from which a start from whole powers pays.
MANY = 1024
# A start from whole powers is right to one or two percent.
CAUTIOUS = 0.95


@device
def block_maxima(z, n, maxima):
    """Largest entry of each block, with -inf up to a full vector behind the last; (of all, whether there is a NaN)."""
    L = lanes(z)
    room = tile(z)
    bad = unordered(splat(z, 0.0), splat(z, 0.0))
    best = splat(z, -INF)
    blocks = (n + BLOCK - 1) // BLOCK
    for b in range(0, blocks, L):
        for i in range(L):
            start = (b + i) * BLOCK
            x = splat(z, -INF)
            if start + BLOCK <= n:
                for j in range(start, start + BLOCK, 2 * L):
                    u, v = load(z, j), load(z, j + L)
                    bad = bad | unordered(u, v)
                    x = greater(u, greater(v, x))
            else:
                for j in range(start, n, L):
                    u = load_first(z, j, n - j, splat(z, -INF)) if j + L > n else load(z, j)
                    bad = bad | unordered(u, u)
                    x = greater(u, x)
            store(room, i * L, x)
        x = row_maxima(room)
        best = greater(x, best)
        store(maxima, b, x)
    store(room, 0, best)
    for i in range(1, L):
        store(room, i * L, splat(z, -INF))
    return first_of(row_maxima(room)), some(bad)


def make_long(
    evaluate: Any, arguments: Any, advance: Any, edge: Any, start: float, normalise: bool, slopes: bool
) -> Any:
    """The solver of one row for one member; arguments as in `make_short`."""
    sums = make_sweep(evaluate, write=False)
    sweep = make_sweep(evaluate, write=True, slopes=slopes)
    better = make_start(advance)

    @device
    def solve(z, out, n, scale, exponent, maxima, values, results, hits, note, past, state):
        """Solve a row. ``maxima`` has room for a number per block and a vector, ``values`` and ``results`` for n and a
        vector; ``hits`` as in `packing.unpack`, ``past`` as in `sweeps.clear`, ``state`` as in `make_short`.
        """
        L = lanes(z)
        blocks = (n + BLOCK - 1) // BLOCK
        padded = (blocks + L - 1) // L * L
        top, bad = block_maxima(z, n, maxima)
        M = splat(z, NAN if bad else top)
        store(state, 0, M)
        if bad or not -INF < top < INF:
            return
        X, Y = like(M, start), like(M, 0.0)
        for _ in range(GUESSES):
            A, B, C = arguments(M, X, Y, scale, exponent)
            s, w = sums(maxima, maxima, padded, top, first_of(A), first_of(B), first_of(C))
            X, Y, error = advance(splat(z, add_up(s)), splat(z, add_up(w)), X, Y, scale, exponent)
            if first_of(error) < CLOSE:
                break
        # Wider by some units in the last place than `evaluate` may round.
        wider = 1.0 + 32.0 * epsilon(z)
        cut = first_of(edge(X + Y, scale)) * wider
        size = pack_blocks(z, n, top, cut, maxima, BLOCK, values)
        dense = size < 0
        near = not dense
        if normalise and (dense or size > MANY):
            # That may be right of the root, but hardly by so much; whether it was is seen in the end.
            if dense:
                X, Y = better(z, n, top, X + Y, scale, exponent), like(X, 0.0)
                cut = max(cut, first_of(edge(X * CAUTIOUS, scale)) * wider)
                size = pack_blocks(z, n, top, cut, maxima, BLOCK, values)
            else:
                X, Y = better(values, size, 0.0 * top, X + Y, scale, exponent), like(X, 0.0)
                cut = max(cut, first_of(edge(X * CAUTIOUS, scale)) * wider)
                size = pack(values, size, 0.0 * top, cut, values)
            dense, near = size < 0, True
        S, W = M, M
        complete = False
        while not complete:
            source, target, base, span = z, out, top, n
            if not dense:
                source, target, base, span = values, results, 0.0 * top, (size + L - 1) // L * L
            before, heavier = first_of(M) * 0.0 + INF, first_of(M) * 0.0 + INF
            for step in range(SWEEPS):
                A, B, C = arguments(splat(z, base), X, Y, scale, exponent)
                first, second, third = first_of(A), first_of(B), first_of(C)
                if near:
                    s, w = sweep(source, target, span, base, first, second, third)
                else:
                    s, w = sums(source, target, span, base, first, second, third)
                S, W = splat(z, add_up(s)), splat(z, add_up(w))
                moved, rest, error = advance(S, W, X, Y, scale, exponent)
                off = abs(first_of(error))
                tolerance = (2.0 + math.sqrt(span) / 16.0) * epsilon(z)
                noise = off < NOISE * tolerance and off > SHRUNK * before and first_of(W) > FELL * heavier
                if near and (off <= tolerance or noise):
                    break
                before, heavier = off, first_of(W)
                near = near or off <= NEARLY or step >= SWEEPS - 4
                X, Y = moved, rest
                if not dense and first_of(error) > FAR and size > 8 * L:
                    # Never below what is packed: X may have come from the right.
                    cut = max(cut, first_of(edge(X + Y, scale)) * wider)
                    size = pack(values, size, base, cut, values)
                    span = (size + L - 1) // L * L
            # If entries of the support are missing the root among the others lies so far left that they show.
            complete = dense or first_of(edge(X + Y, scale)) >= cut
            dense = dense or not complete
        factor = first_of(1.0 / (W if slopes else S)) if normalise else 1.0 + top * 0.0
        if not dense:
            clear(out, n, past)
            if note:
                fill(hits, (n + L - 1) // L, 0)
            unpack_blocks(z, n, top, cut, maxima, BLOCK, results, factor, out, hits, note)
        else:
            if normalise:
                scaled(out, n, factor)
            if note:
                fill(hits, (n + L - 1) // L, 1)
        store(state, L, X)
        store(state, 2 * L, Y)
        store(state, 3 * L, S)
        store(state, 4 * L, W)

    return solve
