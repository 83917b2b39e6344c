"""Entmax at any alpha, and normmax: one kernel, which gives each row to the solver of its member and its length."""

from __future__ import annotations

import math
from functools import cache

from ..members import TINY
from .compiler import SOURCE, Entry, device
from .long import make_long
from .members import members
from .rows import (
    ALPHA,
    ALPHA_STRIDES,
    BYTE,
    DOUBLE,
    HITS,
    INTEGER,
    PAST,
    PLAIN,
    RESULT,
    SCORES,
    SCORES_STRIDES,
    THRESHOLD,
    WORK,
    N,
    deliver,
    fetch,
    fill,
    parameter,
    room,
)
from .short import make_short
from .simd import INF, NAN, epsilon, fence, lanes, load, offset, peek, pointer, poke, splat
from .steep import entmax_row
from .tiles import tile

SPARSEMAX, ENTMAX15, POWER, NORMMAX = range(4)
_power = (members.evaluate_power, members.power_arguments, members.advance_power, members.edge_power, 1.0, True)
MEMBERS = {
    SPARSEMAX: (
        members.evaluate_sparsemax, members.sparsemax_arguments, members.advance_sparsemax, members.edge_sparsemax,
        -1.0, False, False,
    ),
    ENTMAX15: (
        members.evaluate_entmax15, members.entmax15_arguments, members.advance_entmax15, members.edge_entmax15,
        -1.0, False, False,
    ),
    POWER: (*_power, False),
    NORMMAX: (*_power, True),
}  # fmt: skip


@device
def _threshold(kind, top, X, Y, S, exponent):
    """lambda of entmax, tau of normmax."""
    if kind == SPARSEMAX:
        return top + (X + Y + 1.0)
    if kind == ENTMAX15:
        return top + 2.0 * (X + Y + 1.0)
    if kind == NORMMAX:
        return top - 1.0 / (X + Y)
    return top - math.expm1(-exponent * math.log(S)) / exponent


@device
def state_of(kind, alpha):
    """(whether vectors solve rows of this alpha, scale, exponent)."""
    a = alpha - 1.0
    if kind == NORMMAX and 0.0 < a < INF:
        return True, 1.0, a / (a + 1.0)
    if kind != NORMMAX and -1.0 <= a <= 1.0:
        e = TINY if a == 0.0 else a
        return True, e, e
    # Something harmless; the row is solved or spoilt otherwise.
    return False, 0.5, 0.5


def _make(kind: int, short: bool) -> Entry:
    evaluate, arguments, advance, edge, start, normalise, slopes = MEMBERS[kind]
    solve_tile = make_short(evaluate, arguments, advance, edge, start, normalise, slopes)
    solve_row = make_long(evaluate, arguments, advance, edge, start, normalise, slopes)
    source = SOURCE
    # Its p, the 1/(alpha - 1) th power of something small, is steep at the edge of the support: in float32 that shows.
    wide = kind == NORMMAX

    def kernel(job_at, value, other, one, first, last, chunk):
        """Solve rows first to last. ``value`` is alpha, if it is the same for all rows."""
        _ = source
        job = pointer(job_at, INTEGER)
        z, out, thresholds = (
            pointer(peek(job, SCORES), one), pointer(peek(job, RESULT), one), pointer(peek(job, THRESHOLD), one)
        )  # fmt: skip
        n, plain = peek(job, N), peek(job, PLAIN) != 0
        hits, note, past = pointer(peek(job, HITS), BYTE), peek(job, HITS) != 0, peek(job, PAST) != 0
        work = pointer(peek(job, WORK), DOUBLE if wide else one)
        L = lanes(work)
        vectors = (n + L - 1) // L
        work = offset(work, chunk * room(n, L, plain))
        fetched = offset(work, room(n, L, True))
        state, scales, exponents = tile(work), tile(work), tile(work)
        tolerance = (2.0 + math.sqrt(n) / 16.0) * epsilon(work)
        # Neighbouring rows that lie across memory share its cache lines.
        step = L if short or not (plain or peek(job, SCORES_STRIDES + 3) == 1) else 1
        for row in range(first, last, step):
            rows = min(step, last - row)
            if row == first or peek(job, ALPHA) != 0:
                for r in range(L):
                    _, scale, exponent = state_of(
                        kind, parameter(job, ALPHA, ALPHA_STRIDES, value, row + min(r, rows - 1))
                    )
                    poke(scales, r, scale)
                    poke(exponents, r, exponent)
            if wide or not plain:
                scores, result = fetched, offset(fetched, L * n)
                for r in range(rows):
                    fetch(job, z, SCORES_STRIDES, row + r, n, offset(scores, r * n), True)
            else:
                scores, result = offset(z, row * n), offset(out, row * n)
            if short:
                K, E = load(scales, 0), load(exponents, 0)
                noted = offset(hits, row * vectors)
                values = offset(work, L * (n + L))
                solve_tile(scores, n, result, n, rows, n, K, E, tolerance, work, values, noted, note, state)
            for r in range(rows):
                x, p, at = offset(scores, r * n), offset(result, r * n), r
                if not short:
                    at = 0
                    K, E = splat(work, peek(scales, r)), splat(work, peek(exponents, r))
                    noted = offset(hits, (row + r) * vectors)
                    maxima = offset(work, 2 * (n + L))
                    solve_row(x, p, n, K, E, maxima, work, offset(work, n + L), noted, note, past, state)
                alpha = parameter(job, ALPHA, ALPHA_STRIDES, value, row + r)
                solved, scale, exponent = state_of(kind, alpha)
                top, X, Y = peek(state, at), peek(state, L + at), peek(state, 2 * L + at)
                threshold = NAN
                if top == -INF:
                    fill(p, n, 0.0)
                    threshold = -INF
                elif top < INF and solved:
                    threshold = _threshold(kind, top, X, Y, peek(state, 3 * L + at), exponent)
                elif kind == POWER and top < INF and 2.0 < alpha < INF:
                    threshold = entmax_row(x, p, n, top, alpha)
                else:
                    fill(p, n, NAN)
                if note and not (solved and -INF < top < INF):
                    fill(offset(hits, (row + r) * vectors), vectors, 1)
                if peek(job, THRESHOLD) != 0:
                    poke(thresholds, row + r, threshold)
                if wide or not plain:
                    deliver(job, p, row + r, n, out)
        if past:
            fence()

    return Entry(kernel)


@cache
def kernel(kind: int, short: bool) -> Entry:
    """The kernel of a member, for rows of at most LONGEST_IN_TILES entries or for longer ones."""
    return _make(kind, short)
