"""Structures that choose one variable at each place: how they are compared and added up.

Where places are neighbours in a sequence of S states, structures have pairs, too: (S, S) for each step.
"""

from __future__ import annotations

from ..compiler import device
from ..simd import INF, add_up, lanes, load, offset, peek, poke, splat, store
from .job import BASE, COUNT


@device
def common(r, one, other):
    total = 0
    for t in range(r.n):
        total += peek(one, t) == peek(other, t)
    return float(total)


@device
def stride(r):
    """There are no rows."""
    return 0


@device
def copy(r, code, row, to_code, to_row):
    for t in range(r.n):
        poke(to_code, t, peek(code, t))


@device
def pair(r, code, t):
    """The pair of the states at places t - 1 and t."""
    S = r.states
    return ((t - 1) * S + peek(code, t - 1) - (t - 1) * S) * S + peek(code, t) - t * S


@device
def ahead(r, code, row):
    total, steps = 0.0, r.states > 0
    for t in range(r.n):
        one, other = peek(code, t), peek(r.base, t)
        if one != other:
            total += peek(r.x, one) - peek(r.x, other)
        if steps and t > 0 and (one != other or peek(code, t - 1) != peek(r.base, t - 1)):
            total += peek(r.y, pair(r, code, t)) - peek(r.y, pair(r, r.base, t))
    return total


@device
def average(r, weights, out):
    none = splat(out, 0.0)
    for j in range(0, r.d, lanes(out)):
        store(out, j, none)
    for s in range(peek(r.facts, COUNT)):
        code, weight = offset(r.codes, s * r.width), peek(weights, s)
        for t in range(r.n):
            j = peek(code, t)
            poke(out, j, peek(out, j) + weight)


@device
def subtract_from(r, code, row, out):
    for t in range(r.n):
        poke(out, peek(code, t), peek(out, peek(code, t)) - 1.0)
    total = splat(out, 0.0)
    for j in range(0, r.d, lanes(out)):
        rest = 0.0 - load(out, j)
        store(out, j, rest)
        total = total + rest * rest
    return add_up(total)


@device
def mass(r):
    total = 0.0
    for s in range(peek(r.facts, COUNT)):
        total += peek(r.w, s)
    return total


@device
def advantage(r, b_found):
    """<slope, found - marginals>, and <y, .>, where scores are measured from the base."""
    score, square = b_found, splat(r.mu, 0.0)
    for s in range(peek(r.facts, COUNT)):
        score -= peek(r.w, s) * peek(r.b, s)
    for j in range(0, r.d, lanes(r.mu)):
        square = square + load(r.mu, j) * load(r.mu, j)
    return score - (inner(r, r.mu, r.found, r.row) - add_up(square))


@device
def inner(r, numbers, code, row):
    total = 0.0
    for t in range(r.n):
        total += peek(numbers, peek(code, t))
    return total


@device
def possible(r, code):
    for t in range(r.n):
        if peek(r.masked, peek(code, t)) == -INF:
            return False
        if r.states > 0 and t > 0 and peek(r.y, pair(r, code, t)) == -INF:
            return False
    return True


@device
def size_of_scores(r):
    total = 0.0
    for t in range(r.n):
        most = 0.0
        for s in range(peek(r.facts, COUNT)):
            code, size = offset(r.codes, s * r.width), 0.0
            if peek(code, t) != peek(r.found, t):
                size = abs(peek(r.x, peek(code, t))) + abs(peek(r.x, peek(r.found, t)))
            if r.states > 0 and t > 0 and pair(r, code, t) != pair(r, r.found, t):
                size += abs(peek(r.y, pair(r, code, t))) + abs(peek(r.y, pair(r, r.found, t)))
            most = max(most, size)
        total += most
    return total


@device
def place_of(r, j):
    """At which place a variable is chosen."""
    return j % r.columns if r.by_column != 0 else j // r.columns


@device
def read(r, given):
    for t in range(r.width):
        poke(r.found, t, -1)
    chosen = 0
    for j in range(r.d):
        if peek(given, j) > 0.5:
            t = place_of(r, j)
            if t >= r.n or peek(r.found, t) >= 0:
                return False
            poke(r.found, t, j)
            chosen += 1
    return chosen == r.n


@device
def set_pairs(r, out):
    for j in range(r.e):
        poke(out, j, 0.0)
    for s in range(peek(r.facts, COUNT)):
        code = offset(r.codes, s * r.width)
        for t in range(1, r.n if r.states > 0 else 0):
            j = pair(r, code, t)
            poke(out, j, peek(out, j) + peek(r.w, s))


@device
def scaled_to_base(r, s):
    copy(r, offset(r.codes, s * r.width), r.row, r.base, r.base_row)
    poke(r.facts, BASE, s)
    for t in range(peek(r.facts, COUNT)):
        poke(r.b, t, ahead(r, offset(r.codes, t * r.width), r.row))


@device
def expand(r, code):
    for t in range(r.width):
        poke(r.found, t, peek(code, t))


@device
def pair_inner(r, code):
    total = 0.0
    for t in range(1, r.n if r.states > 0 else 0):
        total += peek(r.y, pair(r, code, t))
    return total


@device
def write(r, n, code, out):
    for t in range(n):
        poke(out, peek(code, t), 1.0)


@device
def write_pairs(r, n, code, out):
    for t in range(1, n if r.states > 0 else 0):
        poke(out, pair(r, code, t), 1.0)
