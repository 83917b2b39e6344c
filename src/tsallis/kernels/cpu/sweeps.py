"""What is done to a whole row: its largest entry, the sums of a sweep, a factor."""

from __future__ import annotations

from typing import Any

from .arithmetic import greater, unordered
from .compiler import device
from .simd import INF, lanes, load, load_first, misalignment, some, splat, store, store_first, store_past

# Partial sums are closed after so many entries: adding a small number to a large one over and over loses digits.
CHUNK = 1024


@device
def top(z, n):
    """(largest entries by lane, whether there is a NaN)."""
    L = lanes(z)
    x, y = splat(z, -INF), splat(z, -INF)
    bad = unordered(x, x)
    j = 0
    while j + 2 * L <= n:
        u, v = load(z, j), load(z, j + L)
        bad = bad | unordered(u, v)
        x, y = greater(u, x), greater(v, y)
        j += 2 * L
    while j < n:
        u = load(z, j) if j + L <= n else load_first(z, j, n - j, splat(z, -INF))
        bad = bad | unordered(u, u)
        x = greater(u, x)
        j += L
    return greater(x, y), some(bad)


def make_sweep(evaluate: Any, *, write: bool, slopes: bool = False) -> Any:
    """The sums by lane of the values and slopes of a row; with ``write`` the values (or the slopes) go to ``out``."""

    @device
    def sweep(z, out, n, top, first, second, third):
        L = lanes(z)
        M, A, B, C = splat(z, top), splat(z, first), splat(z, second), splat(z, third)
        S_all, W_all = splat(z, 0.0), splat(z, 0.0)
        j = 0
        while j < n:
            end = min(j + CHUNK, n)
            S, W = splat(z, 0.0), splat(z, 0.0)
            while j + L <= end:
                p, w = evaluate(load(z, j), M, A, B, C)
                if write:
                    store(out, j, w if slopes else p)
                S, W = S + p, W + w
                j += L
            if j < end:
                p, w = evaluate(load_first(z, j, end - j, splat(z, -INF)), M, A, B, C)
                if write:
                    store_first(out, j, end - j, w if slopes else p)
                S, W = S + p, W + w
                j = end
            S_all, W_all = S_all + S, W_all + W
        return S_all, W_all

    return sweep


@device
def scaled(out, n, factor):
    """The row times a number."""
    L = lanes(out)
    f = splat(out, factor)
    j = 0
    while j + L <= n:
        store(out, j, load(out, j) * f)
        j += L
    if j < n:
        store_first(out, j, n - j, load_first(out, j, n - j, f) * f)


@device
def clear(out, n, past):
    """Zeros in the whole row; ``past`` the caches, if it is part of something large."""
    L = lanes(out)
    zero = splat(out, 0.0)
    j = 0
    if past:
        j = min((L - misalignment(out)) % L, n)
        store_first(out, 0, j, zero)
        while j + L <= n:
            store_past(out, j, zero)
            j += L
    while j + L <= n:
        store(out, j, zero)
        j += L
    if j < n:
        store_first(out, j, n - j, zero)
