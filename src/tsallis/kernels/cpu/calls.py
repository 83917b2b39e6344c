"""Mappings on tensors: the kernels of this folder behind the contract of `core.dispatch.Kernel`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import gradients, simplex
from .jobs import FEW, FEW_POWERS, chunks_of, layout, run
from .rows import BLOCK, LONGEST_IN_TILES, room
from .simplex import ENTMAX15, NORMMAX, POWER, SPARSEMAX

Number = float | Tensor
NO_STRIDES = (1, 1, *(0,) * 18)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _one_or_many(value: Number) -> tuple[float, Tensor | None]:
    """A parameter as the number it is, or as float64 numbers that rows look up."""
    if not isinstance(value, Tensor):
        return value, None
    return (value.item(), None) if value.dim() == 0 else (0.0, value.detach().double())


def rows_last(t: Tensor, dim: int) -> Tensor:
    """The tensor with its rows in the last dimension."""
    return t if dim == t.dim() - 1 else t.movedim(dim, -1)


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
        n = z.shape[dim]
        rows, short = z.numel() // n, n <= LONGEST_IN_TILES
        plain = mask is None and dim == z.dim() - 1 and z.is_contiguous()
        p = torch.empty_like(z, memory_format=torch.contiguous_format)
        strides = NO_STRIDES
        if alpha is not None or not plain:
            x, q = rows_last(z, dim), rows_last(p, dim)
            mask = None if mask is None else rows_last(mask.expand(z.shape), dim)
            found = layout(x, q, mask, alpha, None)
            if found is None:
                x = z = x.contiguous()
                mask = None if mask is None else mask.contiguous()
                alpha = None if alpha is None else alpha.expand(*x.shape[:-1], 1).contiguous()
                found = layout(x, q, mask, alpha, None)
            strides = found or NO_STRIDES
        powers = kind >= POWER
        chunks = chunks_of(rows, z.numel(), FEW_POWERS if powers else FEW)
        L = 64 // z.element_size()
        bare = plain and n <= (2 if powers else 16) * L
        work = None if bare else z.new_empty(chunks * room.py_func(n, L, plain))
        hits = torch.empty(rows, -(-n // BLOCK), dtype=torch.uint8) if train and not short and kind != NORMMAX else None
        job = (
            z.data_ptr(), p.data_ptr(), _address(threshold), _address(mask), _address(hits), _address(work),
            _address(alpha), 0, 0, n, 0, plain, *strides,
        )  # fmt: skip
        run(simplex.kernel(kind, short), job, value, 0.0, z.dtype, rows, chunks)
        return p, hits

    def backward(
        self, p: Tensor, g: Tensor, dim: int, params: Sequence[Number], hits: Tensor | None, wanted: Sequence[bool]
    ) -> tuple[Tensor, list[Tensor | None]]:
        kind, value, alpha = self._alpha(params)
        n = p.shape[dim]
        rows, plain = p.numel() // n, dim == p.dim() - 1
        g, dz = g.contiguous(), torch.empty_like(p)
        strides = NO_STRIDES
        if alpha is not None or not plain:
            q = rows_last(p, dim)
            strides = layout(q, q, None, alpha, None)
            if strides is None:
                alpha = None if alpha is None else alpha.expand(*q.shape[:-1], 1).contiguous()
                strides = layout(q, q, None, alpha, None) or NO_STRIDES
        dalpha = p.new_empty(*rows_last(p, dim).shape[:-1], 1) if any(wanted) else None
        chunks = chunks_of(rows, p.numel(), FEW_POWERS if kind >= POWER else FEW)
        work = None if plain else p.new_empty(chunks * 3 * n)
        job = (
            g.data_ptr(), p.data_ptr(), _address(dalpha), 0, _address(hits), _address(work),
            _address(alpha), 0, dz.data_ptr(), n, 0, plain, *strides,
        )  # fmt: skip
        run(gradients.gradient(kind), job, value, 0.0, p.dtype, rows, chunks)
        return dz, [dalpha] if self.fixed is None else []
