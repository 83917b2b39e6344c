"""What vectors do not solve: alpha above 2, and caps. Row by row in float64, with the C library's powers.

Above alpha = 2 the sum is not convex in the unknown, and derivatives are unbounded at the edge of the support. The
method is that of `kernels.reference.threshold.bracketed`: Newton inside a shrinking bracket for ell = log P, P being the
value of an entry with d = 0.
"""

from __future__ import annotations

import math

from .compiler import device
from .simd import INF, peek, poke

# Two Newton trials, then one bisection: at worst the 53 halvings of a double, tripled.
CAP = 170
EPS = 2.0**-52


@device
def ratio(d, ell, a):
    """p/P = [1 + a d/P^a]_+^(1/a) of an entry, a != 0; d may be positive below a cap."""
    if d == 0.0:
        return 1.0
    steepness = -a * ell
    if steepness > 700.0:
        if d < 0.0:
            return 0.0
        t = math.log(a * d) + steepness
        return math.exp((t + math.log1p(math.exp(-t)) if t > 0.0 else math.log1p(math.exp(t))) / a)
    x = a * d * math.exp(steepness)
    if not x > -1.0 or d == -INF:
        return 0.0
    return math.exp(math.log1p(x) / a)


@device
def multiplier(ell, a):
    """lambda less the score that d is measured from: (1 - P^a)/a."""
    return -math.expm1(a * ell) / a


@device
def _sums(z, n, origin, ell, a, cap):
    """(sum of the free p/P, its slope, how many entries are at the cap)."""
    total, slope, capped = 0.0, 0.0, 0
    limit = multiplier(ell, a) if cap else INF
    for j in range(n):
        d = float(peek(z, j)) - origin
        if d >= limit:
            capped += 1
            continue
        r = ratio(d, ell, a)
        if r > 0.0:
            total += r
            slope += r ** (1.0 - a)
    return total, slope, capped


@device
def solve(z, n, origin, a, low, target, cap):
    """(ell, low, high, whether the sum is exact) with sum p = target; p <= 1 if ``cap``."""
    high, ell = 0.0, 0.0
    for step in range(1, CAP):
        total, slope, capped = _sums(z, n, origin, ell, a, cap)
        left = target - capped
        excess = math.exp(ell) * total - left
        low = ell if excess <= 0.0 else low
        high = ell if excess >= 0.0 else high
        middle = low + (high - low) / 2.0
        if abs(excess) <= 4.0 * EPS * max(left, 0.0):
            return ell, low, high, True
        if middle <= low or middle >= high:
            break
        trial = middle
        if left > 0.0 and total > 0.0 and 0.0 < slope < INF and step % 3 != 0:
            relative = math.expm1(-a * (ell + math.log(total / left))) * (total / slope)
            if relative > -1.0:
                trial = ell + math.log1p(relative) / a
        ell = trial if low < trial < high else middle
    return ell, low, high, False


@device
def value(d, ell, a, limit):
    """p of an entry; 1 from the limit on."""
    return 1.0 if d >= limit else math.exp(ell) * ratio(d, ell, a)


@device
def write(z, out, n, origin, a, low, high, ell, exact, target, cap):
    """p of the whole row. Where neighbouring ell miss the sum, the mixture of both whose sum is right."""
    if exact:
        low, high = ell, ell
    low_limit = multiplier(low, a) if cap else INF
    high_limit = multiplier(high, a) if cap else INF
    below, above = 0.0, 0.0
    for j in range(n):
        d = float(peek(z, j)) - origin
        below += value(d, low, a, low_limit)
        above += value(d, high, a, high_limit)
    share = min(max((target - below) / (above - below), 0.0), 1.0) if above > below else 0.0
    for j in range(n):
        d = float(peek(z, j)) - origin
        p, q = value(d, low, a, low_limit), value(d, high, a, high_limit)
        poke(out, j, p + share * (q - p))


@device
def entmax_row(z, out, n, top, alpha):
    """Entmax of a row with alpha > 2; returns lambda."""
    kept = 0
    for j in range(n):
        kept += peek(z, j) > -INF
    a = alpha - 1.0
    ell, low, high, exact = solve(z, n, float(top), a, -math.log(float(kept)), 1.0, False)
    write(z, out, n, float(top), a, low, high, ell, exact, 1.0, False)
    return float(top) + multiplier(ell, a)


@device
def _direction(p, g, j, a, own):
    """g, or with ``own`` the derivative of the deformed logarithm in alpha at p (`powers.tsallis_log_slope`)."""
    if not own:
        return float(peek(g, j))
    q = float(peek(p, j))
    if q <= 0.0:
        return 0.0
    ell = math.log(q)
    x = a * ell
    if abs(x) < 0.5:
        total, term = 0.0, 0.5
        for i in range(24):
            total += term
            term *= x * (i + 2.0) / ((i + 1.0) * (i + 3.0))
        return ell * ell * total
    return (x * math.exp(x) - math.expm1(x)) / (a * a)


@device
def _vanishing(x, y):
    """x * y where y = 0 wins over an infinite x."""
    return 0.0 if y == 0.0 else x * y


@device
def tangent(p, g, n, alpha, cap, out, own, weights):
    """J g of a row, J being the Jacobian (`core.domains.SumConstrained`), and the share of each entry's weight if
    ``weights``; alpha != 2 may be large. Returns <g, J D>, D being the direction of alpha, if ``own``.
    """
    e = 2.0 - alpha
    lightest, heaviest, at = INF, 0.0, -1
    for j in range(n):
        q = float(peek(p, j))
        if 0.0 < q and not (cap and q >= 1.0):
            if (e < 0.0 and q < lightest) or (e >= 0.0 and q > heaviest):
                at = j
            lightest, heaviest = min(lightest, q), max(heaviest, q)
    scale = lightest if e < 0.0 else heaviest
    origin = _direction(p, g, at, alpha - 1.0, own) if at >= 0 else 0.0
    total, shares, mean = 0.0, 0.0, 0.0
    for j in range(n):
        q = float(peek(p, j))
        if 0.0 < q and not (cap and q >= 1.0):
            x = _direction(p, g, j, alpha - 1.0, own) - origin
            share = (q / scale) ** e
            total += _vanishing(q**e, x)
            shares += share
            mean += share * x
    fits = abs(total) < INF
    result = 0.0
    for j in range(n):
        q, d = float(peek(p, j)), 0.0
        if 0.0 < q and not (cap and q >= 1.0):
            x = _direction(p, g, j, alpha - 1.0, own) - origin
            share = (q / scale) ** e / shares
            w = q**e
            if weights:
                d = share
            elif fits:
                d = _vanishing(w, x) - share * total
            else:
                d = _vanishing(w, x - mean / shares)
        if own:
            result += _vanishing(d, float(peek(g, j)))
        else:
            poke(out, j, d)
    return result
