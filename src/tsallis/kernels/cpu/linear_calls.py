"""A sparse output layer: what is kept of scores that are never held together, and what its gradients are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.dispatch import Lists, NoLists
from . import pairs, screening
from .calls import LANES, Number, Simplex, address
from .jobs import FEW, chunks_of, run

# Columns per block: their scores stay in the cache between the product and the look at them.
COLUMNS = 2048
# Words whose rounding is looked at together.
PART = 256
# Tokens that go through the vocabulary together.
TOKENS = 2048
# A row that keeps more than this share of the vocabulary has no list; where more than a share of rows has none, lists
# do not pay.
DENSE, MOST_DENSE = 1 / 16, 1 / 16
LEAST_ROOM = 512
# Products in half precision must take less than this of what those in full precision take.
WORTH = 0.6


def threads_for(rows: int, work: int) -> int:
    return chunks_of(rows, work, FEW, torch.get_num_threads())


@cache
def half_pays() -> bool:
    """Whether this machine multiplies bfloat16 so much faster that looking twice pays; measured once."""
    # Not drawn: nobody's random numbers depend on whether this was measured before.
    x, w = (torch.ones(n, 512, dtype=torch.float32, device="cpu") for n in (256, 1024))
    narrow = x.bfloat16(), w.bfloat16()
    times = []
    for a, b in ((x, w), narrow):
        best = float("inf")
        for _ in range(5):
            start = perf_counter()
            torch.mm(a, b.t())
            best = min(best, perf_counter() - start)
        times.append(best)
    return times[1] < WORTH * times[0]


class OutputLayer:
    """`core.dispatch.SparseLayer` of a member of the family."""

    def __init__(self, simplex: Simplex) -> None:
        self.simplex = simplex

    def half_pays(self) -> bool:
        return half_pays()

    def lists(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor, params: Sequence[Number],
        share: float, sloped: bool, half: bool,
    ) -> Lists | NoLists:  # fmt: skip
        parts = []
        for begin in range(0, len(hidden), TOKENS):
            chosen = slice(begin, begin + TOKENS)
            own = [x[chosen] if isinstance(x, Tensor) and x.dim() else x for x in params]
            part = self._part(hidden[chosen], weight, bias, index[chosen], own, share, sloped, half)
            if isinstance(part, NoLists):
                return part
            parts.append(part)
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _part(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor, params: Sequence[Number],
        share: float, sloped: bool, half: bool,
    ) -> Lists | NoLists:  # fmt: skip
        n = len(hidden)
        capacity = max(LEAST_ROOM, int(len(weight) * DENSE))
        kept = self._kept(hidden, weight, bias, params, capacity, half, int(n * MOST_DENSE))
        if isinstance(kept, NoLists):
            return kept
        lists = self._finished(kept, hidden, weight, bias, index, params, share, sloped, half)
        full = (kept.counts == screening.FULL).nonzero().squeeze(1)
        if len(full):
            # Few rows: once more, with room for everything.
            own = [x[full] if isinstance(x, Tensor) and x.dim() else x for x in params]
            rows = hidden[full].contiguous()
            again = self._kept(rows, weight, bias, own, len(weight), False, len(full))
            if isinstance(again, NoLists):
                return again
            more = self._finished(again, rows, weight, bias, index[full].contiguous(), own, share, sloped, False)
            lists = _merged(lists, more, full)
        return lists

    def _kept(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, params: Sequence[Number], capacity: int, half: bool,
        most_full: int,
    ) -> _Kept | NoLists:  # fmt: skip
        """What may be in the support of each token."""
        n, lanes = len(hidden), LANES[hidden.dtype]
        kind, value, alpha = self.simplex.alpha(params)
        alpha = None if alpha is None else alpha.expand(n, 1).contiguous()
        values = hidden.new_empty(n, capacity + lanes)
        places = torch.empty(n, capacity + lanes, dtype=torch.int32)
        counts = torch.zeros(n, dtype=torch.int64)
        tops, cuts = (hidden.new_full((n,), -torch.inf) for _ in range(2))
        slacks, left = hidden.new_zeros(n), hidden
        slack = None
        if half:
            left = hidden.bfloat16()
            slack = _Slack(hidden, left, bias)
        # Whole vectors are read where a block ends.
        buffer = torch.empty(n * COLUMNS + lanes, dtype=left.dtype)
        entry, threads = screening.screen(kind, half), threads_for(n, n * COLUMNS)
        for begin in range(0, len(weight), COLUMNS):
            right = weight[begin : begin + COLUMNS]
            shift = None if bias is None else bias[begin : begin + COLUMNS]
            columns = len(right)
            if slack is not None:
                full_right, right = right, right.bfloat16()
                slacks = slack.after(full_right, right)
                shift = None if shift is None else shift.bfloat16()
            block = buffer[: n * columns].view(n, columns)
            if shift is None:
                torch.mm(left, right.t(), out=block)
            else:
                torch.addmm(shift, left, right.t(), out=block)
            job = (
                block.data_ptr(), values.data_ptr(), places.data_ptr(), counts.data_ptr(), tops.data_ptr(),
                cuts.data_ptr(), slacks.data_ptr(), address(alpha), 0, 0, 0, 0, columns, begin, capacity,
                begin + columns == len(weight), 0,
            )  # fmt: skip
            run(entry, job, value, 0.0, hidden.dtype, n, threads)
            full = int((counts == screening.FULL).sum())
            if full > most_full:
                return NoLists(f"{full} of {n} tokens keep more than {capacity} of the first {begin + columns} words")
            if bool((counts == screening.SPOILT).any()):
                return NoLists("scores that are NaN or infinite")
        return _Kept(values, places, counts, capacity)

    def _finished(
        self, kept: _Kept, hidden: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor, params: Sequence[Number],
        share: float, sloped: bool, half: bool,
    ) -> Lists:  # fmt: skip
        n, width = hidden.shape
        kind, value, alpha = self.simplex.alpha(params)
        alpha = None if alpha is None else alpha.expand(n, 1).contiguous()
        scores, losses = hidden.new_empty(n), hidden.new_empty(n)
        slopes = hidden.new_empty(n) if sloped else None
        threads = threads_for(n, n * width)
        job = [0] * 21
        job[pairs.HIDDEN], job[pairs.WEIGHT], job[pairs.BIAS] = hidden.data_ptr(), weight.data_ptr(), address(bias)
        job[pairs.VALUES], job[pairs.PLACES] = kept.values.data_ptr(), kept.places.data_ptr()
        job[pairs.COUNTS] = kept.counts.data_ptr() if half else 0
        job[pairs.TARGETS], job[pairs.TARGET_SCORES] = index.data_ptr(), scores.data_ptr()
        job[pairs.WIDTH], job[pairs.CAPACITY] = width, kept.capacity
        run(pairs.products, job, 0.0, 0.0, hidden.dtype, n, threads)
        lanes = LANES[hidden.dtype]
        work = hidden.new_empty(threads * screening.scratch.py_func(kept.capacity, lanes))
        run(
            screening.finish(kind),
            (
                0, kept.values.data_ptr(), kept.places.data_ptr(), kept.counts.data_ptr(), 0, 0, 0, address(alpha),
                scores.data_ptr(), losses.data_ptr(), address(slopes), work.data_ptr(), 0, 0, kept.capacity, 0,
                index.data_ptr(),
            ),
            value, 0.0, hidden.dtype, n, threads,
        )  # fmt: skip
        starts = torch.zeros(n + 1, dtype=torch.int64)
        torch.cumsum(kept.counts.clamp_min(0) + 1, 0, out=starts[1:])
        total = int(starts[-1])
        values, places = hidden.new_empty(total), torch.empty(total, dtype=torch.int32)
        job[pairs.COUNTS], job[pairs.STARTS] = kept.counts.data_ptr(), starts.data_ptr()
        job[pairs.LIST_VALUES], job[pairs.LIST_PLACES] = values.data_ptr(), places.data_ptr()
        run(pairs.flatten, job, share, 0.0, hidden.dtype, n, threads)
        return Lists(starts, values, places, losses, slopes)

    def to_hidden(self, lists: Lists, weight: Tensor, scales: Tensor) -> Tensor:
        n, width = len(scales), weight.shape[1]
        out = weight.new_empty(n, width)
        job = [0] * 21
        job[pairs.WEIGHT], job[pairs.OUT], job[pairs.SCALES] = weight.data_ptr(), out.data_ptr(), scales.data_ptr()
        job[pairs.STARTS], job[pairs.WIDTH] = lists.starts.data_ptr(), width
        job[pairs.LIST_VALUES], job[pairs.LIST_PLACES] = lists.values.data_ptr(), lists.places.data_ptr()
        run(pairs.to_hidden, job, 0.0, 0.0, weight.dtype, n, threads_for(n, n * width))
        return out

    def to_weight(
        self, lists: Lists, hidden: Tensor, vocabulary: int, scales: Tensor, biased: bool, sparse: bool
    ) -> tuple[Tensor, Tensor | None]:
        n, width = hidden.shape
        words = torch.empty(vocabulary + 1, dtype=torch.int64)
        order, owner = torch.empty_like(lists.places), torch.empty_like(lists.places)
        job = [0] * 21
        job[pairs.HIDDEN], job[pairs.SCALES] = hidden.data_ptr(), scales.data_ptr()
        job[pairs.STARTS], job[pairs.WIDTH] = lists.starts.data_ptr(), width
        job[pairs.LIST_VALUES], job[pairs.LIST_PLACES] = lists.values.data_ptr(), lists.places.data_ptr()
        job[pairs.WORDS], job[pairs.ORDER], job[pairs.TOKENS] = words.data_ptr(), order.data_ptr(), owner.data_ptr()
        job[pairs.PAIRS], job[pairs.VOCABULARY] = len(lists.places), vocabulary
        run(pairs.sort, job, 0.0, 0.0, hidden.dtype, n, 1)
        chosen = words.diff().nonzero().squeeze(1) if sparse else None
        rows = vocabulary if chosen is None else len(chosen)
        out = hidden.new_empty(rows, width)
        out_bias = hidden.new_empty(rows) if biased else None
        job[pairs.OUT], job[pairs.OUT_BIAS], job[pairs.TARGETS] = out.data_ptr(), address(out_bias), address(chosen)
        run(pairs.to_weight, job, 0.0, 0.0, hidden.dtype, rows, threads_for(rows, rows * width))
        if chosen is None:
            return out, out_bias
        if out_bias is not None:
            out_bias = hidden.new_zeros(vocabulary).index_copy_(0, chosen, out_bias)
        size = (vocabulary, width)
        return torch.sparse_coo_tensor(chosen[None], out, size, is_coalesced=True, check_invariants=False), out_bias


class _Kept(NamedTuple):
    values: Tensor
    places: Tensor
    counts: Tensor
    capacity: int


class _Slack:
    """By how much scores from half precision may be off: e w - e' w' = (e - e') w + e' (w - w'), where lengths bound
    the products. What the sums lose, in float32, is added; what is lost in rounding the scores is the kernel's to add.
    """

    def __init__(self, hidden: Tensor, rounded: Tensor, bias: Tensor | None) -> None:
        wide = rounded.float()
        self._length = torch.linalg.vector_norm(wide, dim=1)
        self._lost = torch.linalg.vector_norm(hidden - wide, dim=1)
        self._lost += self._length * (1.1 * hidden.shape[1] * 2.0**-24)
        self._shift = 0.0
        if bias is not None:
            # Words that are ruled out by -inf stay so.
            self._shift = 1.01 * screening.HALF_ULP * float(torch.where(bias == -torch.inf, 0.0, bias.abs()).max())
        self._word = self._lost_word = 0.0

    def after(self, weight: Tensor, rounded: Tensor) -> Tensor:
        """The slacks, once these words have been seen."""
        for full, half in zip(weight.split(PART), rounded.split(PART), strict=True):
            self._word = max(self._word, 1.01 * float(torch.linalg.vector_norm(full, dim=1).max()))
            self._lost_word = max(self._lost_word, 1.01 * float(torch.linalg.vector_norm(full - half, dim=1).max()))
        return self._lost * self._word + self._length * self._lost_word + self._shift


def _joined(parts: list[Lists]) -> Lists:
    starts, offset = [parts[0].starts[:1]], 0
    for part in parts:
        starts.append(part.starts[1:] + offset)
        offset += len(part.values)
    slopes = None if parts[0].slopes is None else torch.cat([p.slopes for p in parts if p.slopes is not None])
    return Lists(
        torch.cat(starts), torch.cat([p.values for p in parts]), torch.cat([p.places for p in parts]),
        torch.cat([p.losses for p in parts]), slopes,
    )  # fmt: skip


def _merged(lists: Lists, more: Lists, rows: Tensor) -> Lists:
    """The lists with those of some rows replaced."""
    sizes = lists.starts.diff()
    sizes[rows] = more.starts.diff()
    starts = torch.zeros_like(lists.starts)
    torch.cumsum(sizes, 0, out=starts[1:])
    values, places = lists.values.new_empty(int(starts[-1])), lists.places.new_empty(int(starts[-1]))
    replaced = torch.zeros(len(sizes), dtype=torch.bool)
    replaced[rows] = True
    for source, chosen in ((lists, (~replaced).nonzero().squeeze(1)), (more, rows)):
        own = source.starts.diff()
        first = source.starts[:-1]
        if source is lists:
            own, first = own[chosen], first[chosen]
        inside = torch.arange(int(own.sum())) - torch.repeat_interleave(own.cumsum(0) - own, own)
        origin = torch.repeat_interleave(first, own) + inside
        target = torch.repeat_interleave(starts[:-1][chosen], own) + inside
        values[target], places[target] = source.values[origin], source.places[origin]
    losses = lists.losses.index_copy(0, rows, more.losses)
    slopes = lists.slopes
    if slopes is not None and more.slopes is not None:
        slopes = slopes.index_copy(0, rows, more.slopes)
    return Lists(starts, values, places, losses, slopes)
