"""Generalised cross-entropy of rows: a mapping's kernel, then those of `losses`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...core.dispatch import Sums
from . import losses
from .calls import LARGE, Number, Simplex, address
from .jobs import run, threads_for


class Losses:
    """`core.dispatch.FusedLoss` of a member of the family."""

    def __init__(self, simplex: Simplex) -> None:
        self.simplex = simplex

    def forward(
        self, z: Tensor, index: Tensor, weight: Tensor | None, params: Sequence[Number], sloped: bool, smooth: bool
    ) -> Sums:
        rows, n = z.shape
        p, _, hits = self.simplex.forward(z, 1, None, params, True)
        kind, value, alpha = self.simplex.member(params, rows)
        loss, slope, far, mass, count = (
            z.new_empty(rows) if want else None for want in (True, sloped, smooth, smooth, smooth)
        )
        job = (
            z.data_ptr(), p.data_ptr(), address(hits), index.data_ptr(), address(alpha), address(weight),
            address(loss), address(slope), address(far), address(mass), address(count), 0, 0, 0, 0, n, 0,
        )  # fmt: skip
        chunks = threads_for(rows, z.numel())
        run(losses.values(kind), job, value, 0.0, z.dtype, rows, chunks)
        assert loss is not None
        return Sums(p, hits, loss, slope, far, mass, count)

    def backward(
        self, z: Tensor | None, p: Tensor, kept: Tensor | None, index: Tensor, weight: Tensor | None, scale: Tensor,
        hit: Tensor, smooth: Tensor | None,
    ) -> Tensor:  # fmt: skip
        rows, n = p.shape
        dz = torch.empty_like(p)
        job = (
            address(z), p.data_ptr(), address(kept), index.data_ptr(), 0, address(weight), 0, 0, 0, 0, 0,
            dz.data_ptr(), scale.data_ptr(), hit.data_ptr(), address(smooth), n, p.nbytes > LARGE,
        )  # fmt: skip
        chunks = threads_for(rows, p.numel())
        run(losses.gradient(), job, 0.0, 0.0, p.dtype, rows, chunks)
        return dz
