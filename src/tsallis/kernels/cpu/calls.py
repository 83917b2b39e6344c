"""Mappings on tensors: the kernels of this folder behind the contract of `core.dispatch.Kernel`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..layout import laid_out, rows_last
from . import gradients, simplex
from .compiler import Entry
from .jobs import FEW, FEW_POWERS, chunks_of, run
from .rows import LONGEST_IN_TILES, PACKED, PACKED_POWERS, room
from .simplex import ENTMAX15, NORMMAX, POWER, SPARSEMAX

Number = float | Tensor
LANES = {torch.float32: 16, torch.float64: 8}
# From so many vectors on a row's vectors in use are noted for the backward pass.
NOTED = 16
# Results of more bytes will not stay in the cache, whatever is done.
LARGE = 2**24


def address(tensor: Tensor | None) -> int:
    """Where it lies, 0 if it does not exist."""
    return 0 if tensor is None else tensor.data_ptr()


def one_or_many(value: Number) -> tuple[float, Tensor | None]:
    """A parameter as the number it is, or as float64 numbers that rows look up."""
    if not isinstance(value, Tensor):
        return float(value), None
    return (float(value.item()), None) if value.dim() == 0 else (0.0, value.detach().resolve_neg().double())


class Plan(NamedTuple):
    """What a call needs to know that does not depend on where its tensors lie."""

    entry: Entry
    rows: int
    n: int
    chunks: int
    room: int
    notes: int
    past: bool


@lru_cache(maxsize=1024)
def _forward_plan(
    kind: int, shape: tuple[int, ...], dim: int, dtype: torch.dtype, plain: bool, train: bool, threads: int
) -> Plan:
    """``room``: numbers of scratch memory, ``notes``: vectors per row to be noted for the backward pass."""
    n, entries, L = shape[dim], math.prod(shape), LANES[torch.float64 if kind == NORMMAX else dtype]
    powers = kind in (POWER, NORMMAX)
    chunks = chunks_of(entries // n, entries, FEW_POWERS if powers else FEW, threads)
    needed = not plain or n > (PACKED_POWERS if powers else PACKED) * L
    notes = -(-n // L) if train and n >= NOTED * L and kind != NORMMAX else 0
    entry = simplex.kernel(kind, n <= LONGEST_IN_TILES)
    size = chunks * room.py_func(n, L, plain) if needed else 0
    return Plan(entry, entries // n, n, chunks, size, notes, entries * dtype.itemsize > LARGE)


@lru_cache(maxsize=1024)
def _backward_plan(
    kind: int, shape: tuple[int, ...], dim: int, dtype: torch.dtype, plain: bool, noted: bool, threads: int
) -> Plan:
    n, entries = shape[dim], math.prod(shape)
    chunks = chunks_of(entries // n, entries, FEW_POWERS if kind in (POWER, NORMMAX) else FEW, threads)
    places = chunks * (-(-n // LANES[dtype]) + 1) if noted else 0
    past = entries * dtype.itemsize > LARGE
    return Plan(gradients.gradient(kind), entries // n, n, chunks, 0 if plain else chunks * 3 * n, places, past)


class Fused(ABC):
    """Both forms of a kernel: `forward` and a backward pass, and the contract of `core.dispatch.Kernel` by a call."""

    @abstractmethod
    def forward(
        self,
        z: Tensor,
        dim: int,
        mask: Tensor | None,
        params: Sequence[Number],
        train: bool,
        threshold: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """p, and what the backward pass wants to have kept (p again, and notes); the threshold is written if there is
        room for it.
        """

    def __call__(self, z: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
        z = z.resolve_neg()
        threshold = z.new_empty(z.shape[:-1])
        return self.forward(z, z.dim() - 1, None, params, False, threshold)[0], threshold


class Simplex(Fused):
    """Entmax (at one alpha, if given), or normmax."""

    def __init__(self, *, norm: bool = False, alpha: float | None = None) -> None:
        self.norm = norm
        self.fixed = None if alpha is None else ({2.0: SPARSEMAX, 1.5: ENTMAX15}[alpha], alpha, None)

    def alpha(self, params: Sequence[Number]) -> tuple[int, float, Tensor | None]:
        """(member, alpha if all rows have the same, else alpha as a tensor)."""
        if self.fixed is not None:
            return self.fixed
        value, alpha = one_or_many(params[0])
        if self.norm:
            return NORMMAX, value, alpha
        return (POWER if alpha is not None else {2.0: SPARSEMAX, 1.5: ENTMAX15}.get(value, POWER)), value, alpha

    def member(self, params: Sequence[Number], rows: int) -> tuple[int, float, Tensor | None]:
        """The same for so many rows, a tensor as one number for each."""
        kind, value, alpha = self.alpha(params)
        return kind, value, None if alpha is None else alpha.expand(rows, 1).contiguous()

    def forward(
        self,
        z: Tensor,
        dim: int,
        mask: Tensor | None,
        params: Sequence[Number],
        train: bool,
        threshold: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        kind, value, alpha = self.alpha(params)
        # Normmax rows are copied to float64.
        plain = kind != NORMMAX and mask is None and dim == z.dim() - 1 and z.is_contiguous()
        plan = _forward_plan(kind, z.shape, dim, z.dtype, plain, train, torch.get_num_threads())
        p = torch.empty_like(z, memory_format=torch.contiguous_format)
        strides: tuple[int, ...] = ()
        if alpha is not None or not plain:
            z, mask, alpha, strides = laid_out(z, p, dim, mask, alpha)
        work = z.new_empty(plan.room, dtype=torch.float64 if kind == NORMMAX else None) if plan.room else None
        hits = z.new_empty((plan.rows, plan.notes), dtype=torch.uint8) if plan.notes else None
        job = (
            z.data_ptr(), p.data_ptr(), address(threshold), address(mask), address(hits), address(work),
            address(alpha), 0, 0, plan.n, plan.past, plain, *strides,
        )  # fmt: skip
        run(plan.entry, job, value, 0.0, z.dtype, plan.rows, plan.chunks)
        return p, p, hits

    def backward(
        self, p: Tensor, g: Tensor, dim: int, params: Sequence[Number], kept: Tensor | None, wanted: Sequence[bool]
    ) -> tuple[Tensor, list[Tensor | None]]:
        kind, value, alpha = self.alpha(params)
        # As it was written; hooks on saved tensors may have laid it out otherwise.
        p = p.contiguous()
        plain = dim == p.dim() - 1
        plan = _backward_plan(kind, p.shape, dim, p.dtype, plain, kept is not None, torch.get_num_threads())
        g, dz = g.contiguous(), torch.empty_like(p)
        strides: tuple[int, ...] = ()
        if alpha is not None or not plain:
            _, _, alpha, strides = laid_out(p, p, dim, None, alpha)
        dalpha = p.new_empty(*rows_last(p, dim).shape[:-1], 1) if True in wanted else None
        work = p.new_empty(plan.room) if plan.room else None
        places = p.new_empty(plan.notes, dtype=torch.int64) if plan.notes else None
        job = (
            g.data_ptr(), p.data_ptr(), address(dalpha), 0, address(kept), address(work), address(alpha),
            address(places), dz.data_ptr(), plan.n, plan.past, plain, *strides,
        )  # fmt: skip
        run(plan.entry, job, value, 0.0, p.dtype, plan.rows, plan.chunks)
        return dz, [dalpha] if self.fixed is None else []
