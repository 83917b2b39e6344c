"""A sparse output layer: what is kept of scores that are never held together, and what its gradients are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...core.dispatch import Lists
from .. import output_layer
from ..output_layer import Kept
from . import pairs, screening
from .calls import LANES, Number, Simplex, address
from .jobs import run, threads_for


class OutputLayer(output_layer.OutputLayer):
    """`core.dispatch.SparseLayer` of a member of the family."""

    # The scores of a block stay in the cache between the product and the look at them.
    columns, tokens, part = 2048, 2048, 256

    def __init__(self, simplex: Simplex) -> None:
        self.simplex = simplex

    def spare(self, hidden: Tensor) -> int:
        return LANES[hidden.dtype]

    def screen(
        self, kept: Kept, block: Tensor, begin: int, last: bool, hidden: Tensor, params: Sequence[Number]
    ) -> None:
        n, columns = block.shape
        kind, value, alpha = self.simplex.member(params, n)
        job = (
            block.data_ptr(), kept.values.data_ptr(), kept.places.data_ptr(), kept.counts.data_ptr(),
            kept.tops.data_ptr(), kept.cuts.data_ptr(), kept.slacks.data_ptr(), address(alpha), 0, 0, 0, 0, columns,
            begin, kept.capacity, last, 0,
        )  # fmt: skip
        half = block.dtype != hidden.dtype
        run(screening.screen(kind, half), job, value, 0.0, hidden.dtype, n, threads_for(n, n * columns))

    def finished(
        self, kept: Kept, hidden: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor, params: Sequence[Number],
        share: float, sloped: bool, half: bool,
    ) -> Lists:  # fmt: skip
        n, width = hidden.shape
        kind, value, alpha = self.simplex.member(params, n)
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
        return output_layer.sparse_rows(chosen, out, vocabulary), out_bias
