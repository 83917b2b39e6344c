"""Generalised cross-entropy of rows whose p is known: sums for values and slopes, and gradients in the scores.

What the sums are put together to is said in `kernels.cpu.losses`. Rows are contiguous; a number of each row that there
is a tensor for stands there, one after the other.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ...core.dispatch import IGNORED as IGNORED_NUMBER
from ...core.dispatch import INVALID as INVALID_NUMBER
from .arithmetic import INF, entropy, tsallis_log_slope
from .tiles import load_result, number_of, rows_of_program, store_result

IGNORED, INVALID = tl.constexpr(IGNORED_NUMBER), tl.constexpr(INVALID_NUMBER)


@triton.jit
def load_scores_of(z, row, live, j, n, COMPUTE: tl.constexpr):
    """Entries j of rows, -inf where there are none."""
    inside = live[:, None] & (j < n)[None, :]
    x = load_result(z, None, row, live, j, n).to(COMPUTE)
    return tl.where(inside, x, -INF)


@triton.jit(do_not_specialize=["rows"])
def values(
    z, p, scores, index, weight, alpha, number: tl.float64, loss, slope, far, mass, classes, rows, n,
    KIND: tl.constexpr, R: tl.constexpr, B: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """The sums of rows whose target has the score ``scores``."""
    row, live = rows_of_program(rows, R)
    A = number_of(number, alpha, row, live).to(COMPUTE)
    y = tl.load(index + row, mask=live, other=IGNORED)
    zy = tl.load(scores + row, mask=live, other=0.0).to(COMPUTE)
    # Losses of targets that cannot be are infinite whatever is found here, but the smoothing term is not.
    zy = tl.where((y >= 0) & (zy > -INF), zy, 0.0)
    j = tl.arange(0, B)
    inner, H, total = tl.zeros([R], COMPUTE), tl.zeros([R], COMPUTE), tl.zeros([R], COMPUTE)
    D, F, M, C = tl.zeros([R], COMPUTE), tl.zeros([R], COMPUTE), tl.zeros([R], COMPUTE), tl.zeros([R], COMPUTE)
    bad = tl.zeros([R], tl.int32)
    at = tl.full([], 0, tl.int64)
    while at < n:
        q = load_result(p, None, row, live, at + j, n).to(COMPUTE)
        x = load_scores_of(z, row, live, at + j, n, COMPUTE)
        used = q > 0.0
        h = tl.where(used, entropy(q, A[:, None] - 1.0, A[:, None], KIND), 0.0)
        inner += tl.sum(tl.where(used, q * (x - zy[:, None]) + h, 0.0), 1)
        total += tl.sum(q, 1)
        bad = bad | tl.max((q != q).to(tl.int32), 1)
        if slope is not None:
            H += tl.sum(h, 1)
            moves = tsallis_log_slope(tl.where(used, q, 1.0), A[:, None] - 1.0)
            D += tl.sum(tl.where(used, q * moves, 0.0), 1)
        if far is not None:
            kept = x > -INF
            w = tl.where(kept, 1.0, 0.0).to(COMPUTE)
            C += tl.sum(w, 1)
            if weight is not None:
                w *= tl.load(weight + at + j, mask=at + j < n, other=0.0).to(COMPUTE)[None, :]
            F += tl.sum(tl.where(kept, w * (x - zy[:, None]), 0.0), 1)
            M += tl.sum(w, 1)
        at += B
    ignored = y == IGNORED
    fine = (y >= 0) & (total > 0.0) & (A > 0.0) & (bad == 0)
    tl.store(loss + row, tl.where(ignored, 0.0, tl.where(fine, inner, float("nan"))), mask=live)
    if slope is not None:
        moved = (0.0 - (H + D)) / A
        tl.store(slope + row, tl.where(ignored, 0.0, tl.where(fine, moved, float("nan"))), mask=live)
    if far is not None:
        tl.store(far + row, tl.where(ignored, 0.0, F), mask=live)
        tl.store(mass + row, tl.where(ignored, 0.0, M), mask=live)
        tl.store(classes + row, tl.where(ignored, 1.0, C), mask=live)


@triton.jit(do_not_specialize=["rows"])
def gradient(
    z, p, index, weight, scale, hit, smooth, dz, rows, n,
    R: tl.constexpr, B: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """dz = scale p - hit e_y - smooth w of each row."""
    row, live = rows_of_program(rows, R)
    y = tl.load(index + row, mask=live, other=IGNORED)
    s = tl.load(scale + row, mask=live, other=0.0).to(COMPUTE)
    less = tl.load(hit + row, mask=live, other=0.0).to(COMPUTE)
    spoilt = (y == INVALID) | (s != s)
    j = tl.arange(0, B)
    at = tl.full([], 0, tl.int64)
    while at < n:
        d = s[:, None] * load_result(p, None, row, live, at + j, n).to(COMPUTE)
        if smooth is not None:
            x = load_scores_of(z, row, live, at + j, n, COMPUTE)
            w = tl.load(smooth + row, mask=live, other=0.0).to(COMPUTE)[:, None]
            if weight is not None:
                w = w * tl.load(weight + at + j, mask=at + j < n, other=0.0).to(COMPUTE)[None, :]
            d = tl.where(x > -INF, d - w, d)
        d = tl.where((at + j)[None, :] == y[:, None], d - less[:, None], d)
        d = tl.where(spoilt[:, None], float("nan"), d)
        store_result(dz, None, row, live, at + j, n, tl.where((y == IGNORED)[:, None], 0.0, d))
        at += B
