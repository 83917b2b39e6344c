"""The k-th largest of a row, sparsemax of the k largest, and the capped simplex, whose solver starts at the k-th."""

from __future__ import annotations

import math
from functools import cache

from ..members import TINY
from .compiler import SOURCE, Entry, device
from .rows import (
    ALPHA,
    ALPHA_STRIDES,
    INTEGER,
    K_STRIDES,
    MASK,
    PLAIN,
    RESULT,
    RESULT_STRIDES,
    SCORES,
    SCORES_STRIDES,
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
from .simd import INF, NAN, offset, peek, pointer, poke
from .steep import multiplier, solve, tangent, write

BUDGET, TOPK = range(2)


@device
def kth_largest(z, n, k, room):
    """The k-th largest of n numbers, 1 <= k <= n. ``room`` receives them in some order (Hoare's selection)."""
    for j in range(n):
        poke(room, j, peek(z, j))
    low, high, wanted = 0, n - 1, k - 1
    # The pivot comes from places that no order of the scores can foresee: from fixed places, sorted rows that were
    # rotated would take quadratic time.
    chance = 1
    while low < high:
        span = high - low + 1
        chance = (chance * 48271) % 2147483647
        first = peek(room, low + chance % span)
        chance = (chance * 48271) % 2147483647
        center = peek(room, low + chance % span)
        chance = (chance * 48271) % 2147483647
        last = peek(room, low + chance % span)
        pivot = max(min(first, center), min(max(first, center), last))
        i, j = low, high
        while i <= j:
            while peek(room, i) > pivot:
                i += 1
            while peek(room, j) < pivot:
                j -= 1
            if i <= j:
                x, y = peek(room, i), peek(room, j)
                poke(room, i, y)
                poke(room, j, x)
                i += 1
                j -= 1
        if wanted <= j:
            high = j
        elif wanted >= i:
            low = i
        else:
            break
    return peek(room, wanted)


@device
def topk_row(z, out, n, top, kept, k, room):
    """Sparsemax of the k largest scores; at a tie across the cut the lowest index stays. Returns lambda."""
    edge = -INF
    spare = n
    if k < kept:
        edge = kth_largest(z, n, k, room)
        spare = k
        for j in range(n):
            spare -= peek(z, j) > edge
    count = 0
    for j in range(n):
        x = peek(z, j)
        tie = x == edge
        if x > edge or (tie and spare > 0):
            # Those one or more below the top get nothing.
            poke(room, count, x)
            count += x - top > -1.0
        spare -= tie
    tau, before = -1.0, -2.0
    while tau > before:
        total, size, before = 0.0, 0, tau
        for i in range(count):
            d = float(peek(room, i)) - float(top)
            if d > tau:
                total += d
                size += 1
        tau = max(tau, (total - 1.0) / size)
    if k < kept:
        spare = k
        for j in range(n):
            spare -= peek(z, j) > edge
    for j in range(n):
        x = peek(z, j)
        tie = x == edge
        inside = x > edge or (tie and spare > 0)
        poke(out, j, max(float(x) - float(top) - tau, 0.0) if inside else 0.0)
        spare -= tie
    return float(top) + (tau + 1.0)


@device
def budget_row(z, out, n, kept, k, alpha, room):
    """p_i = min(1, [1 + a (z_i - lambda)]_+^(1/a)), sum p = k (`kernels.reference.rows.budget`). Returns lambda."""
    whole = math.ceil(k)
    pivot = float(kth_largest(z, n, whole, room))
    a = alpha - 1.0 if alpha != 1.0 else TINY
    floor = math.log((k - whole + 1.0) / (kept - whole + 1.0))
    ell, low, high, exact = solve(z, n, pivot, a, floor, k, True)
    write(z, out, n, pivot, a, low, high, ell, exact, k, True)
    return pivot + multiplier(ell, a)


def _make(kind: int) -> Entry:
    source = SOURCE

    def kernel(job_at, alpha_value, k_value, one, first, last, chunk):
        """Solve rows first to last."""
        _ = source
        job = pointer(job_at, INTEGER)
        z_all, out_all, thresholds = (
            pointer(peek(job, SCORES), one), pointer(peek(job, RESULT), one), pointer(peek(job, THRESHOLD), one)
        )  # fmt: skip
        n, plain = peek(job, N), peek(job, PLAIN) != 0
        room = offset(pointer(peek(job, WORK), one), chunk * 3 * n)
        for r in range(first, last):
            z, out = offset(z_all, r * n), offset(out_all, r * n)
            if not plain:
                z, out = offset(room, n), offset(room, 2 * n)
                fetch(job, z_all, SCORES_STRIDES, r, n, z, True)
            k = parameter(job, K, K_STRIDES, k_value, r)
            alpha = parameter(job, ALPHA, ALPHA_STRIDES, alpha_value, r) if kind == BUDGET else 2.0
            top, kept, bad = peek(z, 0), 0, False
            for j in range(n):
                x = peek(z, j)
                bad = bad or x != x or x == INF
                kept += x > -INF
                top = max(top, x)
            threshold = NAN
            if kept == 0 and not bad:
                fill(out, n, 0.0)
                threshold = -INF
            elif bad or not k < INF or not (k >= 1.0 if kind == TOPK else 0.0 < k <= kept and 0.0 <= alpha < INF):
                fill(out, n, NAN)
            elif kind == TOPK:
                threshold = topk_row(z, out, n, top, kept, math.ceil(min(k, float(n))), room)
            else:
                threshold = budget_row(z, out, n, kept, k, alpha, room)
            if peek(job, THRESHOLD) != 0:
                poke(thresholds, r, threshold)
            if not plain:
                deliver(job, out, r, n, out_all)

    return Entry(kernel)


def _make_gradient() -> Entry:
    source = SOURCE

    def gradient(job_at, alpha_value, k_value, one, first, last, chunk):
        """Gradients of budget rows. The job holds g as its scores, dz as its slopes, dalpha as its thresholds and dk as
        its mask; all tensors have the strides of the result.
        """
        _ = source
        job = pointer(job_at, INTEGER)
        p_all, g_all, dz_all = (
            pointer(peek(job, RESULT), one), pointer(peek(job, SCORES), one), pointer(peek(job, SLOPES), one)
        )  # fmt: skip
        dalpha, dk = pointer(peek(job, THRESHOLD), one), pointer(peek(job, MASK), one)
        n, plain = peek(job, N), peek(job, PLAIN) != 0
        room = offset(pointer(peek(job, WORK), one), chunk * 3 * n)
        for r in range(first, last):
            p, g, dz = offset(p_all, r * n), offset(g_all, r * n), offset(dz_all, r * n)
            if not plain:
                p, g, dz = room, offset(room, n), offset(room, 2 * n)
                fetch(job, p_all, RESULT_STRIDES, r, n, p, False)
                fetch(job, g_all, RESULT_STRIDES, r, n, g, False)
            alpha = parameter(job, ALPHA, ALPHA_STRIDES, alpha_value, r)
            bad = peek(p, 0) != peek(p, 0)
            if peek(job, MASK) != 0:
                share = 0.0
                if not bad:
                    tangent(p, g, n, alpha, True, dz, False, True)
                    for j in range(n):
                        share += float(peek(dz, j)) * float(peek(g, j))
                poke(dk, r, NAN if bad else share)
            if peek(job, THRESHOLD) != 0:
                poke(dalpha, r, NAN if bad else -tangent(p, g, n, alpha, True, dz, True, False))
            if bad:
                fill(dz, n, NAN)
            else:
                tangent(p, g, n, alpha, True, dz, False, False)
            if not plain:
                deliver(job, dz, r, n, dz_all)

    return Entry(gradient)


@cache
def kernel(kind: int) -> Entry:
    """The kernel of budget or of topk_sparsemax."""
    return _make(kind)


@cache
def budget_gradient() -> Entry:
    """The backward kernel of budget; topk_sparsemax has sparsemax's."""
    return _make_gradient()
