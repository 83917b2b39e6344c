"""Mappings on tensors: the kernels of this folder behind the contract of `core.dispatch.Kernel`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from math import sqrt
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..layout import laid_out, rows_last
from . import gradients, selection, simplex, steep_gradients
from .arithmetic import ENTMAX15, NORMMAX, POWER, SPARSEMAX
from .steep import solve_steep

Number = float | Tensor
Parameter = tuple[float, Tensor | None]
# Entries of a tile: of several short rows, and a part of a row that is too long for one.
SHORT, PART = 2048, 4096
# The longest row that is kept in registers, in bytes, by what is done to it; more would spill.
SOLVED, DIFFERENTIATED = 131072, 32768
ENTRIES_PER_THREAD = 16


class Tile(NamedTuple):
    """R rows by B columns, whether a row fits into one, and the warps that share it."""

    R: int
    B: int
    one: bool
    warps: int


def power_of_2(n: int) -> int:
    """The next one, at least 16."""
    return max(16, 1 << (n - 1).bit_length())


def warps_of(entries: int) -> int:
    """How many warps share a tile."""
    return min(32, max(4, entries // 32 // ENTRIES_PER_THREAD))


def tile_of(n: int, longest: int) -> Tile:
    """The tile for rows of n entries, of which so many may be kept in registers."""
    B = power_of_2(n)
    if longest < B:
        return Tile(1, PART, False, warps_of(PART))
    R = max(1, SHORT // B)
    return Tile(R, B, True, warps_of(R * B))


def part_of(n: int) -> Tile:
    """The tile of kernels that visit rows one by one, part by part."""
    return Tile(1, min(1024, power_of_2(n)), False, 4)


def compute_dtype(z: Tensor, norm: bool = False) -> tl.constexpr:
    """What rows are computed in. Normmax is steep at the edge of its support: float32 would not do."""
    return tl.float64 if norm or z.dtype == torch.float64 else tl.float32  # pyright: ignore[reportReturnType]


def number_or_rows(value: Number, z: Tensor) -> Parameter:
    """A parameter as the number it is, or as numbers that rows look up on their device."""
    if not isinstance(value, Tensor):
        return float(value), None
    value = value.detach().resolve_neg()
    if value.dim() == 0:
        # Another device's number is copied without waiting for this one.
        return (float(value), None) if value.device != z.device else (0.0, value.reshape(1))
    return 0.0, value


def on_device(z: Tensor) -> Any:
    """Kernels are started on the current device."""
    return torch.cuda.device_of(z) if z.is_cuda else nullcontext()


def start(kernel: Any, grid: tuple[Any, ...], like: Tensor, *args: Any, **options: Any) -> None:
    """Start a kernel where a tensor is."""
    with on_device(like):
        kernel[grid](*args, **options)


def run(kernel: Any, z: Tensor, tile: Tile, rows: int, *args: Any, **options: Any) -> None:
    """Start a kernel on all rows."""
    start(kernel, (triton.cdiv(rows, tile.R),), z, *args, **options, num_warps=tile.warps)


class Rows(NamedTuple):
    """Scores where kernels find them."""

    z: Tensor
    mask: Tensor | None
    params: tuple[Tensor | None, ...]
    where: tuple[int, ...] | None


def rows_of(z: Tensor, p: Tensor, dim: int, mask: Tensor | None, *params: Tensor | None) -> Rows:
    """Scores, mask and parameters laid out beside the result."""
    plain = dim == z.dim() - 1 and z.is_contiguous()
    if plain and mask is None and all(t is None for t in params):
        return Rows(z, None, params, None)
    filled = (*params, *(None,) * (2 - len(params)))
    z, mask, *found, where = laid_out(z, p, dim, mask, *filled)
    return Rows(z, None if mask is None else mask.view(torch.uint8), tuple(found[: len(params)]), where)


class Task(NamedTuple):
    """Scores, their parameters, and where the results go: p, and if there is room for them, p in float32 and the
    thresholds.
    """

    z: Tensor
    dim: int
    mask: Tensor | None
    params: Sequence[Number]
    p: Tensor
    full: Tensor | None = None
    threshold: Tensor | None = None


class Fused(ABC):
    """Both forms of a kernel: `forward` and a backward pass, and the contract of `core.dispatch.Kernel` by a call."""

    @abstractmethod
    def solve(self, task: Task) -> None:
        """Write the results."""

    def forward(
        self, z: Tensor, dim: int, mask: Tensor | None, params: Sequence[Number], train: bool
    ) -> tuple[Tensor, Tensor, None]:
        p = torch.empty_like(z, memory_format=torch.contiguous_format)
        narrow = train and z.dtype in (torch.float16, torch.bfloat16)
        full = torch.empty_like(p, dtype=torch.float32) if narrow else None
        self.solve(Task(z, dim, mask, params, p, full))
        return p, p if full is None else full, None

    def __call__(self, z: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
        z = z.resolve_neg()
        p, threshold = torch.empty_like(z, memory_format=torch.contiguous_format), z.new_empty(z.shape[:-1])
        self.solve(Task(z, z.dim() - 1, None, params, p, threshold=threshold))
        return p, threshold


class Simplex(Fused):
    """Entmax (at one alpha, if given), or normmax."""

    def __init__(self, *, norm: bool = False, alpha: float | None = None) -> None:
        self.norm = norm
        self.fixed = alpha

    def kind_of(self, params: Sequence[Number], z: Tensor) -> tuple[int, Parameter]:
        """(member, alpha)."""
        value, alpha = number_or_rows(params[0] if self.fixed is None else self.fixed, z)
        if self.norm:
            return NORMMAX.value, (value, alpha)
        special = {2.0: SPARSEMAX.value, 1.5: ENTMAX15.value}
        return POWER.value if alpha is not None else special.get(value, POWER.value), (value, alpha)

    def member(self, params: Sequence[Number], z: Tensor) -> tuple[int, float, Tensor | None]:
        """(member, alpha if all rows z have the same, else one number for each)."""
        kind, (value, alpha) = self.kind_of(params, z)
        return kind, value, None if alpha is None else alpha.expand(len(z), 1).contiguous()

    def solve(self, task: Task) -> None:
        z, dim, mask, params, p, full, threshold = task
        kind, (value, alpha) = self.kind_of(params, z)
        n = z.shape[dim]
        rows = z.numel() // n
        z, mask, (alpha,), where = rows_of(z, p, dim, mask, alpha)
        compute = compute_dtype(z, self.norm)
        steep = kind == POWER.value and (alpha is not None or value > 2)
        if alpha is not None or not steep:
            # Where rows lie otherwise than side by side, their addresses need registers too.
            tile = tile_of(n, SOLVED // (16 if compute == tl.float64 else 4) // (1 if where is None else 2))
            tolerance = (2.0 + sqrt(n) / 16.0) * (2.0**-52 if compute == tl.float64 else 2.0**-23)
            run(
                simplex.solve, z, tile, rows, z, p, full, threshold, mask, alpha, value, where, rows, n, tolerance,
                KIND=kind, R=tile.R, B=tile.B, ONE=tile.one, COMPUTE=compute,
            )  # fmt: skip
        if steep:
            tile = part_of(n)
            run(
                solve_steep, z, tile, rows, z, p, full, threshold, mask, alpha, value, None, None, 1.0, where,
                rows, n, CAPPED=False, B=tile.B,
            )  # fmt: skip

    def backward(
        self, p: Tensor, g: Tensor, dim: int, params: Sequence[Number], kept: Tensor | None, wanted: Sequence[bool]
    ) -> tuple[Tensor, list[Tensor | None]]:
        kind, (value, alpha) = self.kind_of(params, p)
        p, g, n = p.contiguous(), g.contiguous(), p.shape[dim]
        dz, rows = torch.empty_like(g), p.numel() // n
        _, _, (alpha,), where = rows_of(p, p, dim, None, alpha)
        dalpha = p.new_empty(*rows_last(p, dim).shape[:-1], 1) if True in wanted else None
        if self.norm:
            tile = part_of(n)
            run(
                gradients.normmax_gradient, p, tile, rows, p, g, dz, dalpha, alpha, value, where, rows, n, R=tile.R,
                B=tile.B,
            )  # fmt: skip
            return dz, [dalpha]
        steep = kind == POWER.value and (alpha is not None or value > 2)
        if alpha is not None or not steep:
            tile = tile_of(n, DIFFERENTIATED // p.element_size())
            run(
                gradients.entmax_gradient, p, tile, rows, p, g, dz, dalpha, alpha, value, where, rows, n, KIND=kind,
                R=tile.R, B=tile.B, ONE=tile.one, COMPUTE=compute_dtype(p),
            )  # fmt: skip
        if steep:
            tile = part_of(n)
            run(
                steep_gradients.steep_gradient, p, tile, rows, p, g, dz, dalpha, None, alpha, value, where, rows, n,
                CAPPED=False, B=tile.B,
            )  # fmt: skip
        return dz, [dalpha] if self.fixed is None else []


class Budget(Fused):
    """The capped simplex: parameters k and alpha."""

    def solve(self, task: Task) -> None:
        z, dim, mask, params, p, full, threshold = task
        (k_value, k), (value, alpha) = (number_or_rows(x, z) for x in params)
        n = z.shape[dim]
        rows, tile, compute = z.numel() // n, part_of(n), compute_dtype(z)
        z, mask, (alpha, k), where = rows_of(z, p, dim, mask, alpha, k)
        pivots = z.new_empty(rows, dtype=torch.float64 if compute == tl.float64 else torch.float32)
        run(
            selection.kth_largest, z, tile, rows, z, pivots, mask, k, k_value, where, rows, n, B=tile.B,
            COMPUTE=compute,
        )  # fmt: skip
        run(
            solve_steep, z, tile, rows, z, p, full, threshold, mask, alpha, value, pivots, k, k_value, where,
            rows, n, CAPPED=True, B=tile.B,
        )  # fmt: skip

    def backward(
        self, p: Tensor, g: Tensor, dim: int, params: Sequence[Number], kept: Tensor | None, wanted: Sequence[bool]
    ) -> tuple[Tensor, list[Tensor | None]]:
        _, (value, alpha) = (number_or_rows(x, p) for x in params)
        p, g, n = p.contiguous(), g.contiguous(), p.shape[dim]
        dz, rows, tile = torch.empty_like(g), p.numel() // n, part_of(n)
        _, _, (alpha,), where = rows_of(p, p, dim, None, alpha)
        per_row = (*rows_last(p, dim).shape[:-1], 1)
        dk, dalpha = (p.new_empty(per_row) if want else None for want in wanted)
        run(
            steep_gradients.steep_gradient, p, tile, rows, p, g, dz, dalpha, dk, alpha, value, where, rows, n,
            CAPPED=True, B=tile.B,
        )  # fmt: skip
        return dz, [dk, dalpha]


class Topk(Fused):
    """Sparsemax of the k largest; needs room for the scores once more."""

    def __init__(self) -> None:
        self._sparsemax = Simplex(alpha=2.0)

    def solve(self, task: Task) -> None:
        z, dim, mask, params, p, *_ = task
        k_value, k = number_or_rows(params[0], z)
        n = z.shape[dim]
        rows, tile = z.numel() // n, part_of(n)
        largest = torch.empty_like(p)
        z, mask, (_, k), where = rows_of(z, p, dim, mask, None, k)
        run(
            selection.keep_largest, z, tile, rows, z, largest, mask, k, k_value, where, rows, n, B=tile.B,
            COMPUTE=compute_dtype(z),
        )  # fmt: skip
        self._sparsemax.solve(task._replace(z=largest, mask=None, params=()))

    def backward(
        self, p: Tensor, g: Tensor, dim: int, params: Sequence[Number], kept: Tensor | None, wanted: Sequence[bool]
    ) -> tuple[Tensor, list[Tensor | None]]:
        return self._sparsemax.backward(p, g, dim, (), None, ())[0], [None]
