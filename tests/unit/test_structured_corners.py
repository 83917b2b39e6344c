"""SparseMAP where it is easily wrong: ties, masks of any size, modes of torch, starts that do not fit, padding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis.core.errors import ParameterError, ShapeError
from tsallis.core.status import Outcome
from tsallis.structured import (
    Bits,
    Budget,
    DependencyTree,
    Factor,
    Matching,
    Or,
    Pair,
    Sequence,
    Simplex,
    k_best_bits,
    sparsemap,
    sparsemap_loss,
    systematic,
    topk_sparsemax_bits,
)  # fmt: skip

LOWEST = torch.finfo(torch.float32).min
both = pytest.mark.parametrize("backend", [None, "reference"])


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("factor", [Bits(3), Sequence(3, 2), Matching(2), DependencyTree(3), DependencyTree(3, True)])
def test_inference_mode_gives_the_same(factor: Factor) -> None:
    x = _normal(2, *factor.natural)
    lengths = torch.tensor([2, 3]) if isinstance(factor, Sequence | DependencyTree) else None
    expected = sparsemap(factor, x, lengths=lengths)
    with torch.inference_mode():
        found = sparsemap(factor, x.clone(), lengths=None if lengths is None else lengths.clone())
        loss = sparsemap_loss(factor, x.clone(), expected.marginals.round())
    assert torch.equal(found.marginals, expected.marginals)
    assert torch.equal(loss, sparsemap_loss(factor, x, expected.marginals.round()))


TIED: list[Factor] = [
    Bits(5, "onoff"), Bits(5), Matching(3), Sequence(3, 3), DependencyTree(3), DependencyTree(3, True),
    Budget(5, 2, True), Budget(5, 2), Or(4), Simplex(5),
]  # fmt: skip


@pytest.mark.parametrize("factor", TIED, ids=repr)
def test_gradients_at_ties_are_those_of_finite_differences(factor: Factor) -> None:
    """Wherever marginals are differentiable along a direction, however few structures reach them."""
    checked = 0
    for seed in range(24):
        x = (_normal(1, *factor.natural, seed=seed)).round() / 4 if seed else torch.zeros(1, *factor.natural).double()
        c, step = _normal(1, factor.variables, seed=seed + 50), _normal(1, *factor.natural, seed=seed + 100)

        def value(at: Tensor, c: Tensor = c) -> Tensor:
            return (sparsemap(factor, at, tol=1e-14).marginals.flatten(1) * c).sum()

        h = 1e-5
        left, right = (value(x) - value(x - h * step)) / h, (value(x + h * step) - value(x)) / h
        if abs(left - right) < 1e-4:
            leaf = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(value(leaf), leaf)
            assert float((slope * step).sum()) == pytest.approx(float(left + right) / 2, abs=1e-3), seed
            checked += 1
    assert checked >= 3


def test_gradients_at_the_default_tolerance() -> None:
    """Fewer structures than fractional bits reach the tolerance; the gradient is the whole one nevertheless."""
    x, c = 0.3 * _normal(4, 40), _normal(4, 40, seed=1)
    for factor, true in ((Bits(40, "onoff"), c / 2), (Bits(40), c * ((x > 0) & (x < 1)))):
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad((sparsemap(factor, leaf).marginals * c).sum(), leaf)
        assert torch.allclose(slope, true)
    for factor in (Sequence(6, 3), DependencyTree(5), Matching(5)):
        x, c = 0.05 * _normal(2, *factor.natural), _normal(2, factor.variables, seed=2)
        slopes = []
        for tol in (1e-9, 1e-15):
            leaf = x.clone().requires_grad_()
            slopes += torch.autograd.grad((sparsemap(factor, leaf, tol=tol).marginals.flatten(1) * c).sum(), leaf)
        assert torch.allclose(slopes[0], slopes[1], atol=1e-6), factor


@pytest.mark.parametrize("low", [-1e4, -1e9, -1e12, LOWEST])
@both
def test_finite_masks_are_masks(low: float, backend: str | None) -> None:
    """What every structure has, or none, does not blur what they differ in."""
    with ts.use_backend(backend):
        _check_masks(low)


def _check_masks(low: float) -> None:
    x = _normal(2, 4, 3)
    x[:, 3] = low
    found = sparsemap(Sequence(4, 3), x)
    assert found.result.ok
    # Sums with it round: that is what is left of digits.
    left = max(2e-5, abs(low) * 4e-16) if low != LOWEST else 2e-5
    assert torch.allclose(found.marginals[:, :3], sparsemap(Sequence(3, 3), x[:, :3]).marginals, atol=left)
    bits = 0.5 * _normal(2, 20)
    bits[:, 0] = -low
    found = sparsemap(Bits(20, "onoff"), bits, tol=1e-13)
    assert found.result.ok
    assert torch.allclose(found.marginals, ((bits + 1) / 2).clamp(0, 1), atol=1e-6)
    arcs, drop = 0.5 * _normal(4, 9, 8), torch.rand(4, 9, 8, generator=torch.Generator().manual_seed(0)) < 0.3
    for single in (True, False):
        masked, ruled = (
            sparsemap(DependencyTree(8, single_root=single), arcs.masked_fill(drop, value))
            for value in (low, -torch.inf)
        )
        assert ruled.result.ok
        assert torch.allclose(masked.marginals, ruled.marginals, atol=2e-4), single


def test_what_is_not_solved_says_so() -> None:
    """Scores so large that rounding is larger than what is asked for."""
    x = _normal(4, 4, 4)
    x[:, 3, :3] = x[:, :3, 3] = -1e15
    found = sparsemap(Matching(4), x, tol=1e-12)
    outcomes = found.result.outcomes()
    assert set(outcomes) <= {Outcome.SUCCESS, Outcome.GAP_LEFT}
    solved = found.result.codes == Outcome.SUCCESS
    assert bool((found.gap[solved] <= 1e-3).all())
    assert bool(found.marginals.isfinite().all())


def test_items_stop_on_their_own() -> None:
    x = _normal(12, 5, 5)
    need = sparsemap(Matching(5), x).iterations
    limit = int(need.sort().values[-2])
    found = sparsemap(Matching(5), x, max_iter=limit)
    assert torch.equal(found.result.codes == Outcome.SUCCESS, need <= limit)
    for i in range(12):
        alone = sparsemap(Matching(5), x[i : i + 1], max_iter=limit)
        assert torch.allclose(alone.marginals[0], found.marginals[i], atol=1e-12)
        assert alone.iterations[0] == found.iterations[i]


@both
def test_starts_that_do_not_fit_are_left(backend: str | None) -> None:
    with ts.use_backend(backend):
        _check_starts()


def _check_starts() -> None:
    bad = torch.rand(3, 4).double()
    bad[1, 0] = torch.nan
    first = sparsemap(Bits(4), bad)
    good = bad.nan_to_num(0.3)
    good[2, 1] = -torch.inf
    found = sparsemap(Bits(4), good, init=first)
    assert found.result.ok
    assert torch.allclose(found.marginals, good.clamp(0, 1))
    steps = _normal(2, 4, 3) + 2
    first = sparsemap(Sequence(4, 3), steps)
    lengths = torch.tensor([2, 4])
    found = sparsemap(Sequence(4, 3), steps, init=first, lengths=lengths)
    assert torch.allclose(found.marginals, sparsemap(Sequence(4, 3), steps, lengths=lengths).marginals, atol=1e-6)
    for other in (Budget(4, 2), Bits(4, "onoff")):
        if repr(other) != repr(Bits(4)):
            with pytest.raises(ShapeError, match="Start anew"):
                sparsemap(other, good, init=sparsemap(Bits(4), good))
    with pytest.raises(ShapeError, match="Start anew"):
        sparsemap(Bits(4), good[:2], init=sparsemap(Bits(4), good))


def test_what_lies_behind_a_length_is_not_looked_at() -> None:
    x, steps = _normal(2, 3, 2), _normal(2, 2, 2, 2)
    lengths = torch.tensor([2, 3])
    expected = sparsemap(Sequence(3, 2), x, steps, lengths=lengths)
    target = torch.nn.functional.one_hot(torch.tensor([[0, 1, 0], [1, 1, 0]]), 2).double()
    loss = sparsemap_loss(Sequence(3, 2), x, target, steps, lengths=lengths, reduction="none")
    dirty, dirty_steps = x.clone(), steps.clone()
    dirty[0, 2], dirty_steps[0, 1] = torch.nan, torch.inf
    target[0, 2] = torch.tensor([0.0, 1.0])
    leaf = dirty.clone().requires_grad_()
    found = sparsemap(Sequence(3, 2), leaf, dirty_steps, lengths=lengths)
    assert found.result.ok
    assert torch.equal(found.marginals, expected.marginals)
    again = sparsemap_loss(Sequence(3, 2), leaf, target, dirty_steps, lengths=lengths, reduction="none")
    assert torch.allclose(again, loss)
    (slope,) = torch.autograd.grad(again.sum() + found.marginals.square().sum(), leaf)
    assert bool(slope.isfinite().all())
    assert not bool(slope[0, 2].any())
    arcs = _normal(1, 4, 3)
    arcs[0, 3], arcs[0, :, 2] = torch.nan, torch.nan
    trees = sparsemap(DependencyTree(3), arcs, lengths=torch.tensor([2]))
    assert torch.allclose(trees.marginals[0, :3, :2], sparsemap(DependencyTree(2), arcs[:, :3, :2]).marginals[0])


def test_random_starts_are_random_and_tolerances_kept() -> None:
    x = 0.2 * _normal(1, 6)
    draws = {
        tuple(sparsemap(Bits(6, "onoff"), x, init="random", generator=torch.Generator().manual_seed(s), max_iter=1)
              .vertices[0, 0].tolist()) for s in range(20)
    }  # fmt: skip
    assert len(draws) > 5
    loose = sparsemap(Bits(20, "onoff"), 0.1 * _normal(8, 20), tol=1e-3)
    assert bool((loose.gap <= 1e-3).all())


def test_halves_and_numbers_that_are_none() -> None:
    mu = torch.tensor([[0.3, 0.4, 0.2, 0.7, 0.1, 0.6] * 3])
    for dtype, error in ((torch.bfloat16, 1e-2), (torch.float16, 1e-3)):
        vectors, p = systematic(mu.to(dtype))
        assert p.dtype == dtype
        assert torch.allclose((p.double()[:, None] @ vectors.double())[:, 0], mu.to(dtype).double(), atol=error)
    vectors, values = k_best_bits(torch.tensor([[torch.nan, 1.0], [0.5, 1.0], [torch.inf, 1.0]]), 2)
    assert values.isnan().tolist() == [[True] * 2, [False] * 2, [True] * 2]
    p = topk_sparsemax_bits(torch.tensor([[torch.nan, 1.0], [0.5, 1.0]]), 2).p
    assert p.isnan().tolist() == [[True] * 2, [False] * 2]
    for wrong in ({"k": 0}, {"k": 2.5}, {"k": 2, "grow": True, "most": 1.5}):
        with pytest.raises(ParameterError, match="whole number"):
            topk_sparsemax_bits(torch.randn(1, 3), **wrong)  # pyright: ignore[reportArgumentType]


def test_errors_name_what_came() -> None:
    with pytest.raises(ShapeError, match="one score per item"):
        sparsemap(Pair(), torch.randn(2, 2), torch.randn(3))
    x = torch.randn(2, 3, 2)
    with pytest.raises(ShapeError, match="target_pairs"):
        sparsemap_loss(Sequence(3, 2), x, x, target_pairs=torch.randn(1, 8))
    for number in (float("inf"), float("nan"), 2.5):
        with pytest.raises(ParameterError, match="whole number"):
            Bits(number)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ParameterError, match="max_iter"):
            sparsemap(Bits(2), torch.randn(1, 2), max_iter=number)  # pyright: ignore[reportArgumentType]
    assert replace(sparsemap(Bits(2), torch.randn(1, 2)), geometry="on").geometry == "on"
