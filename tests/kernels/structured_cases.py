"""Factors that kernels of SparseMAP are tested with, and what is compared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis.structured import (
    AtMostOne,
    Bits,
    Budget,
    DependencyTree,
    Factor,
    Matching,
    Or,
    Sequence,
    Simplex,
    StructuredSolution,
    sparsemap,
)  # fmt: skip

SMALL: list[Factor] = [
    Bits(6), Bits(5, "onoff"), Budget(6, 2), Budget(6, 2, geometry="onoff"), Budget(6, 3, exact=True), Budget(4, 0),
    Simplex(6), AtMostOne(6), Or(5), Sequence(4, 3), Sequence(6, 2), Matching(4), Matching(3, 5), DependencyTree(4),
    DependencyTree(4, single_root=False), DependencyTree(4, True), DependencyTree(4, True, False),
]  # fmt: skip
LARGER: list[Factor] = [
    Bits(70), Bits(64, "onoff"), Budget(70, 20), Budget(65, 30, exact=True), Simplex(40), Sequence(10, 4), Matching(7),
    Matching(5, 9), DependencyTree(8), DependencyTree(8, single_root=False), DependencyTree(8, True),
    DependencyTree(8, True, False),
]  # fmt: skip
SINGLE: list[Factor] = [
    Bits(1), Budget(1, 1, exact=True), Simplex(1), AtMostOne(1), Or(1), Sequence(1, 1), Sequence(1, 3), Sequence(4, 1),
    Matching(1), Matching(1, 3), DependencyTree(1), DependencyTree(1, True), DependencyTree(2, True),
]  # fmt: skip
small, larger = (pytest.mark.parametrize("factor", group, ids=repr) for group in (SMALL, LARGER))
Given = tuple[Tensor, Tensor | None]


def draw(factor: Factor, batch: int, scale: float | str, seed: int = 0) -> Given:
    generator = torch.Generator().manual_seed(seed)
    size = scale if isinstance(scale, float) else 1.0

    def one(*shape: int) -> Tensor:
        x = size * torch.randn(shape, generator=generator, dtype=torch.float64)
        # Ties; whole ones, or multiples of something that digits do not hold.
        return {"whole": x.round(), "thirds": x.round() / 3, "equal": x * 0 + 0.3}.get(str(scale), x)

    pairs = one(batch, factor.length - 1, factor.states, factor.states) if isinstance(factor, Sequence) else None
    return one(batch, *factor.natural), pairs


def solved_by(backend: str | None, factor: Factor, *given: Tensor | None, **options: Any) -> StructuredSolution:
    with ts.use_backend(backend):
        return sparsemap(factor, *given, **options)  # pyright: ignore[reportArgumentType]


def gradients_by(backend: str | None, factor: Factor, given: Given, seed: int = 5, **options: Any) -> list[Tensor]:
    """Marginals, pairs, and gradients of a linear function of both."""
    inputs = [t.clone().requires_grad_() for t in given if t is not None]
    found = solved_by(backend, factor, *inputs, **options)
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros((), dtype=torch.float64)
    for part in (found.marginals, found.pairs):
        total = total + (part * torch.randn(part.shape, generator=generator, dtype=torch.float64)).sum()
    return [found.marginals.detach(), found.pairs.detach(), *torch.autograd.grad(total, inputs)]


def close(got: list[Tensor], expected: list[Tensor], atol: float) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=atol, equal_nan=True)


def check_weights(found: StructuredSolution) -> None:
    """Weights are a distribution, marginals are of it."""
    total = found.weights.sum(-1)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-14)
    assert bool((found.weights[found.mask] > 0).all())
    assert not bool(found.weights[~found.mask].any())
    assert not bool(found.vertices[~found.mask].any())
    assert bool((found.weights.diff(dim=-1) <= 0).all()), "largest first"
    for part, of in ((found.marginals.flatten(1), found.vertices), (found.pairs, found.vertex_pairs)):
        assert torch.allclose(torch.einsum("bs,bsd->bd", found.weights, of), part, atol=1e-13)
