"""The members of the family, as the solvers see them: what an entry gives, and how the unknown of a row moves.

With d = z - max z <= 0, each member's row hangs on one unknown, X:

    sparsemax   p = [d - X]_+             X = tau
    entmax15    p = [d/2 - X]_+^2         X = tau
    power       p ~ [1 + X scale d]_+^(1/e), also for the exponent e -> 0

The first two are members of the third in a form that needs no powers and comes out normalised. ``power`` is entmax at
any alpha in [0, 2] (scale = e = alpha - 1) and normmax (scale = 1, e = (alpha-1)/alpha, and p is the 1 - e th power of
that); X is P^-e with P the largest p of entmax. The unknown is kept in two numbers, X and Y, whose sum it is: where
many entries lie at the edge of the support, one unit in its last place moves the row's sum visibly. Newton on the
1/e-norm of the row is monotone from the left for all of them (docs/theory/entmax.md); X moves by the sums S and W of
what `evaluate` returns.

A member is a few functions of vectors. ``evaluate(z, top, *arguments)`` gives (value, slope) of entries of rows with
the largest entry ``top``, from the three numbers that ``arguments`` makes of the rows' state. ``advance`` moves the
state: (X, Y, error), where the error is that of the row's sum before the move.
``edge`` is the d below which p = 0. ``weight`` is what the backward pass makes of p. ``entropy`` is what an entry adds
to the entropy, from p, a = alpha - 1 and alpha.

The functions here are compiled by each backend with its own words for what vectors can do: `compiled_with`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import log
from types import FunctionType, SimpleNamespace
from typing import Any

# The words. Names that no backend brings are those of this file.
choose: Any  # (truths, x, y): x where true, else y
greater: Any  # (x, y): the larger one; y where they do not compare
like: Any  # (x, number): the number, as often as there are entries of x
root: Any
log2: Any
log2_1p: Any  # (x, y): log2 of y = 1 + x, from x where y is near one
exp2: Any
lost: Any  # (x, y, xy): what the product xy lost to rounding
psi_series: Any  # Taylor series of psi (`core.numerics`), for arguments below one
INF: Any

# Powers are right to a few units in the last place; and what they give is divided by its sum in the end.
LOOSER = 0.4
LN2 = log(2.0)
# Stands for the exponent 0 (softmax): 1/e times log(1 + e x) is x to the last bit.
TINY = 1e-30


def moved(X, Y, step):
    """X + Y + step, as the nearest number and the rest."""
    rest = Y + step
    at = X + rest
    return at, rest - (at - X)


def total(a, b, c):
    """a + b + c, as the nearest number and the rest; the third of three arguments is not needed then."""
    both = a + b
    part = both - a
    return both, (a - (both - part)) + (b - part) + c, c


def sparsemax_arguments(top, X, Y, scale, exponent):
    return total(top, X, Y)


def entmax15_arguments(top, X, Y, scale, exponent):
    return total(0.5 * top, X, Y)


def power_arguments(top, X, Y, scale, exponent):
    slope = X * scale
    return slope, lost(X, scale, slope) + Y * scale, 1.0 / exponent - 1.0


def edge_sparsemax(X, scale):
    return X


def edge_entmax15(X, scale):
    return 2.0 * X


def edge_power(X, scale):
    return choose(scale > 0.0, -1.0 / (scale * X), -INF)


def evaluate_sparsemax(z, top, tau, rest, _):
    p = greater(z - tau - rest, 0.0)
    return p, choose(p > 0.0, like(p, 1.0), 0.0)


def evaluate_entmax15(z, top, tau, rest, _):
    u = greater(0.5 * z - tau - rest, 0.0)
    return u * u, u


def evaluate_power(z, top, slope, rest, order):
    d = z - top
    x = slope * d + rest * d
    y = slope * d + 1.0 + rest * d
    # Above: masked entries (d = -inf) where the exponent is negative. (LLVM makes much ado of a comparison with inf.)
    inside = (y > 0.0) & (y < 1e38)
    w = exp2(order * log2_1p(x, y))
    w = choose(inside, w, 0.0)
    return choose(inside, w * y, 0.0), w


def advance_sparsemax(S, W, X, Y, scale, exponent):
    X, Y = moved(X, Y, (S - 1.0) / W)
    return X, Y, S - 1.0


def advance_entmax15(S, W, X, Y, scale, exponent):
    X, Y = moved(X, Y, (S - root(S)) / W)
    return X, Y, S - 1.0


def advance_power(S, W, X, Y, scale, exponent):
    change = (X + Y) * exp2(0.0 - exponent * log2(S)) - 1.0
    # change = S^-e - 1 is about -e log S. Where e is small X needs fewer digits, and change has no more.
    steepness = greater(exponent, 0.25)
    off = change * (S / W)
    # Near the root X stays: if its last place changed, so would the rounding of every product with it.
    near = (off < 0.01) & (off > -0.01)
    rest = Y - (X + Y) * off / (1.0 + off)
    return choose(near, X, (X + Y) / (1.0 + off)), choose(near, rest, 0.0), (0.0 - change) / steepness * LOOSER


def accelerate(X, Y, moved, rest, left, left_rest, right, S, W, exponent, t_last, G_last, D_last):
    """A better move than Newton's, from two points, where it stays between what is known to lie left and right of the
    root: (X, Y, left, left_rest, right, t, G, D), of members in the form of `power`.

    Newton lands left of the root (S too large there) wherever it starts: the rightmost landing is ``left``, the
    leftmost X with S too small ``right``. The unknown t = 1/X as a function of G = s^e - 1, s the row's sum, is nearly
    straight; the cubic through both points with their slopes D = dt/dG is evaluated at G = 0. It may end right of the
    root: then the next move is to ``left``. G_last = 0 says that there is only one point. Exponents below 0 are not
    accelerated: G is negative there.
    """
    # What was thought to be left may be right of the root by rounding.
    wrong = (X - left) + (Y - left_rest) <= 0.0
    X = X + Y
    t = 1.0 / X
    powered = exp2(exponent * log2(S)) / X
    G = powered - 1.0
    D = S * t / (W * powered)
    further = ((moved - left) + (rest - left_rest) > 0.0) | (exponent < 0.0) | (wrong & (G < 0.0))
    left, left_rest = choose(further, moved, left), choose(further, rest, left_rest)
    right = choose((G < 0.0) & (right > X), X, right)
    h = G_last - G
    # Closer to the root Newton is as good, and keeps X in two numbers.
    known = (G > 1e-3) & (G_last > 1e-3) & ((h > 1e-5) | (h < -1e-5))
    h = choose(known, h, 1.0)
    u = choose(known, 0.0 - G / h, 0.0)
    v = 1.0 - u
    cubic = v * v * ((1.0 + 2.0 * u) * t + u * h * D) + u * u * ((3.0 - 2.0 * u) * t_last - v * h * D_last)
    known = known & (cubic > 0.5 * t)
    point = 1.0 / choose(known, cubic, 1.0)
    known = known & (point > left) & (point < right)
    return choose(known, point, left), choose(known, like(X, 0.0), left_rest), left, left_rest, right, t, G, D


def weight_sparsemax(p, alpha):
    return choose(p > 0.0, like(p, 1.0), 0.0)


def weight_entmax15(p, alpha):
    return root(p)


def weight_power(p, alpha):
    return choose(p > 0.0, exp2((2.0 - alpha) * log2(p)), 0.0)


def tsallis_log(p, a):
    """The deformed logarithm (p^a - 1)/a of p > 0; log p at a = 0."""
    ell = log2(p) * LN2
    x = a * ell
    near = (x < 1.0) & (x > -1.0)
    power = exp2(x / LN2)
    far = choose(near, like(x, 1.0), x)
    inside = choose(near, x, 0.0)
    return ell * choose(near, power - inside * psi_series(inside), (power - 1.0) / far)


def tsallis_log_slope(p, a):
    """Derivative in alpha of the deformed logarithm at fixed p > 0: l^2 psi(a l), l = log p (`core.numerics`)."""
    ell = log2(p) * LN2
    x = a * ell
    near = (x < 1.0) & (x > -1.0)
    power = exp2(x / LN2)
    far = choose(near, like(x, 1.0), x)
    return ell * ell * choose(near, psi_series(choose(near, x, 0.0)), (far * power - (power - 1.0)) / (far * far))


def entropy_sparsemax(p, a, alpha):
    return 0.5 * p * (1.0 - p)


def entropy_entmax15(p, a, alpha):
    return p * (1.0 - root(p)) / 0.75


def entropy_power(p, a, alpha):
    return (0.0 - p) * tsallis_log(choose(p > 0.0, p, 1.0), a) / alpha


FUNCTIONS = (
    moved, total, sparsemax_arguments, entmax15_arguments, power_arguments, edge_sparsemax, edge_entmax15, edge_power,
    evaluate_sparsemax, evaluate_entmax15, evaluate_power, advance_sparsemax, advance_entmax15, advance_power,
    accelerate, weight_sparsemax, weight_entmax15, weight_power, tsallis_log, tsallis_log_slope,
    entropy_sparsemax, entropy_entmax15, entropy_power,
)  # fmt: skip


def compiled_with(
    words: Mapping[str, Any], device: Callable[[Any], Any], number: Callable[[float], Any] = float
) -> Any:
    """The functions of this file, made by ``device`` of these words; ``number`` makes constants of numbers."""
    scope: dict[str, Any] = {"LOOSER": number(LOOSER), "LN2": number(LN2), **words}
    for function in FUNCTIONS:
        named = FunctionType(function.__code__, scope, function.__name__)
        named.__module__ = __name__
        scope[function.__name__] = device(named)
    return SimpleNamespace(**{function.__name__: scope[function.__name__] for function in FUNCTIONS})
