"""The best bits of which at least `low` and at most `high` are on."""

from __future__ import annotations

from ..arithmetic import choose
from ..compiler import device
from ..simd import INF, lanes, load, peek, poke, splat, store
from .job import whole
from .words import as_word, ones


@device
def best_bits(r, slope):
    L, on = lanes(slope), 0
    none, one = splat(slope, 0.0), splat(slope, 1.0)
    for i in range(r.width):
        word = 0
        for j in range(64 * i, min(64 * i + 64, r.d), L):
            better = load(slope, j) > none
            store(r.row, j, choose(better, one, 0.0))
            word |= as_word(better) << (j - 64 * i)
        poke(r.found, i, word)
        on += ones(word)
    if on > r.high or on < r.low:
        _take(r, slope, r.high if on > r.high else r.low)


@device
def _take(r, slope, count):
    """The best so many, of equal ones the first."""
    edge, above = _ranked(r, slope, count)
    ties = count - above
    for j in range(whole(r.d)):
        poke(r.row, j, 0.0)
    for i in range(r.width):
        word = 0
        for j in range(64 * i, min(64 * i + 64, r.d)):
            x = peek(slope, j)
            if x > edge or (x == edge and ties > 0):
                ties -= x == edge
                poke(r.row, j, 1.0)
                word |= 1 << (j - 64 * i)
        poke(r.found, i, word)


@device
def _ranked(r, slope, count):
    """(the number at that rank, how many are larger), by parting what is left around one of them."""
    left, target = r.numbers, count
    if count == 0:
        return INF, 0
    for j in range(r.d):
        poke(left, j, peek(slope, j))
    size, above = r.d, 0
    while True:
        pivot, larger, equal = peek(left, size // 2), 0, 0
        for j in range(size):
            larger += peek(left, j) > pivot
            equal += peek(left, j) == pivot
        if larger < target <= larger + equal:
            return pivot, above + larger
        kept, upper = 0, larger >= target
        for j in range(size):
            x = peek(left, j)
            if (x > pivot) if upper else (x < pivot):
                poke(left, kept, x)
                kept += 1
        if not upper:
            target -= larger + equal
            above += larger + equal
        size = kept
