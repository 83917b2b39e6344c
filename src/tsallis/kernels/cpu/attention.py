"""Attention over supports: sums of values, and gradients, where queries list the keys that they attend to.

A row is a query of a head; its list holds keys in ascending order with a probability each. Rows say where their lists
are, so that lists of many blocks need not lie together.

    out = sum p v        dS = w (<g, v> - mean),  w = p^(2 - alpha),  mean = sum w <g, v>/sum w
    dq = scale sum dS k        dk = scale sum dS q        dv = sum p g

The first two lines are a row's own; the last two sums go over queries: a thread has a range of keys of a head to
itself, so that no two write to the same place, and results do not depend on their number.
"""

from __future__ import annotations

from functools import cache

from .arithmetic import choose, unordered
from .compiler import PACKS, SOURCE, Entry, device
from .gradients import WEIGHTS
from .members import tsallis_log_slope
from .pairs import add_scaled, dot
from .rows import DOUBLE, INTEGER, fill
from .simd import (
    NAN,
    add_up,
    compress,
    lanes,
    load,
    load_first,
    offset,
    peek,
    pointer,
    poke,
    splat,
    store,
    store_first,
)
from .simd import count as count_of
from .sweeps import clear
from .tiles import tile

MOST_KEYS = 2**24

# A job: addresses (0 where there is nothing), then sizes. LISTS, PLACES, SLOPES and COUNTS have an entry per row, the
# first three an address. Places are floating numbers, which vectors can move: whole up to 2^24 (MOST_KEYS). STEPS are
# the numbers 0, 1, 2, ... of a vector.
(
    P, HITS, LISTS, PLACES, SLOPES, COUNTS, Q, K, V, G, OUT, DK, DALPHA, ALPHA,
    STEPS, FIRST, N, SHIFT, QUERIES, KEYS, GROUP, WIDTH, DEPTH, RANGES,
) = range(24)  # fmt: skip


@device
def key_head(job, r):
    """Which head of keys a row's head attends to: heads of queries in groups."""
    return r // peek(job, QUERIES) // peek(job, GROUP)


@device
def next_used(words, v, vectors, noted):
    """The first vector from v on that may have entries that are not zero: notes are asked for eight at once."""
    while noted and v % 8 == 0 and v + 8 <= vectors and peek(words, v // 8) == 0:
        v += 8
    return v


@device
def _append_vectors(q, first, steps, values, places, k):
    """Behind k entries of a list, those of a vector that are not zero (NaN is none)."""
    kept = (q > 0.0) | unordered(q, q)
    n = count_of(kept)
    # No more than there are: what follows may be another row's.
    store_first(values, k, n, compress(q, kept))
    store_first(places, k, n, compress(load(steps, 0) + first, kept))
    return k + n


@device
def _append_scalars(q, first, steps, values, places, k):
    L = lanes(steps)
    room = tile(steps)
    store(room, 0, q)
    for i in range(L):
        number = peek(room, i)
        if number != 0.0:
            poke(values, k, number)
            poke(places, k, first + i)
            k += 1
    return k


_append = _append_vectors if PACKS else _append_scalars


@cache
def count() -> Entry:
    """COUNTS = entries of each row of P that are not zero."""
    source = SOURCE

    def kernel(job_at, value, other, one, first, last, chunk):
        _ = source
        job = pointer(job_at, INTEGER)
        n, noted, counts = peek(job, N), peek(job, HITS) != 0, pointer(peek(job, COUNTS), INTEGER)
        L = lanes(pointer(peek(job, P), one))
        vectors = (n + L - 1) // L
        for r in range(first, last):
            p, notes = offset(pointer(peek(job, P), one), r * n), peek(job, HITS) + r * vectors
            words = pointer(notes, INTEGER)
            total, none = 0, splat(p, 0.0)
            v = next_used(words, 0, vectors, noted)
            while v < vectors:
                part = min(L, n - v * L)
                q = load(p, v * L) if part == L else load_first(p, v * L, part, none)
                total += count_of((q > 0.0) | unordered(q, q))
                v = next_used(words, v + 1, vectors, noted)
            poke(counts, peek(job, FIRST) + r, total)

    return Entry(kernel)


@cache
def list_up() -> Entry:
    """The lists of rows of P, whose first column is key SHIFT."""
    source = SOURCE

    def kernel(job_at, value, other, one, first, last, chunk):
        _ = source
        job = pointer(job_at, INTEGER)
        n, noted, shift = peek(job, N), peek(job, HITS) != 0, peek(job, SHIFT)
        lists, places_at = pointer(peek(job, LISTS), INTEGER), pointer(peek(job, PLACES), INTEGER)
        steps = pointer(peek(job, STEPS), one)
        L = lanes(steps)
        vectors = (n + L - 1) // L
        for r in range(first, last):
            p, notes = offset(pointer(peek(job, P), one), r * n), peek(job, HITS) + r * vectors
            words = pointer(notes, INTEGER)
            row = peek(job, FIRST) + r
            values, places = pointer(peek(lists, row), one), pointer(peek(places_at, row), one)
            k, none = 0, splat(p, 0.0)
            v = next_used(words, 0, vectors, noted)
            while v < vectors:
                part = min(L, n - v * L)
                q = load(p, v * L) if part == L else load_first(p, v * L, part, none)
                k = _append(q, float(shift + v * L), steps, values, places, k)
                v = next_used(words, v + 1, vectors, noted)

    return Entry(kernel)


@cache
def average() -> Entry:
    """OUT = sums of the rows of V in the lists."""
    source = SOURCE

    def kernel(job_at, value, other, one, first, last, chunk):
        _ = source
        job = pointer(job_at, INTEGER)
        lists, places_at = pointer(peek(job, LISTS), INTEGER), pointer(peek(job, PLACES), INTEGER)
        counts, depth = pointer(peek(job, COUNTS), INTEGER), peek(job, DEPTH)
        for r in range(first, last):
            row = peek(job, FIRST) + r
            values, places = pointer(peek(lists, row), one), pointer(peek(places_at, row), one)
            v_all = offset(pointer(peek(job, V), one), key_head(job, row) * peek(job, KEYS) * depth)
            out = offset(pointer(peek(job, OUT), one), row * depth)
            clear(out, depth, False)
            for k in range(peek(counts, row)):
                add_scaled(out, offset(v_all, int(peek(places, k)) * depth), depth, peek(values, k))

    return Entry(kernel)


@cache
def of_queries(kind: int) -> Entry:
    """SLOPES = dS of each row, OUT = dq, DALPHA; for the rows that have lists. ``value`` is alpha, if all rows have the
    same, ``other`` the scale.
    """
    weight = WEIGHTS[kind]
    source = SOURCE

    @device
    def differentiate(p, d, count, alpha, wanted):
        """dS in the place of <g, v>; returns dalpha."""
        L = lanes(p)
        A, B, none = splat(p, alpha), splat(p, alpha - 1.0), splat(p, 0.0)
        W, M, D = none, none, none
        for j in range(0, count, L):
            part = min(L, count - j)
            q = load_first(p, j, part, none)
            w = weight(q, A)
            W, M = W + w, M + w * load_first(d, j, part, none)
            if wanted:
                D = D + w * choose(q > 0.0, tsallis_log_slope(choose(q > 0.0, q, 1.0), B), 0.0)
        heft = add_up(W)
        mean = add_up(M) / heft if heft != 0.0 else 0.0
        # The dS sum to zero: the slopes may be measured from any value, best from their mean.
        origin = add_up(D) / heft if heft != 0.0 else 0.0
        T, MEAN, ORIGIN = none, splat(p, mean), splat(p, origin)
        for j in range(0, count, L):
            part = min(L, count - j)
            q = load_first(p, j, part, none)
            s = weight(q, A) * (load_first(d, j, part, none) - MEAN)
            store_first(d, j, part, s)
            if wanted:
                slope = tsallis_log_slope(choose(q > 0.0, q, 1.0), B) - ORIGIN
                T = T + choose(q > 0.0, s * slope, 0.0)
        return -add_up(T)

    def kernel(job_at, value, other, one, first, last, chunk):
        _ = source
        job = pointer(job_at, INTEGER)
        lists, places_at = pointer(peek(job, LISTS), INTEGER), pointer(peek(job, PLACES), INTEGER)
        slopes_at, counts = pointer(peek(job, SLOPES), INTEGER), pointer(peek(job, COUNTS), INTEGER)
        alphas, dalpha, wanted = (
            pointer(peek(job, ALPHA), DOUBLE),
            pointer(peek(job, DALPHA), one),
            peek(job, DALPHA) != 0,
        )
        width, depth = peek(job, WIDTH), peek(job, DEPTH)
        for r in range(peek(job, FIRST) + first, peek(job, FIRST) + last):
            count = peek(counts, r)
            if count < 0:
                continue
            p, d = pointer(peek(lists, r), one), pointer(peek(slopes_at, r), one)
            places, head = pointer(peek(places_at, r), one), key_head(job, r) * peek(job, KEYS)
            v_all, k_all = (
                offset(pointer(peek(job, V), one), head * depth),
                offset(pointer(peek(job, K), one), head * width),
            )
            g, dq = offset(pointer(peek(job, G), one), r * depth), offset(pointer(peek(job, OUT), one), r * width)
            for k in range(count):
                poke(d, k, dot(g, offset(v_all, int(peek(places, k)) * depth), depth))
            alpha = peek(alphas, r) if peek(job, ALPHA) != 0 else value
            slope = differentiate(p, d, count, alpha, wanted)
            if count > 0 and peek(p, 0) != peek(p, 0):
                fill(d, count, NAN)
                slope = NAN
            if wanted:
                poke(dalpha, r, slope)
            clear(dq, width, False)
            for k in range(count):
                s = peek(d, k) * other
                poke(d, k, s)
                add_scaled(dq, offset(k_all, int(peek(places, k)) * width), width, s)

    return Entry(kernel)


@device
def first_from(places, count, key):
    """The first of ascending places that is no less than a key."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if peek(places, middle) < key:
            low = middle + 1
        else:
            high = middle
    return low


@cache
def of_keys() -> Entry:
    """OUT (dv) and DK: a unit is a range of keys of a head, RANGES of which make a head."""
    source = SOURCE

    def kernel(job_at, value, other, one, first, last, chunk):
        _ = source
        job = pointer(job_at, INTEGER)
        lists, places_at = pointer(peek(job, LISTS), INTEGER), pointer(peek(job, PLACES), INTEGER)
        slopes_at, counts = pointer(peek(job, SLOPES), INTEGER), pointer(peek(job, COUNTS), INTEGER)
        width, depth, keys, ranges = peek(job, WIDTH), peek(job, DEPTH), peek(job, KEYS), peek(job, RANGES)
        rows = peek(job, QUERIES) * peek(job, GROUP)
        for unit in range(peek(job, FIRST) + first, peek(job, FIRST) + last):
            head, part = unit // ranges, unit % ranges
            begin, end = keys * part // ranges, keys * (part + 1) // ranges
            dk = offset(pointer(peek(job, DK), one), head * keys * width)
            dv = offset(pointer(peek(job, OUT), one), head * keys * depth)
            for r in range(head * rows, head * rows + rows):
                count = peek(counts, r)
                if count <= 0:
                    continue
                p, d = pointer(peek(lists, r), one), pointer(peek(slopes_at, r), one)
                places = pointer(peek(places_at, r), one)
                q, g = offset(pointer(peek(job, Q), one), r * width), offset(pointer(peek(job, G), one), r * depth)
                k = first_from(places, count, begin) if begin > 0 else 0
                while k < count and peek(places, k) < end:
                    key = int(peek(places, k))
                    add_scaled(offset(dk, key * width), q, width, peek(d, k))
                    add_scaled(offset(dv, key * depth), g, depth, peek(p, k))
                    k += 1

    return Entry(kernel)
