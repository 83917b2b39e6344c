"""Kernels of SparseMAP against the reference and certificates and faces by enumeration; where they may break."""

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
    Or,
    Sequence,
    Simplex,
    StructuredSolution,
    XorOut,
    sparsemap,
)  # fmt: skip
from tsallis.structured import active_set as reference
from tsallis.structured import kernels as served
from tsallis.structured.factor import Scores

pytestmark = pytest.mark.skipif(numba_missing() is not None, reason="numba is not there")

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


@pytest.fixture(autouse=True)
def _kernels_serve() -> None:
    """Not passed over in silence."""
    assert dispatch.active_set(torch.zeros(1, 1, dtype=torch.float64), None) is not None


def _draw(factor: Factor, batch: int, scale: float | str, seed: int = 0) -> Given:
    generator = torch.Generator().manual_seed(seed)
    size = scale if isinstance(scale, float) else 1.0

    def one(*shape: int) -> Tensor:
        x = size * torch.randn(shape, generator=generator, dtype=torch.float64)
        # Ties; whole ones, or multiples of something that digits do not hold.
        return {"whole": x.round(), "thirds": x.round() / 3, "equal": x * 0 + 0.3}.get(str(scale), x)

    pairs = one(batch, factor.length - 1, factor.states, factor.states) if isinstance(factor, Sequence) else None
    return one(batch, *factor.natural), pairs


def _by(backend: str | None, factor: Factor, *given: Tensor | None, **options: Any) -> StructuredSolution:
    with ts.use_backend(backend):
        return sparsemap(factor, *given, **options)  # pyright: ignore[reportArgumentType]


def _gradients(backend: str | None, factor: Factor, given: Given, seed: int = 5, **options: Any) -> list[Tensor]:
    """Marginals, pairs, and gradients of a linear function of both."""
    inputs = [t.clone().requires_grad_() for t in given if t is not None]
    found = _by(backend, factor, *inputs, **options)
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros((), dtype=torch.float64)
    for part in (found.marginals, found.pairs):
        total = total + (part * torch.randn(part.shape, generator=generator, dtype=torch.float64)).sum()
    return [found.marginals.detach(), found.pairs.detach(), *torch.autograd.grad(total, inputs)]


def _close(got: list[Tensor], expected: list[Tensor], atol: float) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=atol, equal_nan=True)


def _whole(found: StructuredSolution) -> None:
    """Weights are a distribution, marginals are of it."""
    total = found.weights.sum(-1)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-14)
    assert bool((found.weights[found.mask] > 0).all())
    assert not bool(found.weights[~found.mask].any())
    assert not bool(found.vertices[~found.mask].any())
    assert bool((found.weights.diff(dim=-1) <= 0).all()), "largest first"
    for part, of in ((found.marginals.flatten(1), found.vertices), (found.pairs, found.vertex_pairs)):
        assert torch.allclose(torch.einsum("bs,bsd->bd", found.weights, of), part, atol=1e-13)


@small
@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0, 10.0, 100.0, "whole", "thirds", "equal"])
def test_small_problems_are_solved_as_by_the_reference(factor: Factor, scale: Any) -> None:
    x, pairs = _draw(factor, 12, scale)
    found = _by(None, factor, x, pairs, tol=1e-13)
    assert found.result.ok, str(found.result)
    assert bool((found.gap <= 1e-12).all())
    _whole(found)
    if isinstance(scale, float):
        got, expected = (_gradients(backend, factor, (x, pairs), tol=1e-13) for backend in (None, "reference"))
        _close(got, expected, 1e-6)
    else:
        # Where structures tie, pairs are not unique; gradients are compared with the face itself below.
        _close([found.marginals], [_by("reference", factor, x, pairs, tol=1e-13).marginals], 1e-7)


@small
@pytest.mark.parametrize("scale", [0.1, 1.0, "whole", "thirds", "equal"])
@pytest.mark.parametrize("backend", [None, "reference"])
def test_certificates_and_faces_are_those_of_all_structures(factor: Factor, scale: Any, backend: str | None) -> None:
    """By enumeration: nothing is better, and marginals move in all directions of the face that is optimal."""
    x, pairs = _draw(factor, 8, scale, 1)
    given, every = factor.flat(x, pairs), factor.enumerate_all()
    leaf = x.clone().requires_grad_()
    found = _by(backend, factor, leaf, pairs, tol=1e-14)
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
    given = _draw(factor, batch, scale)
    found = _by(None, factor, *given)
    assert found.result.ok, str(found.result)
    assert bool((found.gap <= 1e-9 * factor.spread).all())
    _whole(found)
    got, expected = (_gradients(backend, factor, given, tol=1e-12) for backend in (None, "reference"))
    _close(got, expected, 2e-6)


@small
def test_weights_have_the_derivatives_of_their_support(factor: Factor) -> None:
    """And marginals and pairs second ones, which are zero, through products that autograd knows."""
    inputs = [t.requires_grad_() for t in _draw(factor, 5, 0.5) if t is not None]
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
    _close(list(slopes), list(wanted), 1e-9)
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
        given = _draw(factor, 6, scale)
        got, expected = (_gradients(backend, factor, given, tol=1e-13) for backend in (None, "reference"))
        _close(got, expected, 1e-7)


@pytest.mark.parametrize(
    "factor", [Bits(4), Sequence(3, 2), Matching(3), DependencyTree(3), DependencyTree(3, True)], ids=repr
)
def test_bad_items_stay_alone_and_empty_batches_are_empty(factor: Factor) -> None:
    x, pairs = _draw(factor, 6, 0.3)
    good = _gradients(None, factor, (x, pairs))
    spoilt = x.clone()
    spoilt[1].view(-1)[1], spoilt[3].view(-1)[1] = torch.nan, torch.inf
    spoilt[4].view(-1)[:2] = torch.tensor([torch.inf, torch.nan]) if spoilt[4].numel() > 1 else torch.nan
    found = _by(None, factor, spoilt, pairs)
    kinds = [0, Outcome.NAN_SCORE, 0, Outcome.INFINITE_SCORE, Outcome.NAN_SCORE, 0]
    assert found.result.codes.tolist() == [int(kind) for kind in kinds]
    bad = _gradients(None, factor, (spoilt, pairs))
    for i, kind in enumerate(kinds):
        if kind:
            assert bool(bad[0][i].isnan().all() & bad[1][i].isnan().all() & found.weights[i].isnan().all())
            assert bool(found.gap[i].isnan())
            assert not bool(bad[2][i].any())
            assert not bool(found.mask[i].any())
        else:
            _close([t[i] for t in bad], [t[i] for t in good], 0.0)
    if pairs is not None:
        pairs[2, 0, 0, 0] = torch.nan
        assert int(_by(None, factor, x, pairs).result.codes[2]) == Outcome.NAN_SCORE
    none = sparsemap(factor, x[:0])
    assert none.marginals.shape == x[:0].shape
    assert none.result.ok


@small
def test_what_is_ruled_out_has_no_part(factor: Factor) -> None:
    x, pairs = _draw(factor, 40, 1.0)
    x = x.masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.3, -torch.inf)
    found, expected = (_by(backend, factor, x, pairs) for backend in (None, "reference"))
    assert torch.equal(found.result.codes, expected.result.codes)
    _close([found.marginals, found.pairs], [expected.marginals, expected.pairs], 1e-4)
    possible = found.result.codes == Outcome.SUCCESS
    assert bool(possible.any())
    assert not bool(found.marginals[possible][x[possible] == -torch.inf].any())
    leaf = x[possible][:4].clone().requires_grad_()
    (slope,) = torch.autograd.grad(sparsemap(factor, leaf, None if pairs is None else pairs[possible][:4])
                                   .marginals.square().sum(), leaf)  # fmt: skip
    assert bool(slope.isfinite().all())
    if not isinstance(factor, Bits | Budget | AtMostOne):
        nothing = _by(None, factor, torch.full_like(x[:2], -torch.inf), None if pairs is None else pairs[:2])
        assert nothing.result.codes.tolist() == [Outcome.INFEASIBLE] * 2
        assert bool(nothing.marginals.isnan().all())


def test_transitions_are_ruled_out_too() -> None:
    x, y = _draw(Sequence(5, 3), 20, 1.0)
    assert y is not None
    y = y.masked_fill(torch.rand(y.shape, generator=torch.Generator().manual_seed(2)) < 0.4, -torch.inf)
    y[3, 2] = -torch.inf
    found, expected = (_by(backend, Sequence(5, 3), x, y) for backend in (None, "reference"))
    assert found.result.codes[3] == Outcome.INFEASIBLE
    assert torch.equal(found.result.codes, expected.result.codes)
    _close([found.marginals, found.pairs], [expected.marginals, expected.pairs], 1e-4)


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
    x, pairs = _draw(factor, 7, 0.4)
    got, expected = (
        _gradients(backend, factor, (x, pairs), lengths=lengths, tol=1e-13) for backend in (None, "reference")
    )
    _close(got, expected, 1e-6)
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
        again = _by(backend, factor, x, pairs, init=first, tol=1e-13)
        _close([again.marginals], [sparsemap(factor, x, pairs, tol=1e-13).marginals], 1e-7)


@larger
def test_starts_are_where_they_are_said_to_be(factor: Factor) -> None:
    batch = 2 if isinstance(factor, DependencyTree) else 5
    x, pairs = _draw(factor, batch, 0.3)
    whole = sparsemap(factor, x, pairs)
    again = sparsemap(factor, x, pairs, init=whole)
    assert again.iterations.tolist() == [1] * batch
    assert torch.allclose(again.marginals, whole.marginals, atol=1e-12)
    cut = sparsemap(factor, x, pairs, max_iter=3)
    rest = sparsemap(factor, x, pairs, init=cut, tol=1e-12)
    assert rest.result.ok
    assert torch.allclose(rest.marginals, whole.marginals, atol=1e-4)
    # From the reference's solution, and for other scores.
    moved = sparsemap(factor, x + 0.01, pairs, init=_by("reference", factor, x, pairs), tol=1e-12)
    assert torch.allclose(moved.marginals, sparsemap(factor, x + 0.01, pairs, tol=1e-12).marginals, atol=1e-5)
    # Drawn from the generator: the same structures as the reference's.
    random, other = (
        _by(backend, factor, x, pairs, init="random", max_iter=1, generator=torch.Generator().manual_seed(3))
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
    x, pairs = _draw(factor, 10, 0.3)
    one = sparsemap(factor, x, pairs, max_iter=1)
    assert bool((one.iterations == 1).all())
    assert bool((one.mask.sum(-1) == 1).all())
    assert torch.equal(one.result.codes == Outcome.SUCCESS, one.gap <= 1e-9 * factor.spread)
    for tol in (0.0, 1e-13, 1e-3, 10.0):
        found = sparsemap(factor, x, pairs, tol=tol)
        assert found.result.ok, (tol, str(found.result))
        assert bool((found.gap <= tol + 1e-12).all())
        assert bool((found.iterations < 200).all())
        _whole(found)


def test_a_kernel_that_goes_on_for_long_stays_exact() -> None:
    """Hundreds of updates of the inverse; scores that differ by ten orders of magnitude."""
    x = torch.randn(3, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for scores in (0.3 * x, 0.3 * x + 1e9 * (torch.arange(300) % 50 == 0), 0.5 * x.sign() * x.abs().pow(4)):
        found = sparsemap(Bits(300), scores, tol=1e-12, init="random", generator=torch.Generator().manual_seed(1))
        assert found.result.ok, str(found.result)
        assert torch.allclose(found.marginals, scores.clamp(0, 1), atol=2e-6)
        _whole(found)
    # Nothing but noise is left to ask for.
    found = sparsemap(Bits(300), 0.3 * x, tol=0.0)
    assert int(found.iterations.max()) < 1000
    assert bool((found.gap <= 1e-11).all())
    for factor in (Matching(6), DependencyTree(6), Sequence(8, 3)):
        scores, pairs = _draw(factor, 4, 1.0)
        scores.view(4, -1)[:, ::7] *= 1e6
        found = sparsemap(factor, scores, pairs)
        assert found.result.ok
        _close([found.marginals], [_by("reference", factor, scores, pairs).marginals], 1e-4)


@larger
def test_results_do_not_depend_on_threads_or_neighbours(factor: Factor) -> None:
    batch = 2 if isinstance(factor, DependencyTree) else 9
    given, before = _draw(factor, batch, 0.5), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(_gradients(None, factor, given))
    finally:
        torch.set_num_threads(before)
    _close(results[0], results[1], 0.0)
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
    both = [_by(backend, factor, x.detach(), shared).marginals for backend in (None, "reference")]
    _close(both[:1], both[1:], 1e-5)


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


@pytest.mark.full
@pytest.mark.parametrize("seed", range(25))
def test_ten_thousand_small_problems(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for factor in SMALL[:-1]:
        for scale in (0.1, 1.0, "whole", 10.0 ** float(torch.rand((), generator=generator) * 4 - 2), "thirds"):
            given = _draw(factor, 5, scale, int(torch.randint(10**6, (), generator=generator)))
            if isinstance(scale, float):
                got, expected = (_gradients(backend, factor, given, tol=1e-13) for backend in (None, "reference"))
                _close(got, expected, 1e-6)
            else:
                _close(
                    *([_by(backend, factor, *given, tol=1e-13).marginals] for backend in (None, "reference")), atol=1e-7
                )
