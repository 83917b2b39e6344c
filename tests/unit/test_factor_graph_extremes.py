"""Factor graphs with scores, tolerances and starts that are far from what is usual."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from tsallis.core.errors import ParameterError, ShapeError
from tsallis.core.status import Outcome
from tsallis.structured import AtMostOne, FactorGraph, Matching, Pair, Sequence, Simplex, sparsemap


def _grid(n: int = 4) -> tuple[FactorGraph, Any]:
    graph = FactorGraph()
    u = graph.variables((n, n))
    graph.add(Simplex(n), u)
    graph.add(Simplex(n), u.mT)
    return graph, u


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_variables_are_ruled_out_whatever_pairs_are_in_favour_of() -> None:
    """Alone and beside another factor, plain and negated, for marginals and for the best assignment."""
    for shared in (False, True):
        graph = FactorGraph()
        u, rest = graph.variables((2, 2)), graph.variables(1)
        pairs, chain = graph.add(Pair(), u), graph.add(Sequence(2, 2), ~(v := graph.variables((2, 2))))
        if shared:
            graph.add(AtMostOne(2), u[1, 1], rest)
            graph.add(AtMostOne(2), v[1, 1], rest)
        x = torch.tensor([[[-torch.inf, 0.3], [0.2, -torch.inf]]]).double().expand(3, -1, -1)
        z = torch.zeros(3, 2, 2).double()
        z[:, 0, 0] = -torch.inf
        size = torch.tensor([5.0, 1e3, 1e6]).double()
        against = size[:, None, None, None] * torch.tensor([[-1.0, -1.0], [0.0, 0.0]])
        more = {pairs: size[:, None].expand(-1, 2), chain: against}
        found = graph.solve(x, torch.full((3, 1), -1.0).double(), z, additional=more)
        assert found.result.ok
        expected = torch.tensor([[0.0, 0.3], [0.2, 0.0]]).double().expand(3, -1, -1)
        assert torch.allclose(found[u], expected, atol=1e-5)
        assert torch.allclose(found[v], torch.tensor([[0, 1], [0.5, 0.5]]).double().expand(3, -1, -1), atol=1e-5)
        # Here scores count by their share of the largest.
        few = 1 if shared else 3
        more = {place: y[:few] for place, y in more.items()}
        best = graph.solve_map(x[:few], torch.full((few, 1), -1.0).double(), z[:few], additional=more)
        assert best.result.ok
        assert torch.equal(best[u], expected.ceil()[:few])
        assert torch.allclose(best[v][:, 0], torch.tensor([0.0, 1.0]).double(), atol=1e-5)
    # A pair that has to be on, and is ruled out.
    graph = FactorGraph()
    u = graph.variables(2)
    both = graph.add(Pair(), ~u)
    never = {both: torch.tensor([-torch.inf])}
    for method in (graph.solve, graph.solve_map):
        assert method(torch.full((1, 2), -torch.inf), additional=never).result.outcomes() == {Outcome.INFEASIBLE: 1}


@pytest.mark.parametrize("tol", [1e-6, 0.1, 1.0, 1e6])
def test_what_is_impossible_says_so_at_any_tolerance(tol: float) -> None:
    graph = FactorGraph()
    u = graph.variables((2, 2))
    graph.add(Simplex(2), u)
    x = torch.zeros(2, 2, 2)
    x[1, 0] = -torch.inf
    for method in (graph.solve, graph.solve_map):
        assert method(x, tol=tol).result.codes.tolist() == [Outcome.SUCCESS, Outcome.INFEASIBLE]


@pytest.mark.parametrize("low", [-torch.inf, -1e3, -1e6, -3.4e38, -1e300])
def test_masks_may_be_most_of_the_scores(low: float) -> None:
    """And of any size: the marginals and the best assignment are those without what is masked."""
    graph, u = _grid(6)
    x = _normal(20, 6, 6)
    ring = torch.eye(6) + torch.eye(6).roll(1, 1)
    given = x.masked_fill(ring == 0, low)
    found, exact = graph.solve(given), sparsemap(Matching(6), x.masked_fill(ring == 0, -torch.inf), tol=1e-14)
    assert found.result.ok
    assert int(found.iterations.max()) <= 60
    assert torch.allclose(found[u], exact.marginals, atol=1e-5)
    best = graph.solve_map(given)
    assert best.result.ok
    assert bool(best.integral.all())
    # Of two cycles.
    one, other = torch.eye(6), torch.eye(6).roll(1, 1)
    better = ((x * one).sum((1, 2)) > (x * other).sum((1, 2)))[:, None, None]
    assert torch.equal(best[u], torch.where(better, one, other).double())


def test_masks_that_cannot_be_kept_are_not_certified() -> None:
    """One of two variables has to be on; which, is lost beside a score that is as low."""
    graph = FactorGraph()
    u = graph.variables(3)
    graph.add(Simplex(2), u[:2])
    graph.add(AtMostOne(2), u[1:])
    x = torch.tensor([[-1e30, -3e30, 1.0], [0.0, -3e30, 1.0], [-1e6, -3e6, 1.0]]).double()
    found = graph.solve(x)
    assert found.result.codes.tolist() == [Outcome.NOT_CONVERGED, Outcome.SUCCESS, Outcome.SUCCESS]
    assert torch.allclose(found[u][1:], torch.tensor([1.0, 0, 1]).double(), atol=1e-5)


def test_integral_assignments_are_possible_at_any_tolerance() -> None:
    graph, u = _grid()
    seen = 0
    for tol in (0.1, 0.5):
        found = graph.solve_map(_normal(50, 4, 4), tol=tol)
        bits = found[u][found.integral]
        assert bool(((bits.sum(1) == 1) & (bits.sum(2) == 1)).all())
        seen += int((~found.integral).sum())
    assert seen


def test_starts_that_are_of_no_use() -> None:
    """Of other scores, of no finite numbers, of a problem without a solution: as without a start, item by item."""
    graph, _ = _grid()
    x = _normal(4, 4, 4)
    cold, fresh = graph.solve(x), graph.solve_map(x)
    impossible = x.clone()
    impossible[:, 0] = -torch.inf
    starts = [
        graph.solve(1e6 * x),
        graph.solve(x, step_size=1e308, max_iter=20),
        graph.solve(impossible),
        graph.solve(x.masked_fill(torch.eye(4).bool(), -1e30)),
    ]
    assert not bool(starts[1].point.u.isfinite().all())
    for start in starts:
        found = graph.solve(x, init=start)
        assert torch.equal(found.marginals, cold.marginals)
        assert torch.equal(found.iterations, cold.iterations)
        assert torch.equal(graph.solve_map(x, init=start).marginals, fresh.marginals)
    # The other way round: from multipliers that are next to nothing.
    large, warm = graph.solve(1e6 * x), graph.solve(1e6 * x, init=cold)
    assert torch.equal(large.marginals, warm.marginals)
    assert torch.equal(large.iterations, warm.iterations)
    # Where only one item has changed, the others go on.
    other = x.clone()
    other[2] *= 1e6
    mixed = graph.solve(x, init=graph.solve(other))
    assert mixed.result.ok
    assert torch.equal(mixed.marginals[2], cold.marginals[2])
    assert bool((mixed.iterations[[0, 1, 3]] < cold.iterations[[0, 1, 3]]).all())


@pytest.mark.parametrize("how", [copy.deepcopy, lambda whole: pickle.loads(pickle.dumps(whole))])
def test_copies_of_graphs_go_on(how: Any) -> None:
    graph, u = _grid()
    x = _normal(3, 4, 4)
    found = graph.solve(x)
    other, v, start = how((graph, u, found))
    assert torch.equal(start[v], found[u])
    assert bool((other.solve(x, init=start).iterations == 5).all())
    with pytest.raises(ParameterError, match="init of another graph"):
        graph.solve(x, init=start)


def test_gradients_outlive_solutions_on_other_devices() -> None:
    graph, u = _grid()
    x = _normal(2, 4, 4).requires_grad_()
    found = graph.solve(x)
    graph._layout(torch.device("meta"))
    (found[u] * _normal(2, 4, 4, seed=1)).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.any())
    assert graph.solve(x, init=found).result.ok


def test_no_factors_along_a_dimension_of_none() -> None:
    graph = FactorGraph()
    u = graph.variables((4, 2))
    x = _normal(3, 4, 2)
    none = graph.add(Pair(), u[:0])
    chains = graph.add(Sequence(4, 2), u[None][:0])
    graph.add(Simplex(2), u)
    for shared in (False, True):
        if shared:
            graph.add(Simplex(4), u[:, 0])
        for found in (graph.solve(x, additional={none: torch.zeros(3, 0)}), graph.solve_map(x)):
            assert found.result.ok
            assert found.pairs(none).shape == (3, 0, 1)
            assert found.pairs(chains).shape == (3, 0, 12)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda g, u, s: g.add(Sequence(4, 4), u, lengths=torch.tensor([2])), ParameterError, "graph for each length"),
        (lambda g, u, s: g.solve(s, lengths=torch.tensor([2])), ParameterError, "graph for each length"),
        (lambda g, u, s: g.solve_map(s, lengths=torch.tensor([2])), ParameterError, "graph for each length"),
        (lambda g, u, s: g.solve(s, additional=s), ParameterError, "additional of type Tensor"),
        (lambda g, u, s: g.add(Simplex(4), u, additional=s), ShapeError, "scores of pairs for Simplex"),
        (lambda g, u, s: g.add(Pair(), u[0, :2], additional=3.0), ShapeError, "torch.Tensor"),
        (lambda g, u, s: g.solve(s, additional={g.add(Pair(), u[:, :2]): s[0, :, 0].double()}), ShapeError,
         r"shape \(4,\) .*\(2, 4, \.\.\.\)"),
        (lambda g, u, s: g.solve(s, init=3), ParameterError, "init of type int"),
        (lambda g, u, s: g.solve(s, init=(g.solve(s), g.add(Pair(), u[0, :2]))[0]), ParameterError, "were added"),
        (lambda g, u, s: g.solve(s[:1], init=g.solve(s)), ParameterError, "init of 2 items"),
        (lambda g, u, s: g.solve(s)[g.variables(2)], ParameterError, "declared after"),
        (lambda g, u, s: g.solve(s)["u"], ParameterError, "variables of this graph"),
        (lambda g, u, s: g.solve(s).pairs(u), ParameterError, "what add"),
        (lambda g, u, s: g.solve(s).pairs(g.add(Pair(), u[0, :2])), ParameterError, "added after"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make(*_grid(), torch.zeros(2, 4, 4))
