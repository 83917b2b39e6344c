"""Attention over supports: lists of blocks of rows, averages of values, and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import attention as job_of
from .calls import LANES, Number, Simplex, address
from .jobs import run, threads_for

FIELDS = 24


# Pairs that lists take from the system together. Were each block's own, they would come to lie in the gaps that blocks
# of scores leave behind, and the next scores would not fit there any more.
ARENA = 2**20


@dataclass
class Arena:
    """Room for the lists of several blocks."""

    values: Tensor
    places: Tensor
    used: int = 0


@dataclass
class SupportLists:
    """Where the lists of rows are (as `attention` wants to be told), and the arenas that hold blocks' lists."""

    lists: Tensor
    places: Tensor
    counts: Tensor
    steps: Tensor
    blocks: list[tuple[slice, int]] = field(default_factory=list)
    arenas: list[Arena] = field(default_factory=list)
    # Addresses of arenas that somebody else keeps.
    where: list[int] = field(default_factory=list)

    def room(self, pairs: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """For values and places."""
        if not self.arenas or self.arenas[-1].used + pairs > len(self.arenas[-1].values):
            size = max(pairs, ARENA)
            self.arenas.append(Arena(like.new_empty(size), like.new_empty(size)))
        arena = self.arenas[-1]
        begin, arena.used = arena.used, arena.used + pairs
        return arena.values[begin : arena.used], arena.places[begin : arena.used]


def _job(**fields: int) -> list[int]:
    job = [0] * FIELDS
    for name, value in fields.items():
        job[getattr(job_of, name)] = value
    return job


class Attention:
    """`core.dispatch.SparseAttention` of a member of the family."""

    def __init__(self, simplex: Simplex) -> None:
        self.simplex = simplex

    def begin(self, rows: int, like: Tensor) -> SupportLists:
        lists, places = (torch.zeros(rows, dtype=torch.int64) for _ in range(2))
        steps = torch.arange(LANES[like.dtype], dtype=like.dtype)
        return SupportLists(lists, places, torch.full((rows,), -1), steps)

    def add(self, lists: SupportLists, p: Tensor, kept: Tensor | None, first: int, shift: int, most: int) -> int | None:
        n, m = p.shape
        if shift + m > job_of.MOST_KEYS:
            return None
        threads = threads_for(n, p.numel())
        job = _job(P=p.data_ptr(), HITS=address(kept), COUNTS=lists.counts.data_ptr(), FIRST=first, N=m, SHIFT=shift)
        run(job_of.count(), job, 0.0, 0.0, p.dtype, n, threads)
        own = slice(first, first + n)
        # A few hundred numbers: numpy is done before torch has begun.
        counts = lists.counts.numpy()[own]
        ends = counts.cumsum()
        total = int(ends[-1])
        if total > most:
            self.forget(lists, first, n)
            return None
        values, places = lists.room(total, p)
        starts = (ends - counts) * p.element_size()
        lists.lists.numpy()[own] = starts + values.data_ptr()
        lists.places.numpy()[own] = starts + places.data_ptr()
        lists.blocks.append((own, len(lists.arenas) - 1))
        job[job_of.LISTS], job[job_of.PLACES] = lists.lists.data_ptr(), lists.places.data_ptr()
        job[job_of.STEPS] = lists.steps.data_ptr()
        run(job_of.list_up(), job, 0.0, 0.0, p.dtype, n, threads)
        return total

    def forget(self, lists: SupportLists, first: int, rows: int) -> None:
        while lists.blocks and first <= lists.blocks[-1][0].start < first + rows:
            # What was added last makes room again.
            own, arena = lists.blocks.pop()
            lists.arenas[arena].used -= int(lists.counts[own].clamp_min(0).sum())
            del lists.arenas[arena + 1 :]
        lists.counts[first : first + rows] = -1

    def packed(self, lists: SupportLists) -> tuple[list[Tensor], SupportLists]:
        tensors = [lists.lists, lists.places, lists.counts]
        for arena in lists.arenas:
            tensors += [arena.values[: arena.used], arena.places[: arena.used]]
        nothing = lists.lists.new_empty(0)
        left = SupportLists(nothing, nothing, nothing, lists.steps, lists.blocks)
        left.where = [t.data_ptr() for t in tensors[3:]]
        return tensors, left

    def unpacked(self, lists: SupportLists, tensors: Sequence[Tensor]) -> SupportLists:
        at, places, counts = (t.contiguous() for t in tensors[:3])
        kept = [t.contiguous() for t in tensors[3:]]
        moved = [t.data_ptr() - where for t, where in zip(kept, lists.where, strict=True)]
        if any(moved):
            at, places = at.clone(), places.clone()
            for own, arena in lists.blocks:
                at[own] += moved[2 * arena]
                places[own] += moved[2 * arena + 1]
        arenas = [Arena(v, p, len(v)) for v, p in zip(kept[::2], kept[1::2], strict=True)]
        return SupportLists(at, places, counts, lists.steps, lists.blocks, arenas)

    def average(self, lists: SupportLists, v: Tensor, out: Tensor, first: int, rows: int) -> None:
        job = _job(
            LISTS=lists.lists.data_ptr(), PLACES=lists.places.data_ptr(), COUNTS=lists.counts.data_ptr(),
            V=v.data_ptr(), OUT=out.data_ptr(), FIRST=first, QUERIES=out.shape[2], KEYS=v.shape[2],
            GROUP=out.shape[1] // v.shape[1], DEPTH=v.shape[3],
        )  # fmt: skip
        run(job_of.average(), job, 0.0, 0.0, v.dtype, rows, threads_for(rows, rows * v.shape[3]))

    def gradients(
        self, lists: SupportLists, q: Tensor, k: Tensor, v: Tensor, g: Tensor, out: Sequence[Tensor],
        slopes: Tensor | None, params: Sequence[Number], scale: float,
    ) -> None:  # fmt: skip
        (batch, heads, queries, width), (_, key_heads, keys, depth) = q.shape, v.shape
        dq, dk, dv = out
        group = heads // key_heads
        kind, value, alpha = self.simplex.alpha(params)
        alpha = None if alpha is None else alpha.expand(batch, heads, queries, 1).contiguous()
        slopes_at = torch.zeros_like(lists.lists)
        job = _job(
            LISTS=lists.lists.data_ptr(), PLACES=lists.places.data_ptr(), COUNTS=lists.counts.data_ptr(),
            SLOPES=slopes_at.data_ptr(), Q=q.data_ptr(), K=k.data_ptr(), V=v.data_ptr(), G=g.data_ptr(),
            DK=dk.data_ptr(), DALPHA=address(slopes), ALPHA=address(alpha), QUERIES=queries, KEYS=keys, GROUP=group,
            WIDTH=width, DEPTH=depth,
        )  # fmt: skip
        # As many heads of keys as there are threads: dS is there for these only.
        units, threads = batch * key_heads, torch.get_num_threads()
        step = min(units, threads)
        job[job_of.RANGES] = ranges = -(-threads // step)
        for begin in range(0, units, step):
            rows = slice(begin * group * queries, min(units, begin + step) * group * queries)
            counts = lists.counts.numpy()[rows].clip(0)
            ends = counts.cumsum()
            ds = q.new_empty(int(ends[-1]))
            slopes_at.numpy()[rows] = (ends - counts) * ds.element_size() + ds.data_ptr()
            n = rows.stop - rows.start
            job[job_of.FIRST], job[job_of.OUT] = rows.start, dq.data_ptr()
            run(job_of.of_queries(kind), job, value, scale, q.dtype, n, threads_for(n, n * width))
            parts = (min(units, begin + step) - begin) * ranges
            job[job_of.FIRST], job[job_of.OUT] = begin * ranges, dv.data_ptr()
            run(job_of.of_keys(), job, 0.0, 0.0, q.dtype, parts, threads_for(parts, n * width))
