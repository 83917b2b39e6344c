"""A start for Newton from whole powers, which need no logarithm and no exponential per entry.

The sums that Newton wants, of y^r and y^(r-1) with y = [1 + X scale d]_+ and r = 1/e, are values of one function of the
exponent whose logarithm is smooth. It is taken at the exponents 0 to 4 and interpolated. A sweep costs a third of one
with powers; the result is right to a few digits, on either side of the root.
"""

from __future__ import annotations

from typing import Any

from .arithmetic import choose, greater, like
from .compiler import device
from .powers import exp2, log2
from .simd import INF, add_up, first_of, lanes, load, load_first, splat

# Exponents for which this pays: closer to alpha = 1 Newton needs few sweeps.
LEAST, MOST = 1.0, 4.0
STEPS, CLOSE = 6, 5e-3


@device
def _powers(x, M, K):
    """y to the powers 0, 1, 2, 3, 4."""
    y = greater((x - M) * K + 1.0, 0.0)
    square = y * y
    return choose(y > 0.0, like(y, 1.0), 0.0), y, square, square * y, square * square


@device
def _sums(z, n, top, slope):
    """log2 of the sums of y to the powers 0 to 4."""
    L = lanes(z)
    M, K = splat(z, top), splat(z, slope)
    a, b, c, d, e = splat(z, 0.0), splat(z, 0.0), splat(z, 0.0), splat(z, 0.0), splat(z, 0.0)
    j = 0
    while j + 2 * L <= n:
        p, q, r, s, t = _powers(load(z, j), M, K)
        a, b, c, d, e = a + p, b + q, c + r, d + s, e + t
        p, q, r, s, t = _powers(load(z, j + L), M, K)
        a, b, c, d, e = a + p, b + q, c + r, d + s, e + t
        j += 2 * L
    while j < n:
        p, q, r, s, t = _powers(load_first(z, j, min(L, n - j), splat(z, -INF)), M, K)
        a, b, c, d, e = a + p, b + q, c + r, d + s, e + t
        j += L
    return (
        log2(splat(z, add_up(a))), log2(splat(z, add_up(b))), log2(splat(z, add_up(c))), log2(splat(z, add_up(d))),
        log2(splat(z, add_up(e))),
    )  # fmt: skip


@device
def _interpolated(t, a, b, c, d, e):
    """2 to the value at t of the polynomial that is a, b, c, d, e at 0, 1, 2, 3, 4."""
    t1, t2, t3, t4 = t - 1.0, t - 2.0, t - 3.0, t - 4.0
    ends = a * (t1 * t2 * t3 * t4) + e * (t * t1 * t2 * t3)
    inner = b * (t * t2 * t3 * t4) + d * (t * t1 * t2 * t4)
    return exp2(ends / 24.0 - inner / 6.0 + c * (t * t1 * t3 * t4) / 4.0)


def make_start(advance: Any) -> Any:
    """The start for a member in the form of `power`."""

    @device
    def start(z, n, top, X, scale, exponent):
        """A better X for the row."""
        r = 1.0 / first_of(exponent)
        if not LEAST <= r <= MOST:
            return X
        R = like(X, r)
        for _ in range(STEPS):
            a, b, c, d, e = _sums(z, n, top, first_of(X * scale))
            S, W = _interpolated(R, a, b, c, d, e), _interpolated(R - 1.0, a, b, c, d, e)
            X, rest, error = advance(S, W, X, like(X, 0.0), scale, exponent)
            X = X + rest
            if abs(first_of(error)) < CLOSE:
                break
        return X

    return start
