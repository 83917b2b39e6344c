"""A sparse output layer: what is kept of scores that are never held together, and what its gradients are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from ...core.dispatch import Lists
from .. import output_layer
from ..output_layer import Kept
from . import pairs, screening
from .calls import Number, Simplex, compute_dtype, start
from .loss_calls import Losses

# Scores that a program looks at together; pairs, and entries of their rows, that it works on together.
SCORES, PAIRS, ENTRIES = 1024, 16, 128


class OutputLayer(output_layer.OutputLayer):
    """`core.dispatch.SparseLayer` of a member of the family."""

    # A block is a product that keeps a GPU busy, and still a small part of all scores.
    columns = part = 4096
    tokens = 8192

    def __init__(self, simplex: Simplex) -> None:
        self.simplex = simplex
        self.losses = Losses(simplex)

    def spare(self, hidden: Tensor) -> int:
        return SCORES

    def screen(
        self, kept: Kept, block: Tensor, begin: int, last: bool, hidden: Tensor, params: Sequence[Number]
    ) -> None:
        kind, value, alpha = self.simplex.member(params, block)
        start(
            screening.screen, (len(block),), block, block, kept.values, kept.places, kept.counts, kept.tops, kept.cuts,
            kept.slacks, alpha, value, block.shape[1], begin, kept.capacity, kept.values.stride(0), int(last),
            HALF=block.dtype != hidden.dtype, KIND=kind, B=SCORES, COMPUTE=compute_dtype(hidden),
        )  # fmt: skip

    def finished(
        self, kept: Kept, hidden: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor, params: Sequence[Number],
        share: float, sloped: bool, half: bool,
    ) -> Lists:  # fmt: skip
        counts = kept.counts.clamp_min(0)
        most = max(1, int(counts.max()))
        if half:
            _products(hidden, weight, bias, kept.places, kept.values, counts, most)
        scores = hidden.new_empty(len(hidden), 1)
        _products(hidden, weight, bias, index.unsqueeze(1), scores, None, 1)
        places = kept.places[:, :most]
        here = torch.arange(most, device=hidden.device) < counts.unsqueeze(1)
        hit = here & (places == index.unsqueeze(1))
        z = torch.where(here, kept.values[:, :most], -torch.inf)
        # The same number as among the entries, where the target is one of them: a loss of 0 is 0 then.
        target = torch.where(hit.any(1), torch.where(hit, z, 0.0).sum(1), scores.squeeze(1))
        p = self.simplex.forward(z, 1, None, params, False)[0]
        sums = self.losses.sums(z, p, target, torch.zeros_like(index), None, params, sloped, False)
        losses = torch.where(target == -torch.inf, torch.inf, torch.where(sums.value < 0, 0.0, sums.value))
        # Each list ends with its target and minus the share; or has it taken off where the target is in the list
        # already, and ends with 0: what cancels must not leave its rounding.
        used = p > 0
        hit &= used
        rest = p.new_full((len(p),), -share).masked_fill_(hit.any(1), 0.0)
        used = torch.cat([used, used.new_ones(len(p), 1)], 1)
        starts = torch.cat([counts.new_zeros(1), used.sum(1).cumsum(0)])
        values = torch.cat([torch.where(hit, p - share, p), rest.unsqueeze(1)], 1)[used]
        return Lists(starts, values, torch.cat([places, index.unsqueeze(1).int()], 1)[used], losses, sums.slope)

    def to_hidden(self, lists: Lists, weight: Tensor, scales: Tensor) -> Tensor:
        _, factors = _owned(lists, scales)
        return _sums(weight, lists.starts[:-1], lists.starts[1:], factors, lists.places)

    def to_weight(
        self, lists: Lists, hidden: Tensor, vocabulary: int, scales: Tensor, biased: bool, sparse: bool
    ) -> tuple[Tensor, Tensor | None]:
        owner, factors = _owned(lists, scales)
        places, order = torch.sort(lists.places, stable=True)
        owner, factors = owner[order], factors[order]
        words = torch.arange(vocabulary + 1, device=places.device, dtype=places.dtype)
        starts = torch.searchsorted(places, words)
        begins, ends, chosen = starts[:-1], starts[1:], None
        if sparse:
            chosen = (ends > begins).nonzero().squeeze(1)
            begins, ends = begins[chosen], ends[chosen]
        out, out_bias = _sums(hidden, begins, ends, factors, owner), None
        if biased:
            out_bias = _sums(hidden.new_ones(len(hidden), 1), begins, ends, factors, owner).squeeze(1)
        if chosen is None:
            return out, out_bias
        if out_bias is not None:
            out_bias = hidden.new_zeros(vocabulary).index_copy_(0, chosen, out_bias)
        return output_layer.sparse_rows(chosen, out, vocabulary), out_bias


def _products(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, places: Tensor, values: Tensor, counts: Tensor | None,
    most: int,
) -> None:  # fmt: skip
    start(
        pairs.products, (len(hidden), triton.cdiv(most, PAIRS)), hidden, hidden, weight, bias, places, values, counts,
        hidden.shape[1], values.stride(0), E=PAIRS, H=ENTRIES, COMPUTE=compute_dtype(hidden),
    )  # fmt: skip


def _owned(lists: Lists, scales: Tensor) -> tuple[Tensor, Tensor]:
    """(whose pairs are, their values times the scales of their tokens)."""
    owner = torch.repeat_interleave(lists.starts.diff(), output_size=len(lists.values))
    return owner, lists.values * scales[owner]


def _sums(source: Tensor, begins: Tensor, ends: Tensor, factors: Tensor, which: Tensor) -> Tensor:
    width = source.shape[1]
    out = source.new_empty(len(begins), width)
    start(
        pairs.sums, (len(begins), triton.cdiv(width, ENTRIES)), source, source, out, begins.contiguous(),
        ends.contiguous(), factors, which, width, E=PAIRS, H=ENTRIES, COMPUTE=compute_dtype(source),
    )  # fmt: skip
    return out
