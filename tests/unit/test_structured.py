"""Factors against enumeration; SparseMAP against closed forms, enumerated certificates and finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis.core.errors import ParameterError, ShapeError
from tsallis.core.status import Outcome
from tsallis.structured import (
    AndOut,
    AtMostOne,
    Bits,
    Budget,
    DependencyTree,
    Factor,
    Imply,
    Matching,
    Or,
    OrOut,
    Pair,
    Sequence,
    Simplex,
    StructuredSolution,
    XorOut,
    sparsemap,
)  # fmt: skip

FACTORS: list[tuple[Factor, int]] = [
    (Bits(6), 64), (Bits(5, "onoff"), 32), (Budget(6, 2), 22), (Budget(6, 2, geometry="onoff"), 22),
    (Budget(6, 3, exact=True), 20), (Budget(4, 0), 1), (Simplex(6), 6), (AtMostOne(6), 7), (Or(6), 63), (XorOut(6), 6),
    (OrOut(6), 32), (AndOut(6), 32), (Imply(6), 63), (Pair(), 4), (Sequence(4, 3), 81), (Sequence(1, 3), 3),
    (Sequence(6, 2), 64), (Matching(4), 24), (Matching(3, 5), 60), (Matching(1), 1), (DependencyTree(1), 1),
    (DependencyTree(4), 64), (DependencyTree(4, single_root=False), 125), (DependencyTree(4, True), 30),
    (DependencyTree(4, True, False), 55), (DependencyTree(2, False, False), 3),
]  # fmt: skip
IDS = [f"{factor!r}, {count}" for factor, count in FACTORS]
LONG = torch.tensor([1, 4])
# Where a kernel serves a factor, the reference is tested beside it.
both = pytest.mark.parametrize("backend", [None, "reference"])
every_factor = pytest.mark.parametrize(("factor", "count"), FACTORS, ids=IDS)


def _draw(factor: Factor, batch: int, scale: float) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(batch)
    x = scale * torch.randn(batch, *factor.natural, generator=generator, dtype=torch.float64)
    if not factor.additional:
        return x, None
    pairs = scale * torch.randn(batch, factor.additional, generator=generator, dtype=torch.float64)
    if isinstance(factor, Sequence):
        pairs = pairs.view(batch, factor.length - 1, factor.states, factor.states)
    return x, pairs


def _sum(chosen: Tensor, x: Tensor) -> Tensor:
    return torch.where(chosen != 0, chosen * x, 0.0).sum(-1)


def _gap(factor: Factor, found: StructuredSolution, x: Tensor, pairs: Tensor | None) -> Tensor:
    """How far from the optimum, at most, by all structures."""
    given = factor.flat(x, pairs)
    unary, additional = (given.unary + factor.shift) / factor.spread, given.additional / factor.spread
    mu = found.marginals.flatten(1)
    slope = torch.cat([unary - mu, additional], -1)
    every = _sum(factor.enumerate_all()[None], slope[:, None])
    return every.max(-1).values - _sum(torch.cat([mu, found.pairs], -1), slope)


@every_factor
def test_structures_are_those_that_there_are(factor: Factor, count: int) -> None:
    found = factor.enumerate_all()
    assert found.shape == (count, factor.variables + factor.additional)
    assert len(found.unique(dim=0)) == count
    assert set(found.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(factor.enumerate(), found[:, : factor.variables])


@every_factor
@pytest.mark.parametrize("scale", [0.0, 1.0, "whole", "ruled out", 1e6])
def test_the_best_structure_is_the_best_of_all(factor: Factor, count: int, scale: Any) -> None:
    x, pairs = _draw(factor, 50, scale if isinstance(scale, float) else 1.0)
    if scale == "whole":
        # Ties.
        x, pairs = x.round(), None if pairs is None else pairs.round()
    if scale == "ruled out":
        x = x.masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.3, -torch.inf)
    given = factor.flat(x, pairs)
    scores = torch.cat([given.unary, given.additional], -1)
    best, every = factor.best(given), factor.enumerate_all()
    assert bool((best[:, None] == every).all(-1).any(-1).all()), "not a structure"
    top = _sum(every[None], scores[:, None]).max(-1).values
    got = _sum(best, scores)
    possible = top > -torch.inf
    assert torch.allclose(got[possible], top[possible], rtol=1e-12, atol=1e-9 if scale == 1e6 else 1e-12)
    assert bool((got[~possible] == -torch.inf).all())


@every_factor
@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 5.0])
@both
def test_sparsemap_is_optimal_among_all_structures(
    factor: Factor, count: int, scale: float, backend: str | None
) -> None:
    x, pairs = _draw(factor, 40, scale)
    for init in ("map", "random"):
        with ts.use_backend(backend):
            found = sparsemap(factor, x, pairs, tol=1e-13, init=init, generator=torch.Generator().manual_seed(0))
        assert found.result.ok, str(found.result)
        assert bool((found.gap <= 1e-13 * factor.spread).all())
        assert bool((_gap(factor, found, x, pairs) <= 1e-12).all())
        assert torch.allclose(found.weights.sum(-1), torch.ones(40, dtype=torch.float64), atol=1e-12)
        assert bool((found.weights[found.mask] > 0).all())
        assert not bool(found.weights[~found.mask].any())
        assert torch.allclose(torch.einsum("bs,bsd->bd", found.weights, found.vertices), found.marginals.flatten(1))
        assert bool((found.weights.diff(dim=-1) <= 1e-15).all()), "largest first"
        every = factor.enumerate_all()
        whole = torch.cat([found.vertices, found.vertex_pairs], -1)[found.mask]
        assert bool((whole[:, None] == every).all(-1).any(-1).all())
    assert count > 1 or bool((found.weights == 1).all())


def test_marginals_equal_closed_forms() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 8, generator=generator, dtype=torch.float64)

    def same(factor: Factor, expected: Tensor, scores: Tensor = x) -> None:
        found = sparsemap(factor, scores, tol=1e-13)
        assert torch.allclose(found.marginals.flatten(1), expected.flatten(1), atol=1e-7), factor

    same(Bits(8), x.clamp(0, 1))
    same(Bits(8, "onoff"), ((x + 1) / 2).clamp(0, 1))
    assert sparsemap(Bits(8), x).geometry == "on"
    assert sparsemap(Bits(8, "onoff"), x).geometry == "onoff"
    same(Simplex(8), ts.sparsemax(x))
    same(Budget(8, 3, exact=True), ts.budget(x, 3.0, 2.0))
    same(AtMostOne(8), torch.where(x.clamp_min(0).sum(-1, keepdim=True) <= 1, x.clamp_min(0), ts.sparsemax(x)))
    # At most k: as without, where that is few enough.
    free = x.clamp(0, 1)
    same(Budget(8, 3), torch.where(free.sum(-1, keepdim=True) <= 3, free, ts.budget(x, 3.0, 2.0)))
    rows = torch.randn(20, 4, 3, generator=generator, dtype=torch.float64)
    same(Sequence(4, 3), ts.sparsemax(rows), rows)
    square = torch.randn(20, 4, 4, generator=generator, dtype=torch.float64)
    same(Matching(4), _onto_doubly_stochastic(square), square)


def _onto_doubly_stochastic(x: Tensor) -> Tensor:
    """The nearest matrices with sums of 1, by Dykstra's alternating projections on rows and columns."""
    mu, rows, columns = x, torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(3000):
        y = ts.sparsemax(mu + rows)
        rows = mu + rows - y
        mu = ts.sparsemax(y + columns, dim=1)
        columns = y + columns - mu
    return mu


@pytest.mark.parametrize("factor", [f for f, count in FACTORS if count > 3], ids=repr)
@both
def test_gradients_are_those_of_finite_differences(factor: Factor, backend: str | None) -> None:
    with ts.use_backend(backend):
        _check_gradients(factor)


def _check_gradients(factor: Factor) -> None:
    x, pairs = _draw(factor, 1 if factor.variables > 12 else 2, 0.4)
    inputs = tuple(t.requires_grad_() for t in (x, pairs) if t is not None)

    def marginals(*scores: Tensor) -> tuple[Tensor, ...]:
        found = sparsemap(factor, *scores, tol=1e-13)
        return found.marginals, found.pairs

    assert any(bool(g.any()) for g in torch.autograd.grad(marginals(*inputs)[0].square().sum(), inputs)), "no gradient"
    assert torch.autograd.gradcheck(marginals, inputs, eps=1e-6, atol=1e-5)
    # Weights are not unique: here from the same support, which small changes do not leave.
    first = sparsemap(factor, *inputs, tol=1e-13)

    def weights(*scores: Tensor) -> Tensor:
        found = sparsemap(factor, *scores, tol=1e-13, init=first)
        same = (found.vertices[:, :, None] == first.vertices[:, None]).all(-1) & first.mask[:, None]
        return torch.einsum("bs,bst->bt", found.weights, same.double())

    assert torch.autograd.gradcheck(weights, inputs, eps=1e-6, atol=1e-5)
    assert torch.autograd.gradgradcheck(marginals, inputs, eps=1e-6, atol=1e-5)


@both
def test_padding_is_as_if_it_were_not_there(backend: str | None) -> None:
    with ts.use_backend(backend):
        _check_padding()


def _check_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([5, 3, 1, 0])
    x = torch.randn(4, 5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    steps = torch.randn(4, 4, 3, 3, generator=generator, dtype=torch.float64)
    found = sparsemap(Sequence(5, 3), x, steps, lengths=lengths, tol=1e-13)
    (slope,) = torch.autograd.grad(found.marginals.square().sum(), x)
    for i, n in enumerate(lengths.tolist()):
        assert not bool(found.marginals[i, n:].any())
        assert not bool(slope[i, n:].any())
        if n:
            alone = sparsemap(Sequence(n, 3), x[i : i + 1, :n], steps[i : i + 1, : n - 1], tol=1e-13)
            assert torch.allclose(found.marginals[i, :n], alone.marginals[0], atol=1e-7)
    arcs = torch.randn(4, 6, 5, generator=generator, dtype=torch.float64)
    for projective in (False, True):
        trees = sparsemap(DependencyTree(5, projective), arcs, lengths=lengths, tol=1e-13).marginals
        for i, n in enumerate(lengths.tolist()):
            assert float(trees[i].sum()) == pytest.approx(n)
            if n:
                alone = sparsemap(DependencyTree(n, projective), arcs[i : i + 1, : n + 1, :n], tol=1e-13)
                assert torch.allclose(trees[i, : n + 1, :n], alone.marginals[0], atol=1e-7)


def test_only_one_tree_is_left() -> None:
    """All arcs are ruled out but those of a tree, whose scores are the lowest."""
    heads = torch.tensor([2, 0, 2, 3])
    for projective in (False, True):
        arcs = torch.full((1, 5, 4), -torch.inf)
        arcs[0, heads, torch.arange(4)] = -1e4
        found = sparsemap(DependencyTree(4, projective), arcs)
        assert found.result.ok
        assert torch.equal(found.marginals[0].argmax(0), heads)
        assert torch.equal(found.weights, torch.ones(1, 1))
        arcs[0, 2, 3] = -torch.inf
        arcs[0, 3, 3] = -torch.inf
        found = sparsemap(DependencyTree(4, projective), arcs)
        assert found.result.outcomes() == {Outcome.INFEASIBLE: 1}
        assert bool(found.marginals.isnan().all())


def test_bad_items_stay_alone() -> None:
    x = torch.randn(5, 4)
    good = sparsemap(Bits(4), x).marginals
    x[1, 2], x[3, 0] = torch.nan, torch.inf
    x.requires_grad_()
    found = sparsemap(Bits(4), x)
    codes = [Outcome(code) for code in found.result.codes.tolist()]
    assert codes == [Outcome(code) for code in (0, Outcome.NAN_SCORE, 0, Outcome.INFINITE_SCORE, 0)]
    assert bool(found.marginals[[1, 3]].isnan().all())
    assert torch.equal(found.marginals[[0, 2, 4]], good[[0, 2, 4]])
    found.marginals[[0, 2, 4]].sum().backward()
    assert x.grad is not None
    assert bool(x.grad[[0, 2, 4]].isfinite().all())


@both
def test_the_limit_of_iterations_holds_and_is_said(backend: str | None) -> None:
    with ts.use_backend(backend):
        _check_limits()


def _check_limits() -> None:
    x = torch.randn(8, 20, generator=torch.Generator().manual_seed(0)) * 0.1
    cut = sparsemap(Bits(20, "onoff"), x, max_iter=4, tol=1e-12)
    assert cut.result.outcomes() == {Outcome.GAP_LEFT: 8}
    assert bool((cut.iterations == 4).all())
    assert torch.allclose(cut.weights.sum(-1), torch.ones(8))
    exact = ((x.double() + 1) / 2).clamp(0, 1)
    value = [2 * ((x.double() + 1) / 2 * mu - mu.square() / 2).sum(-1) for mu in (exact, cut.marginals.double())]
    assert bool((value[0] - value[1] <= cut.gap + 1e-9).all()), "the gap is a bound"
    assert bool((cut.gap > 1e-3).all())
    # From there it goes on.
    rest = sparsemap(Bits(20, "onoff"), x, init=cut, tol=1e-12)
    whole = sparsemap(Bits(20, "onoff"), x, tol=1e-12)
    assert rest.result.ok
    assert int(rest.iterations.max()) < int(whole.iterations.max())
    again = sparsemap(Bits(20, "onoff"), x, init=whole)
    assert bool((again.iterations == 1).all())
    # A looser tolerance asks for fewer structures.
    loose = sparsemap(Bits(20, "onoff"), x, tol=1e-3)
    assert bool((loose.gap <= 2e-3).all())
    assert float(loose.iterations.float().mean()) < float(whole.iterations.float().mean())


def test_supports_stay_within_fractional_bits_and_one() -> None:
    x = 0.1 * torch.randn(16, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = sparsemap(Bits(32, "onoff"), x)
    assert found.result.ok
    assert torch.allclose(found.marginals, (x + 1) / 2, atol=1e-6)
    assert int(found.mask.sum(-1).max()) <= 33


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_dtypes(dtype: torch.dtype) -> None:
    x = torch.tensor([[1, 0, -1], [0, 0, 0]]).to(dtype)
    found = sparsemap(Simplex(3), x)
    assert found.marginals.dtype == found.weights.dtype == (torch.float32 if dtype == torch.int64 else dtype)
    assert torch.allclose(found.marginals.double(), ts.sparsemax(x.double()), atol=5e-3)


def test_an_empty_batch() -> None:
    for factor in (Bits(3), Sequence(3, 2), Matching(2), DependencyTree(2), DependencyTree(2, True)):
        found = sparsemap(factor, torch.randn(0, *factor.natural))
        assert found.marginals.shape == (0, *factor.natural)
        assert len(found.weights) == 0
        assert found.result.ok


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Bits(0), ParameterError, "1 at least"),
        (lambda: Bits(3, "off"), ParameterError, "onoff"),
        (lambda: Budget(3, 4), ParameterError, r"\[0, 3\]"),
        (lambda: Budget(3, 1.5), ParameterError, "whole number"),
        (lambda: Matching(3, 2), ParameterError, "n <= m"),
        (lambda: Sequence(3, 0), ParameterError, "states=0"),
        (lambda: DependencyTree(0), ParameterError, "n=0"),
        (lambda: Bits(40).enumerate(), ParameterError, "16 at most"),
        (lambda: sparsemap(Bits(3), torch.randn(2, 4)), ShapeError, r"\(B, 3\)"),
        (lambda: sparsemap(Bits(3), torch.randn(3)), ShapeError, r"\(B, 3\)"),
        (lambda: sparsemap(Bits(3), torch.randn(2, 3), torch.randn(2)), ShapeError, "Leave them out"),
        (lambda: sparsemap(Sequence(3, 2), torch.randn(2, 3, 2), torch.randn(3, 3)), ShapeError, "transitions"),
        (
            lambda: sparsemap(Sequence(3, 2), torch.randn(2, 3, 2), lengths=torch.tensor([1, 4])),
            ParameterError,
            "0 to 3",
        ),
        (lambda: sparsemap(Bits(3), torch.randn(2, 3), lengths=LONG), ParameterError, "lengths"),
        (lambda: sparsemap(Bits(3), torch.randn(2, 3), tol=-1.0), ParameterError, "tol"),
        (lambda: sparsemap(Bits(3), torch.randn(2, 3), max_iter=0), ParameterError, "max_iter"),
        (lambda: sparsemap(Bits(3), torch.randn(2, 3), init="best"), ParameterError, "init"),
    ],
)
def test_errors_say_what_to_do(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()
