"""Budget and top-k sparsemax on tensors; as `calls`, with which they share their parts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..layout import laid_out, rows_last
from . import selection
from .calls import Fused, Number, Simplex, address, one_or_many
from .compiler import Entry
from .jobs import FEW_POWERS, chunks_of, run
from .selection import BUDGET, TOPK


class _Selection(Fused):
    def __init__(self, kind: int) -> None:
        self.kind = kind

    def _split(self, params: Sequence[Number]) -> tuple[tuple[float, Tensor | None], tuple[float, Tensor | None]]:
        """(alpha, k), each as one number or as many."""
        return (one_or_many(params[1]) if self.kind == BUDGET else (2.0, None)), one_or_many(params[0])

    def forward(
        self,
        z: Tensor,
        dim: int,
        mask: Tensor | None,
        params: Sequence[Number],
        train: bool,
        threshold: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        (a, alpha), (b, k) = self._split(params)
        plain = mask is None and dim == z.dim() - 1 and z.is_contiguous()
        p, n = torch.empty_like(z, memory_format=torch.contiguous_format), z.shape[dim]
        strides: tuple[int, ...] = ()
        if alpha is not None or k is not None or not plain:
            z, mask, alpha, k, strides = laid_out(z, p, dim, mask, alpha, k)
        chunks, work = _room(p, n)
        job = (
            z.data_ptr(), p.data_ptr(), address(threshold), address(mask), 0, work.data_ptr(), address(alpha),
            address(k), 0, n, 0, plain, *strides,
        )  # fmt: skip
        run(selection.kernel(self.kind), job, a, b, z.dtype, p.numel() // n, chunks)
        return p, p, None


def _room(p: Tensor, n: int) -> tuple[int, Tensor]:
    """(how many threads share the call, scratch memory for them)."""
    chunks = chunks_of(p.numel() // n, p.numel(), FEW_POWERS, torch.get_num_threads())
    return chunks, p.new_empty(chunks * 3 * n)


class Budget(_Selection):
    """The capped simplex."""

    def __init__(self) -> None:
        super().__init__(BUDGET)

    def backward(
        self, p: Tensor, g: Tensor, dim: int, params: Sequence[Number], kept: Tensor | None, wanted: Sequence[bool]
    ) -> tuple[Tensor, list[Tensor | None]]:
        (a, alpha), (b, k) = self._split(params)
        p = p.contiguous()
        g, dz, n = g.contiguous(), torch.empty_like(p), p.shape[dim]
        plain = dim == p.dim() - 1
        strides: tuple[int, ...] = ()
        if alpha is not None or k is not None or not plain:
            _, _, alpha, k, strides = laid_out(p, p, dim, None, alpha, k)
        per_row = (*rows_last(p, dim).shape[:-1], 1)
        dk, dalpha = (p.new_empty(per_row) if want else None for want in wanted)
        chunks, work = _room(p, n)
        job = (
            g.data_ptr(), p.data_ptr(), address(dalpha), address(dk), 0, work.data_ptr(), address(alpha), address(k),
            dz.data_ptr(), n, 0, plain, *strides,
        )  # fmt: skip
        entry: Entry = selection.budget_gradient()
        run(entry, job, a, b, p.dtype, p.numel() // n, chunks)
        return dz, [dk, dalpha]


class Topk(_Selection):
    """Sparsemax of the k largest."""

    def __init__(self) -> None:
        super().__init__(TOPK)
        self._sparsemax = Simplex(alpha=2.0)

    def backward(
        self, p: Tensor, g: Tensor, dim: int, params: Sequence[Number], kept: Tensor | None, wanted: Sequence[bool]
    ) -> tuple[Tensor, list[Tensor | None]]:
        return self._sparsemax.backward(p, g, dim, (), None, ())[0], [None]
