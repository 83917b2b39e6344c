"""Factor graphs with scores, tolerances and starts that are far from what is usual."""

from __future__ import annotations

import pytest
import torch

from tsallis.core.status import Outcome
from tsallis.structured import AtMostOne, FactorGraph, Pair, Sequence, Simplex


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
        few = 2 if shared else 3
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
