"""Kernels of SparseMAP against the reference, and both against certificates and faces by enumeration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tsallis.core import dispatch
from tsallis.kernels.cpu import numba_missing
from tsallis.structured import (
    DependencyTree,
    Factor,
    sparsemap,
)
from tsallis.structured import active_set as reference

from .structured_cases import SINGLE, SMALL, check_weights, close, draw, gradients_by, larger, small, solved_by

pytestmark = pytest.mark.skipif(numba_missing() is not None, reason="numba is not there")


@pytest.fixture(autouse=True)
def _kernels_serve() -> None:
    """Not passed over in silence."""
    assert dispatch.active_set(torch.zeros(1, 1, dtype=torch.float64), None) is not None


@small
@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0, 10.0, 100.0, "whole", "thirds", "equal"])
def test_small_problems_are_solved_as_by_the_reference(factor: Factor, scale: Any) -> None:
    x, pairs = draw(factor, 12, scale)
    found = solved_by(None, factor, x, pairs, tol=1e-13)
    assert found.result.ok, str(found.result)
    assert bool((found.gap <= 1e-12).all())
    check_weights(found)
    if isinstance(scale, float):
        got, expected = (gradients_by(backend, factor, (x, pairs), tol=1e-13) for backend in (None, "reference"))
        close(got, expected, 1e-6)
    else:
        # Where structures tie, pairs are not unique; gradients are compared with the face itself below.
        close([found.marginals], [solved_by("reference", factor, x, pairs, tol=1e-13).marginals], 1e-7)


@small
@pytest.mark.parametrize("scale", [0.1, 1.0, "whole", "thirds", "equal"])
@pytest.mark.parametrize("backend", [None, "reference"])
def test_certificates_and_faces_are_those_of_all_structures(factor: Factor, scale: Any, backend: str | None) -> None:
    """By enumeration: nothing is better, and marginals move in all directions of the face that is optimal."""
    x, pairs = draw(factor, 8, scale, 1)
    given, every = factor.flat(x, pairs), factor.enumerate_all()
    leaf = x.clone().requires_grad_()
    found = solved_by(backend, factor, leaf, pairs, tol=1e-14)
    mu, nu = found.marginals.detach(), found.pairs
    d, g = factor.variables, torch.randn(mu.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    (slopes,) = torch.autograd.grad((found.marginals * g).sum(), leaf)
    unary = (given.unary + factor.shift) / factor.spread
    slope = torch.cat([unary - mu.flatten(1), given.additional / factor.spread], -1)
    values = torch.where(every[None] > 0, slope[:, None], 0.0).sum(-1)
    here = torch.where(torch.cat([mu.flatten(1), nu], -1) != 0, torch.cat([mu.flatten(1), nu], -1) * slope, 0.0).sum(-1)
    best = values.max(-1).values
    assert bool(((best - here).abs() <= 1e-11).all())
    for i in range(8):
        face = every[values[i] >= best[i] - 1e-7][:, :d]
        steps = face - face[0]
        size, directions = torch.linalg.svd(steps)[1:]
        directions = directions[: int((size > 1e-9).sum())]
        expected = directions.mT @ (directions @ g[i].flatten()) / factor.spread
        if factor.slopes(unary) is not None:
            # Bits at an end of their interval: the derivative is taken as 0 there.
            continue
        assert torch.allclose(slopes[i].flatten(), expected, atol=1e-6), i


@larger
@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_larger_problems_are_solved_as_by_the_reference(factor: Factor, scale: float) -> None:
    batch = 2 if isinstance(factor, DependencyTree) else 6
    given = draw(factor, batch, scale)
    found = solved_by(None, factor, *given)
    assert found.result.ok, str(found.result)
    assert bool((found.gap <= 1e-9 * factor.spread).all())
    check_weights(found)
    got, expected = (gradients_by(backend, factor, given, tol=1e-12) for backend in (None, "reference"))
    close(got, expected, 2e-6)


@small
def test_weights_have_the_derivatives_of_their_support(factor: Factor) -> None:
    """And marginals and pairs second ones, which are zero, through products that autograd knows."""
    inputs = [t.requires_grad_() for t in draw(factor, 5, 0.5) if t is not None]
    found = sparsemap(factor, *inputs, tol=1e-13)
    state = reference.State(
        torch.cat([found.vertices, found.vertex_pairs], -1), found.weights.detach(), found.mask
    )  # fmt: skip
    given = factor.flat(*inputs)
    inner = torch.cat([(given.unary + factor.shift) / factor.spread, given.additional / factor.spread], -1)
    matrix = torch.linalg.inv(reference.bordered(state, factor.variables))[:, :-1, :-1]
    matrix = matrix * found.mask[:, None] * found.mask[..., None]
    expected = torch.einsum("bst,bt->bs", matrix, torch.einsum("bsd,bd->bs", state.structures, inner))
    g = torch.randn(found.weights.shape, dtype=torch.float64)
    slopes, wanted = (torch.autograd.grad((w * g).sum(), inputs, retain_graph=True) for w in (found.weights, expected))
    close(list(slopes), list(wanted), 1e-9)
    # A gradient is linear in what comes in, and differentiable in it.
    g = torch.randn_like(found.weights).requires_grad_()
    h = torch.randn_like(found.marginals).requires_grad_()
    outputs = ((found.weights * g).sum() + (found.marginals * h).sum(), (expected * g).sum())
    first = torch.autograd.grad(outputs[0], inputs, create_graph=True)
    second = torch.autograd.grad(sum((a * a).sum() for a in first), (g, h), retain_graph=True)
    for direction, part in zip(second, (g, h), strict=True):
        step, eps = torch.randn_like(part), 1e-6

        def length(at: Tensor, which: Tensor = part) -> float:
            weights, marginals = (at, h) if which is g else (g, at)
            total = (found.weights * weights).sum() + (found.marginals * marginals).sum()
            return float(sum((a * a).sum() for a in torch.autograd.grad(total, inputs, retain_graph=True)))

        slope = (length(part + eps * step) - length(part - eps * step)) / (2 * eps)
        assert float((direction * step).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("factor", SINGLE, ids=repr)
def test_one_variable_or_one_structure(factor: Factor) -> None:
    for scale in (1.0, "whole"):
        given = draw(factor, 6, scale)
        got, expected = (gradients_by(backend, factor, given, tol=1e-13) for backend in (None, "reference"))
        close(got, expected, 1e-7)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(25))
def test_ten_thousand_small_problems(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for factor in SMALL[:-1]:
        for scale in (0.1, 1.0, "whole", 10.0 ** float(torch.rand((), generator=generator) * 4 - 2), "thirds"):
            given = draw(factor, 5, scale, int(torch.randint(10**6, (), generator=generator)))
            if isinstance(scale, float):
                got, expected = (gradients_by(backend, factor, given, tol=1e-13) for backend in (None, "reference"))
                close(got, expected, 1e-6)
            else:
                close(
                    *([solved_by(backend, factor, *given, tol=1e-13).marginals] for backend in (None, "reference")),
                    atol=1e-7,
                )
