"""Attention in blocks of queries: scores are never all there at once, forward or backward.

A block is a few heads with all of their queries, or some queries of one head; its scores are few enough to stay in the
cache between the steps that work on them. The backward pass makes the scores again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .inputs import Heads, Number

# Bytes of scores in a block: little enough for a cache, or enough to keep a GPU busy.
CACHED, ELSEWHERE = 2**22, 2**26
# The fewest queries of a block of one head: products of fewer are slow.
FEWEST = 64


@dataclass(frozen=True)
class Block:
    """Of which batch entries, heads, queries and keys; and how far behind the first key the first query's own is, if
    queries see no key behind their own.
    """

    batch: slice
    heads: slice
    queries: slice
    keys: slice
    diagonal: int | None

    def of(self, x: Tensor) -> Tensor:
        """The part of something that broadcasts to (B, Hq, Nq, Nk)."""
        slices = (self.batch, self.heads, self.queries, self.keys)
        return x[tuple(s if n > 1 else slice(None) for s, n in zip(slices, x.shape, strict=True))]

    def alpha(self, alpha: Number) -> Number:
        """The part of alpha, aligned with the rows of scores."""
        if not isinstance(alpha, Tensor) or alpha.dim() == 0:
            return alpha
        return alpha[self.batch if len(alpha) > 1 else slice(None), self.heads if alpha.shape[1] > 1 else slice(None)]

    @property
    def one_head(self) -> bool:
        """Whether it is of one head only."""
        return self.batch.stop - self.batch.start == self.heads.stop - self.heads.start == 1

    @property
    def head(self) -> tuple[int, int]:
        """Of which batch entry and head the first is."""
        return self.batch.start, self.heads.start


def blocks(heads: Heads) -> Iterator[Block]:
    """All blocks with queries and keys. Those of one head of keys follow each other."""
    size, group = heads.q.element_size(), heads.group
    room = (CACHED if heads.q.is_cpu else ELSEWHERE) // size
    (B, Hq, _, _), (ends_q, ends_k) = heads.q.shape, heads.ends
    for (q0, q1), (k0, k1) in zip(_ranges(ends_q), _ranges(ends_k), strict=True):
        n, m = q1 - q0, k1 - k0
        if heads.causal:
            m = min(n, m)
        if n == 0 or m == 0:
            continue
        diagonal = 0 if heads.causal else None
        queries, keys = slice(q0, q1), slice(k0, k0 + m)
        if n * m * Hq <= room:
            step = room // (n * m * Hq)
            for b in range(0, B, step):
                yield Block(slice(b, b + step), slice(0, Hq), queries, keys, diagonal)
        elif n * m * group <= room:
            step = room // (n * m * group) * group
            for b in range(B):
                for h in range(0, Hq, step):
                    yield Block(slice(b, b + 1), slice(h, h + step), queries, keys, diagonal)
        else:
            for b in range(B):
                for h in range(Hq):
                    yield from _of_one_head(b, h, (q0, q1), (k0, m), heads.causal, room)


def _of_one_head(
    b: int, h: int, queries: tuple[int, int], keys: tuple[int, int], causal: bool, room: int
) -> Iterator[Block]:
    (q0, q1), (k0, m) = queries, keys
    at = q0
    while at < q1:
        seen = m
        step = max(FEWEST, room // m)
        if causal:
            # As many queries as have room for the keys that the last of them sees.
            done = at - q0
            step = max(FEWEST, int(((done * done + 4 * room) ** 0.5 - done) / 2))
            seen = min(m, done + step)
        end = min(q1, at + step)
        if causal:
            seen = min(m, end - q0)
        yield Block(slice(b, b + 1), slice(h, h + 1), slice(at, end), slice(k0, k0 + seen), at - q0 if causal else None)
        at = end


def _ranges(ends: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(zip((0, *ends[:-1]), ends, strict=True))


def folded(x: Tensor, group: int) -> Tensor:
    """(b H, group n, d) of (b, Hq, n, d): queries that share keys side by side."""
    b, hq, n, d = x.shape
    if hq == 1 or group == 1:
        return x.reshape(b * hq, n, d)
    return x.reshape(b * hq // group, group * n, d)


def shared(block: Block, x: Tensor, group: int) -> Tensor:
    """(b, H, m, d): the part of keys or values."""
    last = min(block.heads.stop, x.shape[1] * group)
    return x[block.batch, block.heads.start // group : -(-last // group), block.keys]


def keys_of(block: Block, x: Tensor, group: int) -> Tensor:
    """(b H, m, d) of it."""
    part = shared(block, x, group)
    return part.reshape(-1, *part.shape[-2:])


def scaled_products(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    """(b, n, m) of (b, n, d) and (b, m, d), scaled after the product."""
    return torch.baddbmm(queries.new_empty(1, 1, 1), queries, keys.mT, beta=0, alpha=scale)


def scores_of(block: Block, heads: Heads) -> Tensor:
    """(b, hq, n, m): scores of a block, -inf where nothing is attended to."""
    q = heads.q[block.batch, block.heads, block.queries]
    left, right = folded(q, heads.group), keys_of(block, heads.k, heads.group)
    z = scaled_products(left, right, heads.scale).view(*q.shape[:3], right.shape[1])
    if heads.bias is not None:
        z += block.of(heads.bias)
    if heads.mask is not None:
        z.masked_fill_(~block.of(heads.mask), -torch.inf)
    if block.diagonal is not None:
        _hide_later(z, block.diagonal)
    return z


def _hide_later(z: Tensor, diagonal: int) -> None:
    """-inf for keys behind the queries' own."""
    n, m = z.shape[-2:]
    if m > diagonal:
        # What the first query sees, all do.
        part = z[..., diagonal:]
        later = torch.ones(n, m - diagonal, dtype=torch.bool, device=z.device).triu_(1)
        part.masked_fill_(later, -torch.inf)
