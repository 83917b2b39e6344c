"""Generalised cross-entropy of rows: a mapping's kernel, then those of `losses`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...core.dispatch import Sums
from . import losses
from .calls import DIFFERENTIATED, Number, Simplex, compute_dtype, run, tile_of


class Losses:
    """`core.dispatch.FusedLoss` of a member of the family."""

    def __init__(self, simplex: Simplex) -> None:
        self.simplex = simplex

    def forward(
        self, z: Tensor, index: Tensor, weight: Tensor | None, params: Sequence[Number], sloped: bool, smooth: bool
    ) -> Sums:
        _, p, _ = self.simplex.forward(z, 1, None, params, True)
        scores = z.gather(1, index.clamp_min(0).unsqueeze(1)).squeeze(1)
        return self.sums(z, p, scores, index, weight, params, sloped, smooth)

    def sums(
        self, z: Tensor, p: Tensor, scores: Tensor, index: Tensor, weight: Tensor | None, params: Sequence[Number],
        sloped: bool, smooth: bool,
    ) -> Sums:  # fmt: skip
        """Those of rows whose targets have these scores."""
        rows, n = z.shape
        kind, value, alpha = self.simplex.member(params, z)
        loss, slope, far, mass, classes = (
            p.new_empty(rows) if want else None for want in (True, sloped, smooth, smooth, smooth)
        )
        tile = tile_of(n, DIFFERENTIATED // p.element_size())
        run(
            losses.values, z, tile, rows, z, p, scores, index, weight, alpha, value, loss, slope, far, mass, classes,
            rows, n, KIND=kind, R=tile.R, B=tile.B, COMPUTE=compute_dtype(p),
        )  # fmt: skip
        assert loss is not None
        return Sums(p, None, loss, slope, far, mass, classes)

    def backward(
        self, z: Tensor | None, p: Tensor, kept: Tensor | None, index: Tensor, weight: Tensor | None, scale: Tensor,
        hit: Tensor, smooth: Tensor | None,
    ) -> Tensor:  # fmt: skip
        rows, n = p.shape
        dz = torch.empty_like(p)
        tile = tile_of(n, DIFFERENTIATED // p.element_size())
        run(
            losses.gradient, p, tile, rows, z, p, index, weight, scale.contiguous(), hit.contiguous(),
            None if smooth is None else smooth.contiguous(), dz, rows, n, R=tile.R, B=tile.B, COMPUTE=compute_dtype(p),
        )  # fmt: skip
        return dz
