"""The best sequence of states, by dynamic programming (Viterbi)."""

from __future__ import annotations

from ..compiler import device
from ..simd import INF, offset, peek, poke


@device
def best_sequence(r, slope):
    S = r.states
    value, after = r.numbers, offset(r.numbers, S)
    for s in range(S):
        poke(value, s, peek(slope, s))
    for t in range(1, r.n):
        step, came = offset(r.y, (t - 1) * S * S), offset(r.words, t * S)
        for s in range(S):
            best, state = -INF, 0
            for before in range(S):
                x = peek(value, before) + peek(step, before * S + s)
                if x > best:
                    best, state = x, before
            poke(came, s, state)
            poke(after, s, best + peek(slope, t * S + s))
        value, after = after, value
    best, state = -INF, 0
    for s in range(S):
        if peek(value, s) > best:
            best, state = peek(value, s), s
    for t in range(r.n - 1, -1, -1):
        poke(r.found, t, t * S + state)
        if t > 0:
            state = peek(r.words, t * S + state)
