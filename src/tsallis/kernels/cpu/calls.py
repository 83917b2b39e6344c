"""Mappings on tensors: the kernels of this folder behind the contract of `core.dispatch.Kernel`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import gradients, simplex
from .jobs import FEW, FEW_POWERS, chunks_of, layout, run
from .rows import LONGEST_IN_TILES, room
from .simplex import ENTMAX15, NORMMAX, POWER, SPARSEMAX

Number = float | Tensor
LANES = {torch.float32: 16, torch.float64: 8}
# From so many vectors on a row's vectors in use are noted for the backward pass.
NOTED = 16
# Results of more bytes will not stay in the cache, whatever is done.
LARGE = 2**24


def _one_or_many(value: Number) -> tuple[float, Tensor | None]:
    """A parameter as the number it is, or as float64 numbers that rows look up."""
    if not isinstance(value, Tensor):
        return value, None
    return (value.item(), None) if value.dim() == 0 else (0.0, value.detach().double())


def rows_last(t: Tensor, dim: int) -> Tensor:
    """The tensor with its rows in the last dimension."""
    return t if dim == t.dim() - 1 else t.movedim(dim, -1)


def _laid_out(
    z: Tensor, p: Tensor, dim: int, mask: Tensor | None, *params: Tensor | None
) -> tuple[Any, ...]:
    """(z, mask, *params, strides of the job), copied only if their strides are more than a job can hold."""
    x, q = rows_last(z, dim), rows_last(p, dim)
    mask = None if mask is None else rows_last(mask.expand(z.shape), dim)
    strides = layout(x, q, mask, *params)
    if strides is None:
        x = x.contiguous()
        mask = None if mask is None else mask.contiguous()
        params = tuple(None if t is None else t.expand(*x.shape[:-1], 1).contiguous() for t in params)
        strides = layout(x, q, mask, *params)
    return x, mask, *params, strides


class Simplex:
    """Entmax (at one alpha, if given), or normmax."""

    def __init__(self, *, norm: bool = False, alpha: float | None = None) -> None:
        self.norm, self.fixed = norm, alpha

    def _alpha(self, params: Sequence[Number]) -> tuple[int, float, Tensor | None]:
        """(member, alpha if all rows have the same, else alpha as a tensor)."""
        value, alpha = _one_or_many(params[0]) if self.fixed is None else (self.fixed, None)
        if self.norm:
            return NORMMAX, value, alpha
        return (POWER if alpha is not None else {2.0: SPARSEMAX, 1.5: ENTMAX15}.get(value, POWER)), value, alpha

    def __call__(self, z: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
        threshold = z.new_empty(z.shape[:-1])
        return self.forward(z, z.dim() - 1, None, params, False, threshold)[0], threshold

    def forward(
        self,
        z: Tensor,
        dim: int,
        mask: Tensor | None,
        params: Sequence[Number],
        train: bool,
        threshold: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        kind, value, alpha = self._alpha(params)
        entries, n = z.numel(), z.shape[dim]
        rows, short, powers = entries // n, n <= LONGEST_IN_TILES, kind >= POWER
        plain = mask is None and dim == z.dim() - 1 and z.is_contiguous()
        p = torch.empty_like(z, memory_format=torch.contiguous_format)
        strides: tuple[int, ...] = ()
        if alpha is not None or not plain:
            z, mask, alpha, strides = _laid_out(z, p, dim, mask, alpha)
        chunks = chunks_of(rows, entries, FEW_POWERS if powers else FEW)
        L = LANES[z.dtype]
        work = None
        if not plain or n > (2 if powers else 16) * L:
            work = z.new_empty(chunks * room.py_func(n, L, plain))
        hits = None
        if train and n >= NOTED * L and kind != NORMMAX:
            hits = torch.empty(rows, -(-n // L), dtype=torch.uint8)
        job = (
            z.data_ptr(), p.data_ptr(), 0 if threshold is None else threshold.data_ptr(),
            0 if mask is None else mask.data_ptr(), 0 if hits is None else hits.data_ptr(),
            0 if work is None else work.data_ptr(), 0 if alpha is None else alpha.data_ptr(),
            0, 0, n, entries * z.element_size() > LARGE, plain, *strides,
        )  # fmt: skip
        run(simplex.kernel(kind, short), job, value, 0.0, z.dtype, rows, chunks)
        return p, hits

    def backward(
        self, p: Tensor, g: Tensor, dim: int, params: Sequence[Number], kept: Tensor | None, wanted: Sequence[bool]
    ) -> tuple[Tensor, list[Tensor | None]]:
        kind, value, alpha = self._alpha(params)
        n = p.shape[dim]
        rows, plain = p.numel() // n, dim == p.dim() - 1
        g, dz = g.contiguous(), torch.empty_like(p)
        strides: tuple[int, ...] = ()
        if alpha is not None or not plain:
            _, _, alpha, strides = _laid_out(p, p, dim, None, alpha)
        dalpha = p.new_empty(*rows_last(p, dim).shape[:-1], 1) if any(wanted) else None
        chunks = chunks_of(rows, p.numel(), FEW_POWERS if kind >= POWER else FEW)
        work = None if plain else p.new_empty(chunks * 3 * n)
        places = None if kept is None else torch.empty(chunks * (kept.shape[-1] + 1), dtype=torch.int64)
        job = (
            g.data_ptr(), p.data_ptr(), 0 if dalpha is None else dalpha.data_ptr(), 0,
            0 if kept is None else kept.data_ptr(), 0 if work is None else work.data_ptr(),
            0 if alpha is None else alpha.data_ptr(), 0 if places is None else places.data_ptr(),
            dz.data_ptr(), n, p.numel() * p.element_size() > LARGE, plain, *strides,
        )  # fmt: skip
        run(gradients.gradient(kind), job, value, 0.0, p.dtype, rows, chunks)
        return dz, [dalpha] if self.fixed is None else []
