"""Families of scores on which solvers and kernels go wrong, each (rows, n)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Family = Callable[[int, int, torch.Generator], Tensor]

FAMILIES: dict[str, Family] = {}


def family(function: Family) -> Family:
    """Add a family under its function's name."""
    FAMILIES[function.__name__] = function
    return function


def _normal(rows: int, n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(rows, n, generator=generator, dtype=torch.float64)


@family
def normal(rows: int, n: int, generator: torch.Generator) -> Tensor:
    """Standard normal scores."""
    return _normal(rows, n, generator)


@family
def flat(rows: int, n: int, generator: torch.Generator) -> Tensor:
    """Normal scores times 0.1: large supports."""
    return 0.1 * _normal(rows, n, generator)


@family
def peaked(rows: int, n: int, generator: torch.Generator) -> Tensor:
    """Normal scores times 10: small supports."""
    return 10 * _normal(rows, n, generator)


@family
def near_uniform(rows: int, n: int, generator: torch.Generator) -> Tensor:
    """Normal scores times 0.001: full supports."""
    return 1e-3 * _normal(rows, n, generator)


@family
def uniform(rows: int, n: int, generator: torch.Generator) -> Tensor:
    """Uniform on [-1, 0]."""
    return -torch.rand(rows, n, generator=generator, dtype=torch.float64)


@family
def two_level(rows: int, n: int, generator: torch.Generator) -> Tensor:
    """Two strong scores over a flat background one below, as attention sinks make them."""
    z = -1 + 1e-3 * _normal(rows, n, generator)
    z[:, : min(2, n)] += 1
    return z


@family
def plateau(rows: int, n: int, generator: torch.Generator) -> Tensor:
    """One peak, the rest close together near the edge of the support."""
    z = -1.8 + 0.01 * _normal(rows, n, generator)
    z[:, 0] = 0
    return z


@family
def cluster(rows: int, n: int, generator: torch.Generator) -> Tensor:
    """One maximum and all others between -1.999 and -1.9."""
    z = -1.9 - 0.099 * torch.rand(rows, n, generator=generator, dtype=torch.float64)
    z[:, 0] = 0
    return z


@family
def heavy_tailed(rows: int, n: int, generator: torch.Generator) -> Tensor:
    """Student-t with two degrees of freedom."""
    chi = _normal(rows, n, generator).square() + _normal(rows, n, generator).square()
    return _normal(rows, n, generator) / (chi / 2).clamp_min(1e-9).sqrt()


@family
def ties(rows: int, n: int, generator: torch.Generator) -> Tensor:
    """Normal scores on a grid of 0.3: many equal ones, some on kinks."""
    return (_normal(rows, n, generator) / 0.3).round() * 0.3


@family
def integers(rows: int, n: int, generator: torch.Generator) -> Tensor:
    """Whole numbers around -1000: gaps of one, which is the margin of sparsemax and normmax, far from zero."""
    return (2 * _normal(rows, n, generator)).round() - 1000


@family
def constant(rows: int, n: int, generator: torch.Generator) -> Tensor:
    """All scores of a row equal."""
    return _normal(rows, 1, generator).expand(rows, n).clone()


def draw(name: str, rows: int, n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Scores of a family, the same for the same arguments."""
    return FAMILIES[name](rows, n, torch.Generator().manual_seed(seed)).to(dtype)
