"""Entmax at any alpha, and normmax: one kernel, which gives each row to the solver of its member and its length."""

from __future__ import annotations

import math

from . import members
from .compiler import device, entry
from .jobs import BLOCK, LONGEST_IN_TILES, room
from .long import make_long
from .rows import (
    ALPHA,
    ALPHA_STRIDES,
    BYTE,
    HITS,
    INTEGER,
    MEMBER,
    PLAIN,
    RESULT,
    SCORES,
    THRESHOLD,
    WORK,
    N,
    deliver,
    fetch,
    fill,
    parameter,
)
from .short import make_short
from .simd import INF, NAN, epsilon, lanes, load, offset, peek, pointer, poke, splat
from .steep import entmax_row
from .tiles import tile

# Stands for the exponent 0 (softmax): 1/e times log(1 + e x) is x to the last bit.
TINY = 1e-30

_sparsemax = (members.evaluate_sparsemax, members.sparsemax_arguments, members.advance_sparsemax, members.edge_sparsemax)
_entmax15 = (members.evaluate_entmax15, members.entmax15_arguments, members.advance_entmax15, members.edge_entmax15)
_power = (members.evaluate_power, members.power_arguments, members.advance_power, members.edge_power)

short_sparsemax = make_short(*_sparsemax, -1.0, False, False)
short_entmax15 = make_short(*_entmax15, -1.0, False, False)
short_power = make_short(*_power, 1.0, True, False)
short_normmax = make_short(*_power, 1.0, True, True)
long_sparsemax = make_long(*_sparsemax, -1.0, False, False)
long_entmax15 = make_long(*_entmax15, -1.0, False, False)
long_power = make_long(*_power, 1.0, True, False)
long_normmax = make_long(*_power, 1.0, True, True)

SPARSEMAX, ENTMAX15, POWER, NORMMAX = 0, 1, 2, 3


@device
def _solve_tile(kind, z, out, rows, n, scale, exponent, tolerance, work, state):
    L = lanes(z)
    results = offset(work, L * (n + L))
    if kind == SPARSEMAX:
        short_sparsemax(z, n, out, n, rows, n, scale, exponent, tolerance, work, results, state)
    elif kind == ENTMAX15:
        short_entmax15(z, n, out, n, rows, n, scale, exponent, tolerance, work, results, state)
    elif kind == POWER:
        short_power(z, n, out, n, rows, n, scale, exponent, tolerance, work, results, state)
    else:
        short_normmax(z, n, out, n, rows, n, scale, exponent, tolerance, work, results, state)


@device
def _solve_row(kind, z, out, n, scale, exponent, work, hits, note, state):
    L = lanes(z)
    values, results = work, offset(work, n + L)
    maxima = offset(work, 2 * (n + L))
    if kind == SPARSEMAX:
        long_sparsemax(z, out, n, scale, exponent, maxima, values, results, hits, note, state)
    elif kind == ENTMAX15:
        long_entmax15(z, out, n, scale, exponent, maxima, values, results, hits, note, state)
    elif kind == POWER:
        long_power(z, out, n, scale, exponent, maxima, values, results, hits, note, state)
    else:
        long_normmax(z, out, n, scale, exponent, maxima, values, results, hits, note, state)


@device
def _threshold(kind, top, X, Y, S, scale, exponent):
    """lambda of entmax, tau of normmax."""
    if kind == SPARSEMAX:
        return top + (X + Y + 1.0)
    if kind == ENTMAX15:
        return top + 2.0 * (X + Y + 1.0)
    if kind == NORMMAX:
        return top - 1.0 / X
    return top - math.expm1(-exponent * math.log(S)) / exponent


@device
def _state(alpha, norm):
    """(kind, scale, exponent) of a row; kind -1 if its alpha is not for the vectors."""
    a = alpha - 1.0
    if norm:
        return (NORMMAX, 1.0, a / (a + 1.0)) if 0.0 < a < INF else (-1, 0.5, 0.5)
    if a == 1.0:
        return SPARSEMAX, a, a
    if a == 0.5:
        return ENTMAX15, a, a
    if not -1.0 <= a < 1.0:
        return -1, 0.5, 0.5
    a = TINY if a == 0.0 else a
    return POWER, a, a


@device
def _finish(z, out, n, kind, alpha, norm, scale, exponent, top, X, Y, S):
    """Rows that are no vectors' matter: masked, NaN, large alpha. Returns the threshold."""
    if top == -INF:
        fill(out, n, 0.0)
        return -INF
    if not top < INF or not (alpha >= 0.0 and alpha < INF) or (norm and kind < 0):
        fill(out, n, NAN)
        return NAN
    if kind < 0:
        return entmax_row(z, out, n, top, alpha)
    return _threshold(kind, top, X, Y, S, scale, exponent)


@entry
def simplex(job_at, value, other, one, first, last, chunk):
    """Solve rows first to last. ``value`` is alpha, if it is the same for all rows."""
    job = pointer(job_at, INTEGER)
    z, out = pointer(peek(job, SCORES), one), pointer(peek(job, RESULT), one)
    n, norm, plain = peek(job, N), peek(job, MEMBER) != 0, peek(job, PLAIN) != 0
    hits, note, blocks = pointer(peek(job, HITS), BYTE), peek(job, HITS) != 0, (n + BLOCK - 1) // BLOCK
    L = lanes(z)
    work = offset(pointer(peek(job, WORK), one), chunk * room(n, L, plain))
    fetched = offset(work, room(n, L, True))
    state, lane = tile(z), tile(z)
    scales, exponents = offset(lane, 0), offset(lane, L)
    short = n <= LONGEST_IN_TILES
    step = L if short or not plain else 1
    kind = -1
    for row in range(first, last, step):
        rows = min(step, last - row)
        if row == first or peek(job, ALPHA) != 0:
            kind = -1
            for r in range(L):
                mine, scale, exponent = _state(parameter(job, ALPHA, ALPHA_STRIDES, value, row + min(r, rows - 1)), norm)
                poke(scales, r, scale)
                poke(exponents, r, exponent)
                kind = mine if kind < 0 else kind if mine in (kind, -1) else POWER
            kind = POWER if kind < 0 else kind
        source, target = offset(z, row * n), offset(out, row * n)
        if not plain:
            source, target = fetched, offset(fetched, L * n)
            for r in range(rows):
                fetch(job, z, row + r, n, offset(source, r * n))
        if short:
            tolerance = (8.0 + math.sqrt(n) / 16.0) * epsilon(z)
            _solve_tile(kind, source, target, rows, n, load(scales, 0), load(exponents, 0), tolerance, work, state)
        for r in range(rows):
            at = r
            if not short:
                at = 0
                row_hits = offset(hits, (row + r) * blocks)
                scale, exponent = splat(z, peek(scales, r)), splat(z, peek(exponents, r))
                _solve_row(kind, offset(source, r * n), offset(target, r * n), n, scale, exponent, work, row_hits, note, state)
            alpha = parameter(job, ALPHA, ALPHA_STRIDES, value, row + r)
            mine, _, _ = _state(alpha, norm)
            top = peek(state, at)
            threshold = 0.0
            if mine < 0 or not -INF < top < INF or peek(job, THRESHOLD) != 0:
                threshold = _finish(
                    offset(source, r * n), offset(target, r * n), n, kind if mine >= 0 else -1, alpha, norm,
                    peek(scales, r), peek(exponents, r), top,
                    peek(state, L + at), peek(state, 2 * L + at), peek(state, 3 * L + at),
                )  # fmt: skip
            if note and (mine < 0 or not -INF < top < INF):
                fill(offset(hits, (row + r) * blocks), blocks, 1)
            if peek(job, THRESHOLD) != 0:
                poke(pointer(peek(job, THRESHOLD), one), row + r, threshold)
            if not plain:
                deliver(job, offset(target, r * n), row + r, n, out)
