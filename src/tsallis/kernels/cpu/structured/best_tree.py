"""The best tree over words, by contraction of cycles (Chu and Liu, Edmonds).

A path is followed from a word to its best head, to that one's, and on. Where it meets words that are joined with the
root, they all are; where it meets itself, the cycle becomes one node. A node's candidates are kept by head, each with
the word of the node it would enter at, so nothing is copied but the rows of a cycle, into one: O(n^2).

Arcs that are ruled out, and words on the root, are counted apart from scores: whole numbers, which lose no digits.
"""

from __future__ import annotations

from ..compiler import device
from ..simd import INF, offset, peek, poke


@device
def best_tree(r, slope):
    n, N = r.n, r.n + 1
    scores, gains = r.numbers, offset(r.numbers, N * N)
    ranks, entries = r.words, offset(r.words, N * N)
    # By node: who it is in now, its head and the word that has it, how high that ranks, its row, the node it went into.
    at = offset(r.words, 2 * N * N)
    leader, head, word = at, offset(at, N), offset(at, 3 * N)
    rank, row, into = offset(at, 5 * N), offset(at, 7 * N), offset(at, 9 * N)
    joined, path = offset(at, 11 * N), offset(at, 13 * N)
    for v in range(N):
        poke(leader, v, v)
        poke(row, v, v)
        for u in range(N):
            x = peek(slope, u * r.columns + v - 1) if v > 0 else -INF
            possible = x > -INF
            poke(scores, v * N + u, x if possible else 0.0)
            poke(ranks, v * N + u, (0 if possible else -(n + 2)) - (u == 0 and r.high == 1))
            poke(entries, v * N + u, v)
    for c in range(2 * N):
        poke(joined, c, c == 0)
        poke(into, c, -1)
    nodes = N
    for first in range(1, N):
        if peek(joined, peek(leader, first)) == 1:
            continue
        length = 1
        poke(path, 0, peek(leader, first))
        while True:
            c = peek(path, length - 1)
            poke(joined, c, 2)
            _choose(scores, ranks, entries, leader, N, c, peek(row, c), head, word, rank, gains)
            there = peek(leader, peek(head, c))
            if peek(joined, there) == 1:
                break
            if peek(joined, there) == 2:
                begin = length - 1
                while peek(path, begin) != there:
                    begin -= 1
                _contract(scores, ranks, entries, N, path, begin, length, row, rank, gains)
                for i in range(begin, length):
                    poke(into, peek(path, i), nodes)
                for v in range(N):
                    c = peek(leader, v)
                    poke(leader, v, nodes if peek(into, c) == nodes else c)
                poke(row, nodes, peek(row, there))
                there, length = nodes, begin
                nodes += 1
            poke(path, length, there)
            length += 1
        for i in range(length):
            poke(joined, peek(path, i), 1)
    # A node that was a cycle is entered at one of its words: what that one had before falls away.
    for c in range(nodes - 1, N - 1, -1):
        part = peek(word, c)
        while peek(into, part) != c:
            part = peek(into, part)
        poke(head, part, peek(head, c))
        poke(word, part, peek(word, c))
    for v in range(1, N):
        poke(r.found, v - 1, peek(head, v) * r.columns + v - 1)


@device
def _choose(scores, ranks, entries, leader, N, c, row, head, word, rank, gains):
    """The best head of a node, outside it."""
    best, gain, found = 0, -INF, -1
    for u in range(N):
        if peek(leader, u) != c:
            k, x = peek(ranks, row * N + u), peek(scores, row * N + u)
            if found < 0 or k > best or (k == best and x > gain):
                best, gain, found = k, x, u
    poke(head, c, found)
    poke(word, c, peek(entries, row * N + found))
    poke(rank, c, best)
    poke(gains, c, gain)


@device
def _contract(scores, ranks, entries, N, path, begin, length, row, rank, gains):
    """The rows of a cycle's nodes as one: entering at a node gives up the arc it has."""
    target = peek(row, peek(path, begin))
    for i in range(begin, length):
        c = peek(path, i)
        own, k, gain = peek(row, c), peek(rank, c), peek(gains, c)
        for u in range(N):
            a, x = peek(ranks, own * N + u) - k, peek(scores, own * N + u) - gain
            b, y = peek(ranks, target * N + u), peek(scores, target * N + u)
            if i == begin or a > b or (a == b and x > y):
                poke(ranks, target * N + u, a)
                poke(scores, target * N + u, x)
                poke(entries, target * N + u, peek(entries, own * N + u))
