"""Structures that are bits: how they are compared and added up."""

from __future__ import annotations

from ..compiler import device
from ..simd import add_up, lanes, load, offset, peek, poke, splat, store
from .job import BASE, COUNT, whole
from .words import lowest, ones


@device
def common(r, one, other):
    """How many variables two structures share."""
    total = 0
    for i in range(r.width):
        total += ones(peek(one, i) & peek(other, i))
    return float(total)


@device
def stride(r):
    """How far the rows of structures are apart."""
    return whole(r.d)


@device
def copy(r, code, row, to_code, to_row):
    """A structure to another place."""
    for i in range(r.width):
        poke(to_code, i, peek(code, i))
    for j in range(0, r.d, lanes(row)):
        store(to_row, j, load(row, j))


@device
def ahead(r, code, row):
    """By how much a structure's score exceeds that of the base."""
    total = splat(r.x, 0.0)
    for j in range(0, r.d, lanes(r.x)):
        total = total + load(r.x, j) * (load(row, j) - load(r.base_row, j))
    return add_up(total)


@device
def average(r, weights, out):
    """Sums of structures with these weights, by variables."""
    k, step = peek(r.facts, COUNT), stride(r)
    for j in range(0, r.d, lanes(out)):
        one, other = splat(out, 0.0), splat(out, 0.0)
        s = 0
        while s + 2 <= k:
            one = one + splat(out, peek(weights, s)) * load(r.rows, s * step + j)
            other = other + splat(out, peek(weights, s + 1)) * load(r.rows, (s + 1) * step + j)
            s += 2
        if s < k:
            one = one + splat(out, peek(weights, s)) * load(r.rows, s * step + j)
        store(out, j, one + other)


@device
def subtract_from(r, code, row, out):
    """out = a structure's variables - out; the square of its norm."""
    total = splat(out, 0.0)
    for j in range(0, r.d, lanes(out)):
        rest = load(row, j) - load(out, j)
        store(out, j, rest)
        total = total + rest * rest
    return add_up(total)


@device
def mass(r):
    """The marginal of a variable that all structures have, rounded as `average` rounds it."""
    one, other, k, s = 0.0, 0.0, peek(r.facts, COUNT), 0
    while s + 2 <= k:
        one += peek(r.w, s)
        other += peek(r.w, s + 1)
        s += 2
    if s < k:
        one += peek(r.w, s)
    return one + other


@device
def advantage(r, b_found):
    """<slope, found - marginals>."""
    total = splat(r.x, 0.0)
    for j in range(0, r.d, lanes(r.x)):
        mu = load(r.mu, j)
        total = total + (load(r.x, j) - mu) * (load(r.row, j) - mu)
    return add_up(total)


@device
def inner(r, numbers, code, row):
    """The sum of numbers over a structure's variables."""
    total = splat(numbers, 0.0)
    for j in range(0, r.d, lanes(numbers)):
        total = total + load(numbers, j) * load(row, j)
    return add_up(total)


@device
def possible(r, code):
    """Whether nothing of a structure is ruled out."""
    for i in range(r.width):
        word = peek(code, i)
        while word != 0:
            if peek(r.masked, 64 * i + lowest(word)) == -float("inf"):
                return False
            word &= word - 1
    return True


@device
def size_of_scores(r):
    """The sum of the absolute scores in which the structure found differs from one that is there."""
    total = 0.0
    for i in range(r.width):
        word = 0
        for s in range(peek(r.facts, COUNT)):
            word |= peek(r.codes, s * r.width + i) ^ peek(r.found, i)
        while word != 0:
            total += abs(peek(r.x, 64 * i + lowest(word)))
            word &= word - 1
    return total


@device
def read(r, given):
    """Take the structure found from numbers, one for each variable; whether it can be one."""
    for i in range(r.width):
        poke(r.found, i, 0)
    for j in range(whole(r.d)):
        poke(r.row, j, 0.0)
    for j in range(r.d):
        if peek(given, j) > 0.5:
            poke(r.row, j, 1.0)
            poke(r.found, j // 64, peek(r.found, j // 64) | (1 << (j % 64)))
    return True


@device
def set_pairs(r, out):
    """Marginals of pairs: there are none."""


@device
def scaled_to_base(r, s):
    """Measure scores from the structure in slot s from now on."""
    step = stride(r)
    copy(r, offset(r.codes, s * r.width), offset(r.rows, s * step), r.base, r.base_row)
    poke(r.facts, BASE, s)
    for t in range(peek(r.facts, COUNT)):
        poke(r.b, t, ahead(r, offset(r.codes, t * r.width), offset(r.rows, t * step)))


@device
def expand(r, code):
    """Take the structure found from its words."""
    for j in range(whole(r.d)):
        poke(r.row, j, float((peek(code, j // 64) >> (j % 64)) & 1) if j < r.d else 0.0)
    for i in range(r.width):
        poke(r.found, i, peek(code, i))


@device
def pair_inner(r, code):
    """The sum of numbers over a structure's pairs, of which there are none."""
    return 0.0


@device
def write(r, n, code, out):
    """Ones for the variables of a structure."""
    for i in range(r.width):
        word = peek(code, i)
        while word != 0:
            poke(out, 64 * i + lowest(word), 1.0)
            word &= word - 1


@device
def write_pairs(r, n, code, out):
    """There are none."""
