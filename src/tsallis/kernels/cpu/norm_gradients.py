"""Backward pass of normmax: dz = [b (g - <p, g>) - p <b, g - <p, g>>]/a with b = p r^(-a), r = p/|p|, a = alpha - 1."""

from __future__ import annotations

import math

from ..members import LN2
from .arithmetic import choose, greater
from .compiler import device
from .powers import exp2, log2
from .simd import add_up, first_of, lanes, largest, load, load_first, peek, poke, splat, store, store_first

# Above it r^(-a) may leave the range of a vector's powers.
STEEP = 8.0


@device
def _at(ptr, j, n):
    L = lanes(ptr)
    return load(ptr, j) if j + L <= n else load_first(ptr, j, n - j, splat(ptr, 0.0))


@device
def _put(ptr, j, n, value):
    if j + lanes(ptr) <= n:
        store(ptr, j, value)
    else:
        store_first(ptr, j, n - j, value)


@device
def _power(p, r_log, exponent):
    """r^exponent on the support."""
    return choose(p > 0.0, exp2(exponent * r_log), 0.0)


@device
def normmax_vectors(p, g, dz, n, alpha, wanted):
    L = lanes(p)
    a = alpha - 1.0
    A = splat(p, alpha)
    top = splat(p, 0.0)
    for j in range(0, n, L):
        top = greater(_at(p, j, n), top)
    top = splat(p, largest(top))
    if not first_of(top) > 0.0:
        for j in range(0, n, L):
            _put(dz, j, n, splat(p, 0.0))
        return 0.0
    norm = splat(p, 0.0)
    for j in range(0, n, L):
        q = _at(p, j, n)
        norm = norm + _power(q, log2(choose(q > 0.0, q / top, 1.0)), A)
    # log2 |p|
    length = log2(top) + log2(splat(p, add_up(norm))) / A
    B, BG, PG, slope = splat(p, 0.0), splat(p, 0.0), splat(p, 0.0), splat(p, 0.0)
    for j in range(0, n, L):
        q, v = _at(p, j, n), _at(g, j, n)
        r_log = log2(choose(q > 0.0, q, 1.0)) - length
        b = q * _power(q, r_log, 1.0 - A)
        B, BG, PG = B + b, BG + b * v, PG + q * v
        _put(dz, j, n, b)
        if wanted:
            slope = slope + r_log * _power(q, r_log, A)
    mean = add_up(PG)
    total = splat(p, add_up(BG) - mean * add_up(B))
    M, S = splat(p, mean), splat(p, add_up(slope) * LN2 / alpha)
    dalpha = splat(p, 0.0)
    for j in range(0, n, L):
        q = _at(p, j, n)
        d = (_at(dz, j, n) * (_at(g, j, n) - M) - q * total) / (A - 1.0)
        _put(dz, j, n, d)
        if wanted:
            r_log = log2(choose(q > 0.0, q, 1.0)) - length
            dalpha = dalpha + choose(q > 0.0, d * _power(q, r_log, A - 1.0) * (LN2 * r_log - (A - 1.0) * S), 0.0)
    return -add_up(dalpha) + 0.0 * a


@device
def normmax_scalars(p, g, dz, n, alpha, wanted):
    a = alpha - 1.0
    top, at = 0.0, 0
    for j in range(n):
        if peek(p, j) > top:
            top, at = float(peek(p, j)), j
    norm = 0.0
    for j in range(n):
        norm += (float(peek(p, j)) / top) ** alpha if peek(p, j) > 0.0 else 0.0
    length = math.log(top) + math.log(norm) / alpha if top > 0.0 else 0.0
    # The Jacobian annihilates constants, here exactly: g is measured from its value at the top.
    origin = float(peek(g, at))
    mean, slope = 0.0, 0.0
    for j in range(n):
        q = float(peek(p, j))
        if q > 0.0:
            log_r = math.log(q) - length
            mean += q * (float(peek(g, j)) - origin)
            slope += math.exp(alpha * log_r) * log_r
    slope /= alpha
    total = 0.0
    for j in range(n):
        q = float(peek(p, j))
        if q > 0.0:
            total += q * math.exp(-a * (math.log(q) - length)) * (float(peek(g, j)) - origin - mean)
    dalpha = 0.0
    for j in range(n):
        q, d = float(peek(p, j)), 0.0
        if q > 0.0:
            log_r = math.log(q) - length
            b = q * math.exp(-a * log_r)
            d = (b * (float(peek(g, j)) - origin - mean) - q * total) / a
            dalpha -= d * math.exp(a * log_r) * (log_r - a * slope)
        poke(dz, j, d)
    return dalpha


@device
def normmax_row(p, g, dz, n, alpha, hits, noted, places, past, wanted):
    """dz of a row; returns dalpha."""
    if alpha <= STEEP:
        return float(normmax_vectors(p, g, dz, n, alpha, wanted))
    return normmax_scalars(p, g, dz, n, alpha, wanted)
