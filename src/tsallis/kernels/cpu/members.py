"""The members of the family, as the solvers see them: what an entry gives, and how the unknown of a row moves.

With d = z - max z <= 0, each member's row hangs on one unknown, X:

    sparsemax   p = [d - X]_+             X = tau
    entmax15    p = [d/2 - X]_+^2         X = tau
    power       p ~ [1 + X scale d]_+^(1/e), also for the exponent e -> 0

The first two are members of the third in a form that needs no powers and comes out normalised. ``power`` is entmax at
any alpha in [0, 2] (scale = e = alpha - 1) and normmax (scale = 1, e = (alpha-1)/alpha, and p is the 1 - e th power of
that); X is P^-e with P the largest p of entmax. Newton on the 1/e-norm of the row is monotone from the left for all of
them (docs/theory/entmax.md); X moves by the sums S and W of what `evaluate` returns.

A member is a few functions of vectors. ``evaluate(z, top, first, second)`` gives (value, slope) of entries of rows with
the largest entry ``top``; ``first`` and ``second`` are what ``arguments`` makes of the rows' state. ``advance`` moves
the state: (X, Y, error), where Y is what X lost to rounding, and the error that of the row's sum before the move.
``edge`` is the d below which p = 0.
"""

from __future__ import annotations

from .arithmetic import choose, greater, like, root
from .compiler import device
from .powers import exp2, log2, log2_1p
from .simd import INF

# Powers are right to a few units in the last place; and what they give is divided by its sum in the end.
LOOSER = 0.4


@device
def _moved(X, Y, step):
    """X + Y + step, as the nearest number and the rest."""
    rest = Y + step
    moved = X + rest
    return moved, rest - (moved - X)


@device
def _total(a, b, c):
    """a + b + c, as the nearest number and the rest."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part) + c


@device
def sparsemax_arguments(top, X, Y, scale, exponent):
    return _total(top, X, Y)


@device
def entmax15_arguments(top, X, Y, scale, exponent):
    return _total(0.5 * top, X, Y)


@device
def edge_sparsemax(X, scale):
    return X


@device
def edge_entmax15(X, scale):
    return 2.0 * X


@device
def edge_power(X, scale):
    return choose(scale > 0.0, -1.0 / (scale * X), -INF)


@device
def evaluate_sparsemax(z, top, tau, rest):
    p = greater(z - tau - rest, 0.0)
    return p, choose(p > 0.0, like(p, 1.0), 0.0)


@device
def advance_sparsemax(S, W, X, Y, scale, exponent):
    X, Y = _moved(X, Y, (S - 1.0) / W)
    return X, Y, S - 1.0


@device
def evaluate_entmax15(z, top, tau, rest):
    u = greater(0.5 * z - tau - rest, 0.0)
    return u * u, u


@device
def advance_entmax15(S, W, X, Y, scale, exponent):
    X, Y = _moved(X, Y, (S - root(S)) / W)
    return X, Y, S - 1.0


@device
def power_arguments(top, X, Y, scale, exponent):
    return X * scale, 1.0 / exponent - 1.0


@device
def evaluate_power(z, top, slope, order):
    x = slope * (z - top)
    y = x + 1.0
    # Above: masked entries (d = -inf) where the exponent is negative. (LLVM makes much ado of a comparison with inf.)
    inside = (y > 0.0) & (y < 1e38)
    w = exp2(order * log2_1p(x, y))
    w = choose(inside, w, 0.0)
    return choose(inside, w * y, 0.0), w


@device
def advance_power(S, W, X, Y, scale, exponent):
    change = X * exp2(0.0 - exponent * log2(S)) - 1.0
    # change = S^-e - 1 is about -e log S. Where e is small X needs fewer digits, and change has no more.
    steepness = greater(exponent, 0.25)
    return X / (1.0 + change * (S / W)), Y, (0.0 - change) / steepness * LOOSER


@device
def accelerate(X, newton, S, W, exponent, t_last, G_last, D_last):
    """A better move than Newton's where two points are known: (X, t, G, D) of members in the form of `power`.

    The unknown t = 1/X as a function of G = s^e - 1, s the row's sum, is nearly straight; the cubic through both points
    with their slopes D = dt/dG is evaluated at G = 0. It may end on either side of the root. G_last = 0 says that there
    is only one point.
    """
    t = 1.0 / X
    powered = exp2(exponent * log2(S)) / X
    G = powered - 1.0
    D = S * t / (W * powered)
    h = G_last - G
    known = (G_last > 1e-3) & ((h > 1e-5) | (h < -1e-5))
    h = choose(known, h, 1.0)
    u = choose(known, 0.0 - G / h, 0.0)
    v = 1.0 - u
    cubic = v * v * ((1.0 + 2.0 * u) * t + u * h * D) + u * u * ((3.0 - 2.0 * u) * t_last - v * h * D_last)
    known = known & (cubic > 0.5 * t) & (cubic < 2.0 * t)
    return choose(known, 1.0 / cubic, newton), t, G, D
