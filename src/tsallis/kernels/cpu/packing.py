"""Entries that matter, moved together, and their values moved back.

An entry matters if its distance from the top is above a cut. Packing and unpacking ask the same question of the same
numbers, so nothing is remembered in between; packing what was packed with a higher cut is as if that had been the cut
from the beginning. Each function has two bodies, for machines that compress vectors and for others.
"""

from __future__ import annotations

from .compiler import PACKS, device
from .simd import INF, compress, count, expand, lanes, load, load_first, peek, poke, some, splat, store, store_first


@device
def _pack_vectors(z, start, end, top, cut, values, k):
    L = lanes(z)
    M, C = splat(z, top), splat(z, cut)
    for j in range(start, end, L):
        d = (load(z, j) if j + L <= end else load_first(z, j, end - j, splat(z, -INF))) - M
        kept = d > C
        store(values, k, compress(d, kept))
        k += count(kept)
    return k


@device
def _pack_scalars(z, start, end, top, cut, values, k):
    for j in range(start, end):
        d = peek(z, j) - top
        poke(values, k, d)
        k += d > cut
    return k


@device
def _unpack_vectors(z, start, end, top, cut, values, k, factor, out, hits, note):
    L = lanes(z)
    M, C, f = splat(z, top), splat(z, cut), splat(z, factor)
    j = start
    while j + L <= end:
        kept = load(z, j) - M > C
        p = expand(load(values, k), kept) * f
        store(out, j, p)
        if note:
            poke(hits, j // L, some(p > 0.0))
        k += count(kept)
        j += L
    if j < end:
        kept = load_first(z, j, end - j, splat(z, -INF)) - M > C
        p = expand(load(values, k), kept) * f
        store_first(out, j, end - j, p)
        if note:
            poke(hits, j // L, some(p > 0.0))
        k += count(kept)
    return k


@device
def _unpack_scalars(z, start, end, top, cut, values, k, factor, out, hits, note):
    L = lanes(z)
    for j in range(start, end):
        kept = peek(z, j) - top > cut
        p = peek(values, k) * factor if kept else 0.0
        poke(out, j, p)
        if note:
            poke(hits, j // L, p > 0.0 or (j % L != 0 and peek(hits, j // L) != 0))
        k += kept
    return k


_pack = _pack_vectors if PACKS else _pack_scalars
_unpack = _unpack_vectors if PACKS else _unpack_scalars


@device
def pack(z, n, top, cut, values):
    """Write distances above the cut to ``values`` (one vector more than n), -inf behind them up to a full vector;
    returns how many, or -1 as soon as it seems that most are. ``z`` may be ``values`` if top is 0.
    """
    L = lanes(z)
    part = n // 8 // L * L + L
    k = 0
    for start in range(0, n, part):
        end = min(n, start + part)
        k = _pack(z, start, end, top, cut, values, k)
        if k * 4 > end * 3 and top != 0.0:
            return -1
    store(values, k, splat(z, -INF))
    return k


@device
def unpack(z, n, top, cut, values, factor, out, hits, note):
    """Values of the entries `pack` took, times a number, back in their places; zeros in the others. With ``note``,
    ``hits`` says of each vector of the row whether it has an entry above 0.
    """
    _unpack(z, 0, n, top, cut, values, 0, factor, out, hits, note)


@device
def pack_blocks(z, n, top, cut, maxima, size, values):
    """As `pack`, looking only into blocks of ``size`` entries whose maximum is above the cut; -1 from half on, or as
    soon as it seems that nearly all matter.
    """
    k = 0
    for b in range((n + size - 1) // size):
        if peek(maxima, b) - top > cut:
            k = _pack(z, b * size, min(n, (b + 1) * size), top, cut, values, k)
            if k * 2 > n or (k > n // 16 and k * 8 > (b + 1) * size * 7):
                return -1
    store(values, k, splat(z, -INF))
    return k


@device
def unpack_blocks(z, n, top, cut, maxima, size, values, factor, out, hits, note):
    """As `unpack`, for `pack_blocks`; the rest of the row and of the hits must be zero already."""
    k = 0
    for b in range((n + size - 1) // size):
        if peek(maxima, b) - top > cut:
            k = _unpack(z, b * size, min(n, (b + 1) * size), top, cut, values, k, factor, out, hits, note)
