"""What vectors do not solve: alpha above 2, and caps. Row by row in float64, with the C library's powers.

Above alpha = 2 the sum is not convex in the unknown, and derivatives are unbounded at the edge of the support. The
method is that of `kernels.reference.threshold.bracketed`: Newton inside a shrinking bracket for ell = log P, P being
the value of an entry with d = 0.
"""

from __future__ import annotations

import math

from .compiler import device
from .simd import INF, peek, poke

# Two Newton trials, then one bisection: at worst the 53 halvings of a double, tripled.
CAP = 170
EPS = 2.0**-52


@device
def ratio(d, ell, a, c):
    """p/P = [1 + a d/P^a]_+^(1/a) of an entry, a != 0, c = P^-a; d may be positive below a cap."""
    if d == 0.0:
        return 1.0
    if c == INF:
        if d < 0.0:
            return 0.0
        t = math.log(a * d) - a * ell
        return math.exp((t + math.log1p(math.exp(-t)) if t > 0.0 else math.log1p(math.exp(t))) / a)
    x = a * d * c
    if not x > -1.0 or d == -INF:
        return 0.0
    if a == 1.0:
        return 1.0 + x
    if a == 0.5:
        return (1.0 + x) * (1.0 + x)
    return math.exp(math.log1p(x) / a)


@device
def inverse_power(ell, a):
    """P^-a, infinite where it is near the end of the range."""
    return math.exp(-a * ell) if -a * ell < 700.0 else INF


@device
def slope_of(r, a):
    """r^(1 - a)."""
    if a == 1.0:
        return 1.0
    return math.sqrt(r) if a == 0.5 else r ** (1.0 - a)


@device
def multiplier(ell, a):
    """lambda less the score that d is measured from: (1 - P^a)/a."""
    return -math.expm1(a * ell) / a


@device
def _sums(z, n, origin, ell, a, cap):
    """(sum of the free p/P, its slope, how many entries are at the cap)."""
    total, slope, capped, c = 0.0, 0.0, 0, inverse_power(ell, a)
    limit = multiplier(ell, a) if cap else INF
    for j in range(n):
        d = float(peek(z, j)) - origin
        if d >= limit:
            capped += 1
            continue
        r = ratio(d, ell, a, c)
        if r > 0.0:
            total += r
            slope += slope_of(r, a)
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
def write(z, out, n, origin, a, low, high, ell, exact, target, cap):
    """p of the whole row: where neighbouring ell miss the sum, the mixture of both whose sum is right; then the last
    ulps go to the free entries.
    """
    if exact:
        low, high = ell, ell
    low_limit, high_limit = (multiplier(low, a), multiplier(high, a)) if cap else (INF, INF)
    low_c, high_c, low_P, high_P = inverse_power(low, a), inverse_power(high, a), math.exp(low), math.exp(high)
    below, above = 0.0, 0.0
    for j in range(n):
        d = float(peek(z, j)) - origin
        below += 1.0 if d >= low_limit else low_P * ratio(d, low, a, low_c)
        above += 1.0 if d >= high_limit else high_P * ratio(d, high, a, high_c)
    share = min(max((target - below) / (above - below), 0.0), 1.0) if above > below else 0.0
    free, capped, factor = 0.0, 0.0, 1.0
    for sweep in range(2):
        for j in range(n):
            d = float(peek(z, j)) - origin
            p = 1.0 if d >= low_limit else low_P * ratio(d, low, a, low_c)
            if share > 0.0:
                p += share * ((1.0 if d >= high_limit else high_P * ratio(d, high, a, high_c)) - p)
            if sweep == 1:
                poke(out, j, p if cap and p >= 1.0 else min(p * factor, 1.0))
            elif cap and p >= 1.0:
                capped += 1.0
            else:
                free += p
        factor = (target - capped) / free if free > 0.0 and target > capped else 1.0


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
        if q > 0.0 and not (cap and q >= 1.0):
            if (e < 0.0 and q < lightest) or (e >= 0.0 and q > heaviest):
                at = j
            lightest, heaviest = min(lightest, q), max(heaviest, q)
    scale = lightest if e < 0.0 else heaviest
    origin = _direction(p, g, at, alpha - 1.0, own) if at >= 0 else 0.0
    total, shares, mean = 0.0, 0.0, 0.0
    for j in range(n):
        q = float(peek(p, j))
        if q > 0.0 and not (cap and q >= 1.0):
            x = _direction(p, g, j, alpha - 1.0, own) - origin
            share = (q / scale) ** e
            total += _vanishing(q**e, x)
            shares += share
            mean += share * x
    fits = abs(total) < INF
    result = 0.0
    for j in range(n):
        q, d = float(peek(p, j)), 0.0
        if q > 0.0 and not (cap and q >= 1.0):
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
