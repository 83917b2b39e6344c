"""Backward passes: from p and the gradient in p to that in the scores and, row by row, in alpha.

    dz = w (g - <w, g>/sum w),  w = p^(2 - alpha) on the support          (entmax)
    dalpha = -<dz, D>,  D the derivative of grad Omega in alpha            (every mapping with an alpha)

The formulas are those of `core.implicit` and the mappings; here they are one or two passes over a row.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from .arithmetic import choose
from .compiler import SOURCE, Entry, device
from .members import members, tsallis_log_slope
from .norm_gradients import normmax_row
from .rows import (
    ALPHA,
    ALPHA_STRIDES,
    BYTE,
    HITS,
    INTEGER,
    PAST,
    PLAIN,
    RESULT,
    RESULT_STRIDES,
    SCORES,
    SLOPES,
    THRESHOLD,
    WORK,
    K,
    N,
    deliver,
    fetch,
    fill,
    parameter,
)
from .simd import (
    NAN,
    add_up,
    fence,
    first_of,
    lanes,
    largest,
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
from .simplex import ENTMAX15, NORMMAX, POWER, SPARSEMAX
from .steep import tangent
from .sweeps import CHUNK, clear, top

WEIGHTS = {SPARSEMAX: members.weight_sparsemax, ENTMAX15: members.weight_entmax15, POWER: members.weight_power}


def _make_row(weight: Any) -> Any:
    @device
    def gather(p, g, dz, start, end, alpha):
        """Weights written to dz, and the sums of w and w g."""
        L = lanes(p)
        A = splat(p, alpha)
        W, G = splat(p, 0.0), splat(p, 0.0)
        j = start
        while j + L <= end:
            w = weight(load(p, j), A)
            store(dz, j, w)
            W, G = W + w, G + w * load(g, j)
            j += L
        if j < end:
            none = splat(p, 0.0)
            w = weight(load_first(p, j, end - j, none), A)
            store_first(dz, j, end - j, w)
            W, G = W + w, G + w * load_first(g, j, end - j, none)
        return W, G

    @device
    def scatter(p, g, dz, start, end, mean, alpha, wanted, origin):
        """dz from the weights in its place; the sum of dz (D - origin) if ``wanted``."""
        L = lanes(p)
        M, A, D, total = splat(p, mean), splat(p, alpha - 1.0), splat(p, origin), splat(p, 0.0)
        j = start
        while j < end:
            part = min(L, end - j)
            none = splat(p, 0.0)
            whole = part == L
            w = load(dz, j) if whole else load_first(dz, j, part, none)
            d = w * ((load(g, j) if whole else load_first(g, j, part, none)) - M)
            if whole:
                store(dz, j, d)
            else:
                store_first(dz, j, part, d)
            if wanted:
                q = load(p, j) if whole else load_first(p, j, part, none)
                total = total + choose(q > 0.0, d * (tsallis_log_slope(choose(q > 0.0, q, 1.0), A) - D), 0.0)
            j += L
        return add_up(total)

    @device
    def row(p, g, dz, n, alpha, hits, noted, places, past, wanted):
        """dz of a row; returns dalpha. ``hits`` are the forward pass's notes, ``places`` is room to list them."""
        L = lanes(p)
        size, parts = CHUNK, (n + CHUNK - 1) // CHUNK
        if noted:
            clear(dz, n, past)
            size, vectors, parts = L, (n + L - 1) // L, 0
            for v in range(vectors):
                poke(places, parts, v)
                parts += peek(hits, v)
        W, G = splat(p, 0.0), splat(p, 0.0)
        for i in range(parts):
            start = (peek(places, i) if noted else i) * size
            w, wg = gather(p, g, dz, start, min(n, start + size), alpha)
            W, G = W + w, G + wg
        heft = add_up(W)
        mean = add_up(G) / heft if heft > 0.0 else 0.0 * heft
        total, origin = 0.0, 0.0 * heft
        if wanted and heft > 0.0:
            # The dz sum to zero, so D may be measured from its value anywhere, best where the weight is.
            lane_tops, _ = top(p, n)
            origin = first_of(tsallis_log_slope(splat(p, largest(lane_tops)), splat(p, alpha - 1.0)))
        for i in range(parts):
            start = (peek(places, i) if noted else i) * size
            total += scatter(p, g, dz, start, min(n, start + size), mean, alpha, wanted, origin)
        return -total

    return row


def _make(kind: int) -> Entry:
    row_gradient = normmax_row if kind == NORMMAX else _make_row(WEIGHTS[kind])
    source = SOURCE

    def gradient(job_at, value, other, one, first, last, chunk):
        """Gradients of rows first to last. The job holds g as its scores, dz as its slopes, dalpha as its thresholds,
        and as its k the room to list vectors in use; all tensors have the strides of the result.
        """
        _ = source
        job = pointer(job_at, INTEGER)
        p_all, g_all, dz_all, dalpha = (
            pointer(peek(job, RESULT), one), pointer(peek(job, SCORES), one), pointer(peek(job, SLOPES), one),
            pointer(peek(job, THRESHOLD), one),
        )  # fmt: skip
        n, plain, wanted = peek(job, N), peek(job, PLAIN) != 0, peek(job, THRESHOLD) != 0
        hits, noted, past = pointer(peek(job, HITS), BYTE), peek(job, HITS) != 0, peek(job, PAST) != 0
        L = lanes(p_all)
        vectors = (n + L - 1) // L
        room = offset(pointer(peek(job, WORK), one), chunk * 3 * n)
        places = pointer(peek(job, K) + chunk * 8 * (vectors + 1), INTEGER)
        for r in range(first, last):
            p, g, dz = offset(p_all, r * n), offset(g_all, r * n), offset(dz_all, r * n)
            if not plain:
                p, g, dz = room, offset(room, n), offset(room, 2 * n)
                fetch(job, p_all, RESULT_STRIDES, r, n, p, False)
                fetch(job, g_all, RESULT_STRIDES, r, n, g, False)
            alpha = parameter(job, ALPHA, ALPHA_STRIDES, value, r)
            slope = NAN
            if peek(p, 0) != peek(p, 0):
                fill(dz, n, NAN)
            elif kind == POWER and alpha > 2.0:
                tangent(p, g, n, alpha, False, dz, False, False)
                slope = -tangent(p, g, n, alpha, False, dz, True, False) if wanted else 0.0
            else:
                slope = row_gradient(p, g, dz, n, alpha, offset(hits, r * vectors), noted, places, past, wanted)
            if wanted:
                poke(dalpha, r, slope)
            if not plain:
                deliver(job, dz, r, n, dz_all)
        if past:
            fence()

    return Entry(gradient)


@cache
def gradient(kind: int) -> Entry:
    """The backward kernel of a member."""
    return _make(kind)
