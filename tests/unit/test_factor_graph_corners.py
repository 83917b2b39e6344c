"""Factor graphs where they are easily wrong: nothing to do, nothing possible, masks, ties, devices of the API."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tsallis.core.errors import ParameterError, ShapeError
from tsallis.core.status import Outcome
from tsallis.structured import (
    AtMostOne,
    Bits,
    Budget,
    DependencyTree,
    FactorGraph,
    Imply,
    Matching,
    Or,
    Pair,
    Sequence,
    Simplex,
    sparsemap,
)  # fmt: skip


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _grid(n: int = 4) -> tuple[FactorGraph, Any]:
    graph = FactorGraph()
    u = graph.variables((n, n))
    graph.add(Simplex(n), u)
    graph.add(Simplex(n), u.mT)
    return graph, u


def test_without_factors_scores_are_clamped() -> None:
    graph = FactorGraph()
    u, one = graph.variables(3), graph.variables(())
    x, y = torch.tensor([[-1.0, 0.25, 2.0]], requires_grad=True), torch.tensor([0.5], requires_grad=True)
    found = graph.solve(x, y)
    assert found[u].tolist() == [[0, 0.25, 1]]
    assert found[one].tolist() == [0.5]
    assert found[~one].tolist() == [0.5]
    (3 * found.marginals.sum()).backward()
    assert x.grad is not None and x.grad.tolist() == [[0, 3, 0]]  # noqa: PT018
    assert y.grad is not None and y.grad.tolist() == [3]  # noqa: PT018
    best = graph.solve_map(x, y)
    assert best.marginals.tolist() == [[0, 1, 1, 1]]
    assert bool(best.integral.all())
    # As those that no factor is attached to, beside some that are.
    graph, v = _grid()
    rest = graph.variables(3)
    z = _normal(2, 4, 4)
    assert torch.equal(graph.solve(z, x.double().expand(2, -1))[rest], x.double().clamp(0, 1).expand(2, -1))
    assert graph.solve(z, _normal(2, 3))[v].shape == (2, 4, 4)


@pytest.mark.parametrize("batch", [0, 1])
def test_batches_of_none(batch: int) -> None:
    graph = FactorGraph()
    u = graph.variables((3, 2))
    chain = graph.add(Sequence(3, 2), u)
    graph.add(Budget(3, 1), u[:, 0])
    graph.add(Or(3), ~u[:, 1])
    pair = graph.add(Pair(), u[0, 0], u[2, 1])
    x = _normal(batch, 3, 2).requires_grad_()
    for found in (graph.solve(x), graph.solve_map(x)):
        assert found[u].shape == (batch, 3, 2)
        assert found.pairs(chain).shape == (batch, 8)
        assert found.pairs(pair).shape == (batch, 1)
        assert found.result.ok
    graph.solve(x).marginals.sum().backward()


def test_no_variables() -> None:
    graph = FactorGraph()
    u = graph.variables((0, 4))
    assert graph.solve(torch.zeros(2, 0, 4))[u].shape == (2, 0, 4)


def test_bad_items_stay_alone() -> None:
    graph, u = _grid(3)
    chain = graph.add(Sequence(3, 3), u)
    x, steps = _normal(6, 3, 3), _normal(6, 2, 3, 3, seed=1)
    good = graph.solve(x, additional={chain: steps})
    assert good.result.ok
    x[1, 0, 0], x[2, 1, 1], steps[3, 0, 0, 0], steps[4] = torch.nan, torch.inf, torch.nan, -torch.inf
    x.requires_grad_()
    found = graph.solve(x, additional={chain: steps})
    codes = [Outcome(code) for code in found.result.codes.tolist()]
    assert codes == [
        Outcome.SUCCESS, Outcome.NAN_SCORE, Outcome.INFINITE_SCORE, Outcome.NAN_SCORE, Outcome.INFEASIBLE,
        Outcome.SUCCESS,
    ]  # fmt: skip
    bad = [1, 2, 3, 4]
    assert bool(found[u][bad].isnan().all())
    assert bool(found.pairs(chain)[bad].isnan().all())
    assert bool(found.primal_residual[bad].isnan().all())
    assert torch.equal(found[u][[0, 5]], good[u][[0, 5]])
    found[u][[0, 5]].square().sum().backward()
    assert x.grad is not None
    assert bool(x.grad[[0, 5]].isfinite().all())
    assert bool(x.grad[[0, 5]].any())


def test_variables_that_are_ruled_out() -> None:
    """As in a problem without them; by any number so low, too."""
    graph, u = _grid()
    x = _normal(16, 4, 4)
    out = torch.rand(16, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.25
    out &= ~torch.eye(4, dtype=torch.bool)
    for low in (-torch.inf, -1e6):
        given = x.masked_fill(out, low).requires_grad_()
        found, exact = graph.solve(given), sparsemap(Matching(4), given, tol=1e-14)
        assert found.result.ok
        assert bool((found[u][out] == 0).all())
        assert torch.allclose(found[u], exact.marginals, atol=1e-5)
        (slope,) = torch.autograd.grad((found[u] * x).sum(), given)
        assert float(slope[out].abs().max()) < (1e-14 if low > -torch.inf else 1e-300)
        assert bool(slope.any())
        assert torch.allclose(slope, torch.autograd.grad((exact.marginals * x).sum(), given)[0], atol=1e-6)
    # Negated ones are on: here the others cannot be.
    graph = FactorGraph()
    u = graph.variables(3)
    graph.add(Simplex(3), ~u[0], u[1], u[2])
    graph.add(AtMostOne(2), u[1:])
    found = graph.solve(torch.tensor([[-torch.inf, 3.0, 3.0], [0.6, 3.0, 3.0]]))
    assert found.result.ok
    assert found[u].tolist()[0] == [0, 0, 0]
    assert torch.allclose(found[u][1], torch.tensor([1, 0.5, 0.5]), atol=1e-5)


def test_what_is_impossible_says_so() -> None:
    # A lone factor proves it.
    graph = FactorGraph()
    u = graph.variables(3)
    graph.add(Simplex(3), u)
    assert graph.solve(torch.full((1, 3), -torch.inf)).result.outcomes() == {Outcome.INFEASIBLE: 1}
    assert graph.solve(torch.tensor([[-torch.inf, 0, -9.0]]))[u].tolist() == [[0, 1, 0]]
    # Several end at the limit.
    graph.add(Simplex(2), u[:2])
    graph.add(Simplex(1), u[2])
    for method in (graph.solve, graph.solve_map):
        found = method(torch.zeros(2, 3), max_iter=50)
        assert found.result.outcomes() == {Outcome.NOT_CONVERGED: 2}
        assert bool((found.iterations == 50).all())
        assert bool((found.primal_residual > 0.01).all())
        assert not bool(found.integral.any())


@pytest.mark.parametrize("scale", [1e-8, 1e4, 1e8])
def test_scores_of_any_size(scale: float) -> None:
    graph, u = _grid()
    x = scale * _normal(8, 4, 4)
    found, exact = graph.solve(x), sparsemap(Matching(4), x)
    good = found.result.codes == Outcome.SUCCESS
    assert float(good.double().mean()) > 0.9
    assert torch.allclose(found[u][good], exact.marginals[good], atol=1e-5)


def test_ties_keep_their_symmetry() -> None:
    graph, u = _grid(5)
    found = graph.solve(torch.zeros(1, 5, 5, requires_grad=True))
    assert torch.allclose(found[u], torch.full((1, 5, 5), 0.2))
    # Of ties the relaxation has the middle.
    assert not bool(graph.solve_map(torch.zeros(1, 5, 5)).integral.any())


def test_several_sets_of_variables_and_stacks_of_factors() -> None:
    """Rows of a tensor at once as one after the other; parts of several tensors in one factor."""
    x, y = _normal(3, 4, 5), _normal(3, 4, seed=1)
    results = []
    for together in (True, False):
        graph = FactorGraph()
        u, v = graph.variables((4, 5)), graph.variables(4)
        if together:
            graph.add(Simplex(5), u)
        else:
            for row in u:
                graph.add(Simplex(5), row)
        graph.add(Imply(3), u[0, 1], ~u[1, 1], v[2])
        graph.add(Or(8), u[:, 0], v)
        found = graph.solve(x, y)
        results.append(torch.cat([found[u].flatten(1), found[v]], 1))
        assert torch.equal(found[u[1:, 2]], found[u][:, 1:, 2])
        assert torch.equal(found[~v], 1 - found[v])
    assert torch.allclose(results[0], results[1], atol=1e-9)


def test_scores_of_pairs_by_leading_dimensions() -> None:
    """Two sentences that share a tag at the end: stacked or one by one, given when added or when solved."""
    x, steps = _normal(3, 2, 4, 2), _normal(3, 2, 3, 2, 2, seed=1)
    graph = FactorGraph()
    u = graph.variables((2, 4, 2))
    both = graph.add(Sequence(4, 2), u)
    graph.add(AtMostOne(2), u[:, 3, 0])
    found = graph.solve(x, additional={both: steps})
    other = FactorGraph()
    v = other.variables(x)
    first, second = (other.add(Sequence(4, 2), v[i], additional=steps[:, i]) for i in (0, 1))
    other.add(AtMostOne(2), v[:, 3, 0])
    same = other.solve()
    assert torch.allclose(found[u], same[v], atol=1e-9)
    assert found.pairs(both).shape == (3, 2, 12)
    assert torch.allclose(found.pairs(both)[:, 1], same.pairs(second), atol=1e-9)
    assert torch.equal(other.solve(x, additional={first: 0 * steps[:, 0]})[v], other.solve(
        None, additional={first: 0 * steps[:, 0], second: steps[:, 1]})[v])  # fmt: skip
    shared = graph.solve(x, additional={both: steps[0, 0, 0]})
    assert torch.allclose(shared[u], graph.solve(x, additional={both: steps[0, 0, 0].expand_as(steps)})[u])


def test_trees_leave_words_out_of_their_own_heads() -> None:
    graph = FactorGraph()
    arcs = graph.variables((4, 3))
    graph.add(DependencyTree(3), arcs)
    graph.add(Budget(3, 1), arcs[1])
    x = _normal(4, 4, 3) + 5 * torch.eye(3).double()[[0, 0, 1, 2]]
    found = graph.solve(x)
    assert found.result.ok
    assert not bool(found[arcs][:, [1, 2, 3], [0, 1, 2]].any())
    assert torch.allclose(found[arcs].sum(1), torch.ones(4, 3).double(), atol=1e-6)


def test_structures_of_each_item_are_its_own() -> None:
    """Items end at different times, and differ in what is ruled out: as each alone."""
    graph = FactorGraph()
    u = graph.variables((4, 3))
    chain = graph.add(Sequence(4, 3), u)
    graph.add(Budget(4, 1), u[:, 0])
    x, steps = _normal(8, 4, 3), _normal(8, 3, 3, 3, seed=1)
    # The last state stays possible everywhere.
    x[..., :2] = x[..., :2].masked_fill(_normal(8, 4, 2, seed=2) > 0.3, -torch.inf)
    found = graph.solve(x, additional={chain: steps})
    assert found.result.ok
    assert len(found.iterations.unique()) > 2
    assert not bool(found[u][x == -torch.inf].any())
    for i in range(8):
        alone = graph.solve(x[i : i + 1], additional={chain: steps[i : i + 1]})
        assert torch.allclose(alone[u][0], found[u][i], atol=1e-9)
        assert torch.allclose(alone.pairs(chain)[0], found.pairs(chain)[i], atol=1e-9)


def test_factors_of_ones_own() -> None:
    """Whose kind is not known: by their best structures, with the derivatives they declare."""

    class Coins(Bits):
        pass

    class Few(Budget):
        pass

    x = _normal(4, 6).requires_grad_()
    results, slopes = [], []
    for bits, few in ((Coins, Few), (Bits, Budget)):
        graph = FactorGraph()
        u = graph.variables(6)
        graph.add(bits(6), u)
        graph.add(few(4, 1), u[:4])
        graph.add(few(4, 2), u[2:])
        found = graph.solve(x, tol=1e-9)
        assert found.result.ok
        results.append(found[u])
        slopes.append(torch.autograd.grad((found[u] * torch.arange(6)).sum(), x)[0])
    assert torch.allclose(results[0], results[1], atol=1e-6)
    assert torch.allclose(slopes[0], slopes[1], atol=1e-6)
    assert bool(slopes[1].any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_dtypes(dtype: torch.dtype) -> None:
    graph, u = _grid(3)
    x = (2 * _normal(2, 3, 3)).to(dtype)
    found = graph.solve(x)
    assert found[u].dtype == (torch.float32 if dtype == torch.int64 else dtype)
    assert found.primal_residual.dtype == torch.float64
    assert torch.allclose(found[u].double(), graph.solve(x.double())[u], atol=5e-3)


def test_modes_of_torch() -> None:
    """Inference mode leaves nothing behind that gradients cannot use."""
    x = _normal(2, 3, 3)
    with torch.inference_mode():
        graph, u = _grid(3)
        inferred = graph.solve(x.clone())[u]
    leaf = x.clone().requires_grad_()
    found = graph.solve(leaf)
    assert torch.equal(inferred, found[u])
    found[u].square().sum().backward()
    with torch.no_grad():
        assert not graph.solve(leaf)[u].requires_grad


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda g, u: g.variables((2, -1)), ShapeError, "whole numbers"),
        (lambda g, u: g.variables(torch.tensor(1.0)), ShapeError, "batch"),
        (lambda g, u: g.add(Simplex(3), u), ShapeError, r"3 altogether, or \(..., 3\)"),
        (lambda g, u: g.add(Simplex(3)), ParameterError, "variables of this graph"),
        (lambda g, u: g.add(Simplex(4), FactorGraph().variables(4)), ParameterError, "variables of this graph"),
        (lambda g, u: g.add(Bits(4, "onoff"), u[0]), ParameterError, "geometry"),
        (lambda g, u: g.add(Bits, u[0]), ParameterError, "a factor"),
        (lambda g, u: g.solve(), ShapeError, "no scores for variables 0"),
        (lambda g, u: g.solve(torch.zeros(2, 4, 3)), ShapeError, r"\(B, 4, 4\)"),
        (lambda g, u: g.solve(torch.zeros(2, 4, 4), torch.zeros(2)), ShapeError, "one of each"),
        (lambda g, u: g.solve([[0.0]]), ShapeError, "torch.Tensor"),
        (lambda g, u: FactorGraph().solve(), ShapeError, "variables"),
        (lambda g, u: g.solve(torch.zeros(2, 4, 4), tol=0.0), ParameterError, "tol"),
        (lambda g, u: g.solve(torch.zeros(2, 4, 4), max_iter=0), ParameterError, "max_iter"),
        (lambda g, u: g.solve(torch.zeros(2, 4, 4), step_size=-1), ParameterError, "step_size"),
        (lambda g, u: g.solve(torch.zeros(2, 4, 4), init=_grid()[0].solve(torch.zeros(2, 4, 4))), ParameterError,
         "another graph"),
        (lambda g, u: g.solve(torch.zeros(2, 4, 4), init=g.solve(torch.zeros(3, 4, 4))), ParameterError, "2 items"),
        (lambda g, u: g.solve(torch.zeros(2, 4, 4), additional={_grid()[0].add(Pair(), *u[0, :2]): 0}), ParameterError,
         "this graph"),
        (lambda g, u: g.solve(torch.zeros(2, 4, 4))[FactorGraph().variables(2)], ParameterError, "another graph"),
        (lambda g, u: _grid()[0].solve(torch.zeros(2, 4, 4)).pairs(g.add(Pair(), *u[0, :2])), ParameterError,
         "another graph"),
        (lambda g, u: g.solve(torch.zeros(2, 4, 4), additional={g.add(Simplex(4), u[0]): torch.zeros(2)}), ShapeError,
         "none"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make(*_grid())


def test_scores_of_pairs_are_checked() -> None:
    graph, u = _grid(3)
    chain = graph.add(Sequence(3, 3), u)
    for wrong in (torch.zeros(2, 3, 3, 3), torch.zeros(3, 2, 3, 3), torch.zeros(2, 2)):
        with pytest.raises(ShapeError, match="transitions"):
            graph.solve(torch.zeros(2, 3, 3), additional={chain: wrong})
    other = FactorGraph()
    with pytest.raises(ParameterError, match="of this graph"):
        graph.solve(torch.zeros(2, 3, 3), additional={other.add(Pair(), other.variables(2)): torch.zeros(2)})
