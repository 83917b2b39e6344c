"""A sparse output layer with its loss: what is kept of scores that are never held together.

Backends look at blocks of scores, solve what was kept, and sum gradients; what they have in common is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import ClassVar

import torch
from torch import Tensor

from ..core.dispatch import Lists, NoLists
from .lists import joined, merged

Number = float | Tensor
# What is said of a row instead of a number of entries: there are more than there is room for; it is not finite.
FULL, SPOILT = -1, -2
# Half precision (bfloat16) is rounded to 8 bits.
HALF_ULP = 2.0**-8
# From so many entries on, a row whose entries have grown by a third is looked through again.
FEW = 48
# A row that keeps more than this share of the vocabulary has no list; where more than a share of rows has none, lists
# do not pay.
DENSE, MOST_DENSE = 1 / 16, 1 / 16
LEAST_ROOM = 512
# Bytes of lists that are made room for at once.
ROOM = 2**29
# Products in half precision must take less than this of what those in full precision take.
WORTH = 0.6


@cache
def half_pays(device: torch.device) -> bool:
    """Whether bfloat16 is multiplied so much faster that looking twice pays; measured once."""
    # Not drawn: nobody's random numbers depend on whether this was measured before.
    rows, words = (256, 1024) if device.type == "cpu" else (4096, 8192)
    x, w = (torch.ones(n, 512, dtype=torch.float32, device=device) for n in (rows, words))
    times = []
    for a, b in ((x, w), (x.bfloat16(), w.bfloat16())):
        best = float("inf")
        for _ in range(5):
            _wait_for(device)
            start = perf_counter()
            torch.mm(a, b.t())
            _wait_for(device)
            best = min(best, perf_counter() - start)
        times.append(best)
    return times[1] < WORTH * times[0]


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Kept:
    """What may be in the support of each token.

    Attributes:
        values, places: (N, more than capacity) scores, and the words that they are of.
        counts: (N) how many, FULL or SPOILT.
        tops, cuts: (N) the largest score so far, and what scores must exceed.
        slacks: (N) by how much scores may be off, where they are in half precision.
    """

    values: Tensor
    places: Tensor
    counts: Tensor
    tops: Tensor
    cuts: Tensor
    slacks: Tensor
    capacity: int

    @classmethod
    def nothing(cls, like: Tensor, capacity: int, spare: int) -> Kept:
        n = len(like)
        tops, cuts = (like.new_full((n,), -torch.inf) for _ in range(2))
        return cls(
            like.new_empty(n, capacity + spare), like.new_empty(n, capacity + spare, dtype=torch.int32),
            like.new_zeros(n, dtype=torch.int64), tops, cuts, like.new_zeros(n), capacity,
        )  # fmt: skip


def some_of(params: Sequence[Number], rows: slice | Tensor) -> list[Number]:
    """Parameters of some rows."""
    return [x[rows] if isinstance(x, Tensor) and x.dim() else x for x in params]


class OutputLayer(ABC):
    """`core.dispatch.SparseLayer` of a member of the family."""

    # Columns per block, tokens that go through the vocabulary together, words whose rounding is looked at together.
    columns: ClassVar[int]
    tokens: ClassVar[int]
    part: ClassVar[int]

    @abstractmethod
    def spare(self, hidden: Tensor) -> int:
        """Places behind each row's list that may be written to."""

    @abstractmethod
    def screen(
        self, kept: Kept, block: Tensor, begin: int, last: bool, hidden: Tensor, params: Sequence[Number]
    ) -> None:
        """Add what matters of a block's scores, of the words from ``begin`` on, and tighten what is kept."""

    @abstractmethod
    def finished(
        self, kept: Kept, hidden: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor, params: Sequence[Number],
        share: float, sloped: bool, half: bool,
    ) -> Lists:  # fmt: skip
        """Solve what was kept; after ``half`` precision, from scores in full precision."""

    def half_pays(self, hidden: Tensor) -> bool:
        return half_pays(hidden.device)

    def lists(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor, params: Sequence[Number],
        share: float, sloped: bool, half: bool,
    ) -> Lists | NoLists:  # fmt: skip
        capacity = max(LEAST_ROOM, int(len(weight) * DENSE))
        parts = []
        for chosen in self._slices(hidden, self.tokens, capacity):
            own = some_of(params, chosen)
            part = self._part(hidden[chosen], weight, bias, index[chosen], own, share, sloped, half, capacity)
            if isinstance(part, NoLists):
                return part
            parts.append(part)
        return parts[0] if len(parts) == 1 else joined(parts)

    def _slices(self, hidden: Tensor, most: int, capacity: int) -> list[slice]:
        """Tokens that there is room for together."""
        pair = hidden.element_size() + 4
        step = max(1, min(most, ROOM // (pair * (capacity + self.spare(hidden)))))
        return [slice(begin, begin + step) for begin in range(0, len(hidden), step)]

    def _part(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor, params: Sequence[Number],
        share: float, sloped: bool, half: bool, capacity: int,
    ) -> Lists | NoLists:  # fmt: skip
        n = len(hidden)
        kept = self._kept(hidden, weight, bias, params, capacity, half, int(n * MOST_DENSE))
        if isinstance(kept, NoLists):
            return kept
        lists = self.finished(kept, hidden, weight, bias, index, params, share, sloped, half)
        full = (kept.counts == FULL).nonzero().squeeze(1)
        # Few rows: once more, with room for everything.
        for part in self._slices(hidden[full], n, len(weight)):
            chosen = full[part]
            own, rows = some_of(params, chosen), hidden[chosen]
            again = self._kept(rows, weight, bias, own, len(weight), False, len(rows))
            if isinstance(again, NoLists):
                return again
            more = self.finished(again, rows, weight, bias, index[chosen], own, share, sloped, False)
            lists = merged(lists, more, chosen)
        return lists

    def _kept(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, params: Sequence[Number], capacity: int, half: bool,
        most_full: int,
    ) -> Kept | NoLists:  # fmt: skip
        n, spare = len(hidden), self.spare(hidden)
        kept, left, slack = Kept.nothing(hidden, capacity, spare), hidden, None
        if half:
            left = hidden.bfloat16()
            slack = Slack(hidden, left, bias, self.part)
        # Whole vectors are read where a block ends.
        buffer = left.new_empty(n * self.columns + spare)
        for begin in range(0, len(weight), self.columns):
            right = weight[begin : begin + self.columns]
            shift = None if bias is None else bias[begin : begin + self.columns]
            end = begin + len(right)
            if slack is not None:
                full_right, right = right, right.bfloat16()
                kept.slacks = slack.after(full_right, right)
                shift = None if shift is None else shift.bfloat16()
            block = buffer[: n * len(right)].view(n, len(right))
            with summed_in_full(left.device):
                if shift is None:
                    torch.mm(left, right.t(), out=block)
                else:
                    torch.addmm(shift, left, right.t(), out=block)
            self.screen(kept, block, begin, end == len(weight), hidden, params)
            full, spoilt = torch.stack([(kept.counts == FULL).sum(), (kept.counts == SPOILT).sum()]).tolist()
            if full > most_full:
                return NoLists(f"{full} of {n} tokens keep more than {capacity} of the first {end} words")
            if spoilt:
                return NoLists("scores that are NaN or infinite")
        return kept


@contextmanager
def summed_in_full(device: torch.device) -> Iterator[None]:
    """Products in half precision are summed in float32 to the end; cuBLAS may otherwise add up parts in bfloat16."""
    flags = torch.backends.cuda.matmul
    before = flags.allow_bf16_reduced_precision_reduction
    if device.type != "cuda" or not before:
        yield
        return
    flags.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        flags.allow_bf16_reduced_precision_reduction = before


class Slack:
    """By how much scores from half precision may be off: e w - e' w' = (e - e') w + e' (w - w'), where lengths bound
    the products. What the sums lose, in float32, is added; what is lost in rounding the scores is for `screen` to add.
    """

    def __init__(self, hidden: Tensor, rounded: Tensor, bias: Tensor | None, part: int) -> None:
        wide = rounded.float()
        self._part = part
        self._length = torch.linalg.vector_norm(wide, dim=1)
        self._lost = torch.linalg.vector_norm(hidden - wide, dim=1)
        # Some hardware cuts sums off where it should round them.
        self._lost += self._length * (1.1 * hidden.shape[1] * 2.0**-23)
        self._word = self._lost_word = self._shift = hidden.new_zeros(())
        if bias is not None:
            # Words that are ruled out by -inf stay so.
            self._shift = 1.01 * HALF_ULP * torch.where(bias == -torch.inf, 0.0, bias.abs()).max()

    def after(self, weight: Tensor, rounded: Tensor) -> Tensor:
        """The slacks, once these words have been seen."""
        for full, half in zip(weight.split(self._part), rounded.split(self._part), strict=True):
            self._word = torch.maximum(self._word, torch.linalg.vector_norm(full, dim=1).max())
            self._lost_word = torch.maximum(self._lost_word, torch.linalg.vector_norm(full - half, dim=1).max())
        return 1.01 * (self._lost * self._word + self._length * self._lost_word) + self._shift


def sparse_rows(chosen: Tensor, values: Tensor, rows: int) -> Tensor:
    """A sparse matrix of so many rows, of which only the chosen ones exist, in order."""
    size = (rows, values.shape[1])
    return torch.sparse_coo_tensor(chosen[None], values, size, is_coalesced=True, check_invariants=False)
