"""Kernels of SparseMAP where they may break: bad items, masks, lengths, starts, limits, threads, modes of torch."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis.core import dispatch
from tsallis.core.status import Outcome
from tsallis.kernels.cpu import numba_missing
from tsallis.structured import (
    AtMostOne,
    Bits,
    Budget,
    DependencyTree,
    Factor,
    Matching,
    Sequence,
    XorOut,
    sparsemap,
)
from tsallis.structured import kernels as served
from tsallis.structured.factor import Scores

from .structured_cases import check_weights, close, draw, gradients_by, larger, small, solved_by

pytestmark = pytest.mark.skipif(numba_missing() is not None, reason="numba is not there")


@pytest.fixture(autouse=True)
def _kernels_serve() -> None:
    """Not passed over in silence."""
    assert dispatch.active_set(torch.zeros(1, 1, dtype=torch.float64), None) is not None


@pytest.mark.parametrize(
    "factor", [Bits(4), Sequence(3, 2), Matching(3), DependencyTree(3), DependencyTree(3, True)], ids=repr
)
def test_bad_items_stay_alone_and_empty_batches_are_empty(factor: Factor) -> None:
    x, pairs = draw(factor, 6, 0.3)
    good = gradients_by(None, factor, (x, pairs))
    spoilt = x.clone()
    spoilt[1].view(-1)[1], spoilt[3].view(-1)[1] = torch.nan, torch.inf
    spoilt[4].view(-1)[:2] = torch.tensor([torch.inf, torch.nan]) if spoilt[4].numel() > 1 else torch.nan
    found = solved_by(None, factor, spoilt, pairs)
    kinds = [0, Outcome.NAN_SCORE, 0, Outcome.INFINITE_SCORE, Outcome.NAN_SCORE, 0]
    assert found.result.codes.tolist() == [int(kind) for kind in kinds]
    bad = gradients_by(None, factor, (spoilt, pairs))
    for i, kind in enumerate(kinds):
        if kind:
            assert bool(bad[0][i].isnan().all() & bad[1][i].isnan().all() & found.weights[i].isnan().all())
            assert bool(found.gap[i].isnan())
            assert not bool(bad[2][i].any())
            assert not bool(found.mask[i].any())
        else:
            close([t[i] for t in bad], [t[i] for t in good], 0.0)
    if pairs is not None:
        pairs[2, 0, 0, 0] = torch.nan
        assert int(solved_by(None, factor, x, pairs).result.codes[2]) == Outcome.NAN_SCORE
    none = sparsemap(factor, x[:0])
    assert none.marginals.shape == x[:0].shape
    assert none.result.ok


@small
def test_what_is_ruled_out_has_no_part(factor: Factor) -> None:
    x, pairs = draw(factor, 40, 1.0)
    x = x.masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.3, -torch.inf)
    found, expected = (solved_by(backend, factor, x, pairs) for backend in (None, "reference"))
    assert torch.equal(found.result.codes, expected.result.codes)
    close([found.marginals, found.pairs], [expected.marginals, expected.pairs], 1e-4)
    possible = found.result.codes == Outcome.SUCCESS
    assert bool(possible.any())
    assert not bool(found.marginals[possible][x[possible] == -torch.inf].any())
    leaf = x[possible][:4].clone().requires_grad_()
    (slope,) = torch.autograd.grad(sparsemap(factor, leaf, None if pairs is None else pairs[possible][:4])
                                   .marginals.square().sum(), leaf)  # fmt: skip
    assert bool(slope.isfinite().all())
    if not isinstance(factor, Bits | Budget | AtMostOne):
        nothing = solved_by(None, factor, torch.full_like(x[:2], -torch.inf), None if pairs is None else pairs[:2])
        assert nothing.result.codes.tolist() == [Outcome.INFEASIBLE] * 2
        assert bool(nothing.marginals.isnan().all())


def test_transitions_are_ruled_out_too() -> None:
    x, y = draw(Sequence(5, 3), 20, 1.0)
    assert y is not None
    y = y.masked_fill(torch.rand(y.shape, generator=torch.Generator().manual_seed(2)) < 0.4, -torch.inf)
    y[3, 2] = -torch.inf
    found, expected = (solved_by(backend, Sequence(5, 3), x, y) for backend in (None, "reference"))
    assert found.result.codes[3] == Outcome.INFEASIBLE
    assert torch.equal(found.result.codes, expected.result.codes)
    close([found.marginals, found.pairs], [expected.marginals, expected.pairs], 1e-4)


@pytest.mark.parametrize("projective", [False, True])
@pytest.mark.parametrize("single_root", [False, True])
def test_only_one_tree_is_left(projective: bool, single_root: bool) -> None:
    heads = torch.tensor([2, 0, 2, 3])
    arcs = torch.full((2, 5, 4), -torch.inf)
    arcs[:, heads, torch.arange(4)] = torch.tensor([[-1e4], [0.5]])
    found = sparsemap(DependencyTree(4, projective, single_root), arcs)
    assert found.result.ok
    assert torch.equal(found.weights, torch.ones(2, 1))
    assert torch.equal(found.marginals.argmax(1), heads.expand(2, 4))
    arcs[1, 2, 3] = arcs[1, 3, 3] = -torch.inf
    codes = sparsemap(DependencyTree(4, projective, single_root), arcs).result.codes
    assert codes.tolist() == [Outcome.SUCCESS, Outcome.INFEASIBLE]


@pytest.mark.parametrize("make", [lambda n: Sequence(n, 3), DependencyTree, lambda n: DependencyTree(n, True),
                                  lambda n: DependencyTree(n, True, False)])  # fmt: skip
def test_items_are_as_long_as_they_say(make: Any) -> None:
    factor = make(5)
    lengths = torch.tensor([5, 4, 3, 2, 1, 0, 5])
    x, pairs = draw(factor, 7, 0.4)
    got, expected = (
        gradients_by(backend, factor, (x, pairs), lengths=lengths, tol=1e-13) for backend in (None, "reference")
    )
    close(got, expected, 1e-6)
    for i, n in enumerate(lengths.tolist()):
        if n:
            own = (x[i : i + 1, :n], None if pairs is None else pairs[i : i + 1, : n - 1])
            own = own if pairs is not None else (x[i : i + 1, : n + 1, :n], None)
            alone = sparsemap(make(n), *own, tol=1e-13).marginals[0]
            assert torch.allclose(got[0][i][tuple(map(slice, alone.shape))], alone, atol=1e-7)
        assert float(got[0][i].sum()) == pytest.approx(n)
    # A start whose structures are of other lengths is none.
    first = sparsemap(factor, x, pairs, lengths=lengths)
    for backend in (None, "reference"):
        again = solved_by(backend, factor, x, pairs, init=first, tol=1e-13)
        close([again.marginals], [sparsemap(factor, x, pairs, tol=1e-13).marginals], 1e-7)


@larger
def test_starts_are_where_they_are_said_to_be(factor: Factor) -> None:
    batch = 2 if isinstance(factor, DependencyTree) else 5
    x, pairs = draw(factor, batch, 0.3)
    whole = sparsemap(factor, x, pairs)
    again = sparsemap(factor, x, pairs, init=whole)
    assert again.iterations.tolist() == [1] * batch
    assert torch.allclose(again.marginals, whole.marginals, atol=1e-12)
    cut = sparsemap(factor, x, pairs, max_iter=3)
    rest = sparsemap(factor, x, pairs, init=cut, tol=1e-12)
    assert rest.result.ok
    assert torch.allclose(rest.marginals, whole.marginals, atol=1e-4)
    # From the reference's solution, and for other scores.
    moved = sparsemap(factor, x + 0.01, pairs, init=solved_by("reference", factor, x, pairs), tol=1e-12)
    assert torch.allclose(moved.marginals, sparsemap(factor, x + 0.01, pairs, tol=1e-12).marginals, atol=1e-5)
    # Drawn from the generator: the same structures as the reference's.
    random, other = (
        solved_by(backend, factor, x, pairs, init="random", max_iter=1, generator=torch.Generator().manual_seed(3))
        for backend in (None, "reference")
    )
    assert torch.equal(random.vertices, other.vertices)
    assert torch.equal(random.weights, other.weights)
    assert torch.allclose(random.gap, other.gap)


def test_a_start_that_is_ruled_out_by_now_is_none() -> None:
    x = torch.rand(3, 4, dtype=torch.float64)
    first = sparsemap(Bits(4), x)
    out = x.clone()
    out[1, 2] = -torch.inf
    found = sparsemap(Bits(4), out, init=first)
    assert found.result.ok
    assert torch.allclose(found.marginals, out.clamp(0, 1))
    assert found.iterations[0] == found.iterations[2] == 1


@small
def test_limits_and_tolerances_hold(factor: Factor) -> None:
    x, pairs = draw(factor, 10, 0.3)
    one = sparsemap(factor, x, pairs, max_iter=1)
    assert bool((one.iterations == 1).all())
    assert bool((one.mask.sum(-1) == 1).all())
    assert torch.equal(one.result.codes == Outcome.SUCCESS, one.gap <= 1e-9 * factor.spread)
    for tol in (0.0, 1e-13, 1e-3, 10.0):
        found = sparsemap(factor, x, pairs, tol=tol)
        assert found.result.ok, (tol, str(found.result))
        assert bool((found.gap <= tol + 1e-12).all())
        assert bool((found.iterations < 200).all())
        check_weights(found)


def test_a_kernel_that_goes_on_for_long_stays_exact() -> None:
    """Hundreds of updates of the inverse; scores that differ by ten orders of magnitude."""
    x = torch.randn(3, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for scores in (0.3 * x, 0.3 * x + 1e9 * (torch.arange(300) % 50 == 0), 0.5 * x.sign() * x.abs().pow(4)):
        found = sparsemap(Bits(300), scores, tol=1e-12, init="random", generator=torch.Generator().manual_seed(1))
        assert found.result.ok, str(found.result)
        assert torch.allclose(found.marginals, scores.clamp(0, 1), atol=2e-6)
        check_weights(found)
    # Nothing but noise is left to ask for.
    found = sparsemap(Bits(300), 0.3 * x, tol=0.0)
    assert int(found.iterations.max()) < 1000
    assert bool((found.gap <= 1e-11).all())
    for factor in (Matching(6), DependencyTree(6), Sequence(8, 3)):
        scores, pairs = draw(factor, 4, 1.0)
        scores.view(4, -1)[:, ::7] *= 1e6
        found = sparsemap(factor, scores, pairs)
        assert found.result.ok
        close([found.marginals], [solved_by("reference", factor, scores, pairs).marginals], 1e-4)


@larger
def test_results_do_not_depend_on_threads_or_neighbours(factor: Factor) -> None:
    batch = 2 if isinstance(factor, DependencyTree) else 9
    given, before = draw(factor, batch, 0.5), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(gradients_by(None, factor, given))
    finally:
        torch.set_num_threads(before)
    close(results[0], results[1], 0.0)
    alone = sparsemap(factor, *(None if t is None else t[1:2] for t in given))  # pyright: ignore[reportArgumentType]
    assert torch.equal(alone.marginals[0], results[0][0][1])


def test_modes_of_torch_and_dtypes() -> None:
    x = 0.3 * torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    factor = Sequence(4, 3)
    expected = sparsemap(factor, x)
    with torch.no_grad():
        assert torch.equal(sparsemap(factor, x.requires_grad_()).marginals, expected.marginals)
    assert sparsemap(factor, x).marginals.requires_grad
    with torch.inference_mode():
        assert torch.equal(sparsemap(factor, x.detach().clone()).marginals, expected.marginals)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        low = x.detach().to(dtype).requires_grad_()
        found = sparsemap(factor, low)
        assert {t.dtype for t in (found.marginals, found.pairs, found.weights, found.vertices)} == {dtype}
        assert torch.allclose(found.marginals.double(), expected.marginals.double(), atol=2e-2)
        (slope,) = torch.autograd.grad(found.marginals.square().sum(), low)
        assert slope.dtype == dtype
    # Memory that is not laid out in order.
    turned = x.detach().mT.contiguous().mT
    assert torch.equal(sparsemap(factor, turned).marginals, expected.marginals)
    shared = torch.randn(3, 3)
    both = [solved_by(backend, factor, x.detach(), shared).marginals for backend in (None, "reference")]
    close(both[:1], both[1:], 1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork() -> None:
    x = torch.randn(8, 40, dtype=torch.float64)
    expected = sparsemap(Bits(40), x).marginals
    if (child := os.fork()) == 0:
        os._exit(0 if torch.equal(sparsemap(Bits(40), x).marginals, expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


class _Own(Bits):
    """Somebody's factor: bits of which the first is never on."""

    def best(self, scores: Scores) -> Tensor:
        chosen = super().best(scores)
        chosen[:, 0] = 0.0
        return chosen


def test_the_reference_serves_what_kernels_do_not() -> None:
    assert served.described(_Own(3)) is None
    assert served.described(XorOut(3)) is None
    assert served.described(Bits(3)) is not None
    found = sparsemap(_Own(3), torch.tensor([[0.5, 0.5, 0.5]]))
    assert torch.allclose(found.marginals, torch.tensor([[0.0, 0.5, 0.5]]), atol=1e-4)
    structures, x = served.described(Matching(80)), torch.zeros(1, 6400, dtype=torch.float64)
    given = Scores(x, x[:, :0])
    assert served.kernel_for(given, structures, 1000, False) is not None
    assert served.kernel_for(given, structures, 1000, True) is None, "too large an inverse"
    with ts.use_backend("reference"):
        assert served.kernel_for(given, structures, 1000, False) is None
    # Inside a transform tensors have no memory.
    x = torch.randn(3, 4, dtype=torch.float64)
    slopes = torch.func.grad(lambda s: sparsemap(Bits(4), s).marginals.square().sum())(x)
    assert torch.allclose(slopes, 2 * x * ((x > 0) & (x < 1)))
