"""Generalised cross-entropy of rows whose p is known: values with their slopes in alpha, and gradients in the scores.

    value     A (<p, z - z_y> + H(p)) - eps sum_c q_c w_c (z_c - z_y),  A = (1 - eps) w_y + eps sum_c q_c w_c
    gradient  A p - (1 - eps) w_y e_y - eps q w                         times the gradient of the row's loss

H is the entropy of the mapping, q uniform over the classes whose score is not -inf, eps the amount of smoothing; the
kernels give the sums, `loss_calls` puts them together. Where p is zero nothing is read.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from ...core.dispatch import IGNORED, INVALID
from .arithmetic import choose
from .compiler import SOURCE, Entry, device
from .members import members, tsallis_log_slope
from .rows import BYTE, DOUBLE, INTEGER, fill
from .simd import (
    INF,
    NAN,
    add_up,
    fence,
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
from .simplex import ENTMAX15, POWER, SPARSEMAX
from .sweeps import CHUNK, clear

# A job: addresses (0 where there is nothing), then sizes. Rows are contiguous.
(
    Z, P, HITS, TARGET, ALPHA, WEIGHT, VALUE, SLOPE, MEAN, MASS, COUNT,
    GRADIENT, SCALE, HIT, SMOOTH, N, PAST,
) = range(17)  # fmt: skip


ENTROPIES = {
    SPARSEMAX: members.entropy_sparsemax,
    ENTMAX15: members.entropy_entmax15,
    POWER: members.entropy_power,
}


@device
def steep_sums(z, p, n, zy, alpha):
    """Row sums for alpha > 2 in float64: (<p, z - zy>, H, its derivative in alpha, sum p)."""
    a = alpha - 1.0
    inner, entropy, slope, total = 0.0, 0.0, 0.0, 0.0
    for j in range(n):
        q = float(peek(p, j))
        if q > 0.0:
            total += q
            inner += q * (float(peek(z, j)) - zy)
            x = a * math.log(q)
            entropy -= q * math.expm1(x) / a
            slope += q * (x * math.exp(x) - math.expm1(x)) / (a * a)
    entropy /= alpha
    return inner, entropy, -(entropy + slope) / alpha, total


@device
def _smoothing(z, weight, weighted, n, zy):
    """(sum of w (z - zy), sum of w, how many) over the classes whose score is not -inf."""
    L = lanes(z)
    Y, one, none = splat(z, zy), splat(z, 1.0), splat(z, -INF)
    far, mass, count = 0.0, 0.0, 0.0
    j = 0
    while j < n:
        end = min(j + CHUNK, n)
        F, M, C = splat(z, 0.0), splat(z, 0.0), splat(z, 0.0)
        while j < end:
            part = min(L, end - j)
            x = load(z, j) if part == L else load_first(z, j, part, none)
            w = one
            if weighted:
                w = load(weight, j) if part == L else load_first(weight, j, part, one)
            kept = x > -INF
            F, M, C = F + choose(kept, w * (x - Y), 0.0), M + choose(kept, w, 0.0), C + choose(kept, one, 0.0)
            j += L
        j = end
        far, mass, count = far + add_up(F), mass + add_up(M), count + add_up(C)
    return far, mass, count


def make_sums(kind: int) -> Any:
    """The sums of a row for one member."""
    entropy_of = ENTROPIES[kind]

    @device
    def sums(z, p, n, zy, alpha, hits, noted, wanted):
        """(<p, z - zy> + H, sum of p times the slope of the deformed logarithm, H, sum p)."""
        L = lanes(p)
        Y, a, A = splat(p, zy), splat(p, alpha - 1.0), splat(p, alpha)
        value, entropy, slope, total = 0.0, 0.0, 0.0, 0.0
        j = 0
        while j < n:
            end = min(j + CHUNK, n)
            V, H, D, T = splat(p, 0.0), splat(p, 0.0), splat(p, 0.0), splat(p, 0.0)
            while j < end:
                if not noted or peek(hits, j // L) != 0:
                    part = min(L, end - j)
                    none = splat(p, 0.0)
                    q = load(p, j) if part == L else load_first(p, j, part, none)
                    x = load(z, j) if part == L else load_first(z, j, part, none)
                    used = q > 0.0
                    h = entropy_of(q, a, A)
                    V, H, T = V + choose(used, q * (x - Y) + h, 0.0), H + h, T + q
                    if wanted:
                        D = D + choose(used, q * tsallis_log_slope(choose(used, q, 1.0), a), 0.0)
                j += L
            j = end
            value, entropy = value + add_up(V), entropy + add_up(H)
            slope, total = slope + add_up(D), total + add_up(T)
        return value, slope, entropy, total

    return sums


@cache
def values(kind: int) -> Entry:
    """The sums of a member's losses."""
    sums = make_sums(kind)
    source = SOURCE

    def kernel(job_at, value, other, one, first, last, chunk):
        """Sums of rows first to last; ``value`` is alpha, if it is the same for all rows."""
        _ = source
        job = pointer(job_at, INTEGER)
        n, noted, wanted = peek(job, N), peek(job, HITS) != 0, peek(job, SLOPE) != 0
        targets, weight = pointer(peek(job, TARGET), INTEGER), pointer(peek(job, WEIGHT), one)
        out, slopes = pointer(peek(job, VALUE), one), pointer(peek(job, SLOPE), one)
        alphas, smooth = pointer(peek(job, ALPHA), DOUBLE), peek(job, MEAN) != 0
        L = lanes(out)
        vectors = (n + L - 1) // L
        for r in range(first, last):
            target = peek(targets, r)
            loss, slope, far, mass, count = 0.0, 0.0, 0.0, 0.0, 1.0
            if target != IGNORED:
                z, p = offset(pointer(peek(job, Z), one), r * n), offset(pointer(peek(job, P), one), r * n)
                hits = offset(pointer(peek(job, HITS), BYTE), r * vectors)
                alpha = peek(alphas, r) if peek(job, ALPHA) != 0 else value
                zy = float(peek(z, target)) if target >= 0 else 0.0
                # Losses of targets that cannot be are infinite whatever is found here, but the smoothing term is not.
                zy = zy if zy > -INF else 0.0
                if kind == POWER and alpha > 2.0:
                    inner, entropy, slope, total = steep_sums(z, p, n, zy, alpha)
                    loss = inner + entropy
                else:
                    loss, slope, entropy, total = sums(z, p, n, zy, alpha, hits, noted, wanted)
                    slope = -(entropy + slope) / alpha
                if target < 0 or not total > 0.0 or not alpha > 0.0 or peek(p, 0) != peek(p, 0):
                    loss, slope = NAN, NAN
                if smooth:
                    far, mass, count = _smoothing(z, weight, peek(job, WEIGHT) != 0, n, zy)
            poke(out, r, loss)
            if wanted:
                poke(slopes, r, slope)
            if smooth:
                poke(pointer(peek(job, MEAN), one), r, far)
                poke(pointer(peek(job, MASS), one), r, mass)
                poke(pointer(peek(job, COUNT), one), r, count)

    return Entry(kernel)


@device
def _scaled_row(p, dz, n, factor, hits, noted, past):
    """dz = factor p."""
    L = lanes(p)
    f = splat(p, factor)
    if noted:
        clear(dz, n, past)
    for v in range((n + L - 1) // L):
        if not noted or peek(hits, v) != 0:
            j = v * L
            if j + L <= n:
                store(dz, j, load(p, j) * f)
            else:
                store_first(dz, j, n - j, load_first(p, j, n - j, f) * f)


@device
def _smooth_row(z, weight, weighted, dz, n, amount):
    """dz less the amount times the weight, where the score is not -inf."""
    L = lanes(z)
    s, none = splat(z, amount), splat(z, -INF)
    for j in range(0, n, L):
        part = min(L, n - j)
        x = load(z, j) if part == L else load_first(z, j, part, none)
        w = s
        if weighted:
            w = s * (load(weight, j) if part == L else load_first(weight, j, part, s))
        d = load(dz, j) if part == L else load_first(dz, j, part, none)
        d = choose(x > -INF, d - w, d)
        if part == L:
            store(dz, j, d)
        else:
            store_first(dz, j, part, d)


@cache
def gradient() -> Entry:
    """dz = scale p - hit e_y - smooth w of each row."""
    source = SOURCE

    def kernel(job_at, value, other, one, first, last, chunk):
        _ = source
        job = pointer(job_at, INTEGER)
        n, noted, past = peek(job, N), peek(job, HITS) != 0, peek(job, PAST) != 0
        targets, weight = pointer(peek(job, TARGET), INTEGER), pointer(peek(job, WEIGHT), one)
        scales, hit = pointer(peek(job, SCALE), one), pointer(peek(job, HIT), one)
        L = lanes(scales)
        vectors = (n + L - 1) // L
        for r in range(first, last):
            target, scale = peek(targets, r), peek(scales, r)
            p, dz = offset(pointer(peek(job, P), one), r * n), offset(pointer(peek(job, GRADIENT), one), r * n)
            if target == IGNORED:
                clear(dz, n, past)
            elif target == INVALID or scale != scale:
                fill(dz, n, NAN)
            else:
                _scaled_row(p, dz, n, scale, offset(pointer(peek(job, HITS), BYTE), r * vectors), noted, past)
                if peek(job, SMOOTH) != 0:
                    z = offset(pointer(peek(job, Z), one), r * n)
                    _smooth_row(z, weight, peek(job, WEIGHT) != 0, dz, n, peek(pointer(peek(job, SMOOTH), one), r))
                poke(dz, target, peek(dz, target) - peek(hit, r))
        if past:
            fence()

    return Entry(kernel)
