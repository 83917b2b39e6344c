"""The SparseMAP loss against its definition over all structures, its margin and its gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis.core.errors import ParameterError, ShapeError
from tsallis.structured import Bits, DependencyTree, Factor, Matching, Sequence, Simplex, sparsemap, sparsemap_loss
from tsallis.structured import loss as structured_loss
from tsallis.structured.sparsemap import StructuredSolution

from .test_structured import _draw as draw

FACTORS: list[Factor] = [Bits(5), Bits(5, "onoff"), Simplex(5), Sequence(3, 3), Matching(3), DependencyTree(3)]


def _targets(factor: Factor, batch: int) -> Tensor:
    every = factor.enumerate()
    chosen = torch.randint(len(every), (batch,), generator=torch.Generator().manual_seed(0))
    return every[chosen].reshape(batch, *factor.natural)


@pytest.mark.parametrize("factor", FACTORS, ids=repr)
def test_loss_is_not_negative_and_its_gradient_is_a_difference_of_marginals(factor: Factor) -> None:
    x, pairs = draw(factor, 30, 1.0)
    target = _targets(factor, 30)
    inputs = [t.requires_grad_() for t in (x, pairs) if t is not None]
    loss = sparsemap_loss(factor, x, target, pairs, reduction="none", tol=1e-13)
    assert bool((loss >= -1e-12).all())
    assert bool((loss > 1e-3).any())
    grads = torch.autograd.grad(loss.sum(), inputs)
    found = sparsemap(factor, x, pairs, tol=1e-13)
    assert torch.allclose(grads[0], (found.marginals - target).detach(), atol=1e-6)
    if pairs is not None:
        assert torch.allclose(grads[1].flatten(1), found.pairs - factor.pairs(target.flatten(1)), atol=1e-6)
    small = [t[:2].detach().requires_grad_() for t in inputs]

    def mean(*scores: Tensor) -> Tensor:
        return sparsemap_loss(factor, scores[0], target[:2], *scores[1:], tol=1e-13)

    assert torch.autograd.gradcheck(mean, small, eps=1e-6, atol=1e-5)
    assert torch.autograd.gradgradcheck(mean, small, eps=1e-5, atol=1e-4)
    total = sparsemap_loss(factor, x, target, pairs, reduction="sum", tol=1e-13)
    assert torch.allclose(total, loss.sum())
    assert torch.allclose(mean(*small), loss[:2].mean())


def test_faces_are_looked_for_only_where_a_gradient_is_differentiated(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time, and the gradient is a difference of marginals without them."""
    asked = []

    def watched(name: str) -> Callable[..., StructuredSolution]:
        own = getattr(structured_loss, name)
        return lambda *given, **options: asked.append((name, torch.is_grad_enabled())) or own(*given, **options)

    for name in ("sparsemap", "solution"):
        monkeypatch.setattr(structured_loss, name, watched(name))
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    loss = sparsemap_loss(DependencyTree(3), x, _targets(DependencyTree(3), 2))
    (slope,) = torch.autograd.grad(loss, x, retain_graph=True)
    assert bool(slope.any())
    # Faces are looked for where gradients are recorded.
    assert asked == [("sparsemap", False)]
    (attached,) = torch.autograd.grad(loss, x, create_graph=True)
    assert torch.equal(attached, slope)
    assert bool(torch.autograd.grad(attached.square().sum(), x)[0].any())
    assert asked == [("sparsemap", False), ("solution", True)]


@pytest.mark.parametrize("factor", [f for f in FACTORS if not f.additional], ids=repr)
def test_loss_is_zero_exactly_within_the_margin(factor: Factor) -> None:
    target = _targets(factor, 40)
    t, every = target.flatten(1), factor.enumerate()
    x = draw(factor, 40, 1.0)[0].flatten(1) + torch.linspace(0, 6, 40)[:, None] * (t - 0.5)
    # Of what the norm counts: variables that are off too, in the other geometry.
    scaled = (x + factor.shift) / factor.spread
    ahead = (scaled * t).sum(-1, keepdim=True) - scaled @ every.mT
    needed = (t * t).sum(-1, keepdim=True) - t @ every.mT
    inside = (ahead >= needed - 1e-12).all(-1)
    loss = sparsemap_loss(factor, x.reshape(target.shape), target, reduction="none", tol=1e-13)
    assert bool(inside.any())
    assert not bool(inside.all())
    assert torch.equal(loss <= 1e-10, inside)


def test_one_of_many_is_the_sparsemax_loss() -> None:
    x, y = torch.randn(20, 5, dtype=torch.float64), torch.randint(5, (20,))
    target = torch.nn.functional.one_hot(y, 5).double()
    loss = sparsemap_loss(Simplex(5), x, target, tol=1e-13)
    assert torch.allclose(loss, ts.sparsemax_loss(x, y))
    marginals = torch.softmax(torch.randn(20, 5, dtype=torch.float64), -1)
    soft = sparsemap_loss(Simplex(5), x, marginals, reduction="none", tol=1e-13)
    assert torch.allclose(soft, ts.fenchel_young_loss("sparsemax", x, marginals, reduction="none"))
    assert bool((sparsemap_loss(Simplex(5), marginals, marginals, reduction="none", tol=1e-13) <= 1e-10).all())


def test_padding_and_ruled_out_structures() -> None:
    factor = DependencyTree(4)
    arcs = torch.randn(2, 5, 4)
    heads = torch.tensor([[0, 1, 2, 3], [2, 0, 0, 0]])
    target = torch.nn.functional.one_hot(heads, 5).mT.float()
    target[1, :, 2:] = 0.0
    arcs[0, 4, 0] = -torch.inf
    arcs.requires_grad_()
    loss = sparsemap_loss(factor, arcs, target, lengths=torch.tensor([4, 2]), reduction="none")
    assert bool((loss > 0).all())
    loss.sum().backward()
    assert arcs.grad is not None
    assert bool(arcs.grad.isfinite().all())
    assert not bool(arcs.grad[1, :, 2:].any())
    assert arcs.grad[0, 4, 0] == 0
    with torch.no_grad():
        arcs[0, 0, 0] = -torch.inf
    assert sparsemap_loss(factor, arcs, target, lengths=torch.tensor([4, 2]), reduction="none")[0] == torch.inf


def test_errors_say_what_to_do() -> None:
    x = torch.randn(2, 3)
    with pytest.raises(ShapeError, match="that of the scores"):
        sparsemap_loss(Bits(3), x, x[:1])
    with pytest.raises(ParameterError, match="reduction"):
        sparsemap_loss(Bits(3), x, x, reduction="max")  # pyright: ignore[reportArgumentType]
