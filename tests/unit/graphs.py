"""Random factor graphs, and what certifies a solution of one without the solver: linear programmes over structures."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linprog, nnls
from torch import Tensor

from tsallis.core.inputs import check_tensor
from tsallis.structured import (
    AndOut,
    AtMostOne,
    Attached,
    Bits,
    Budget,
    Factor,
    FactorGraph,
    GraphSolution,
    Imply,
    Matching,
    Or,
    OrOut,
    Pair,
    Sequence,
    Simplex,
    Variables,
    XorOut,
    active_set,
)  # fmt: skip
from tsallis.structured.factor import Scores

LOGIC = ("simplex", "most", "or", "xor", "or out", "and", "imply", "pair", "budget", "exact", "bits")
STRUCTURES = ("sequence", "matching")


def factor_of(kind: str, n: int) -> Factor:
    match kind:
        case "simplex":
            return Simplex(n)
        case "most":
            return AtMostOne(n)
        case "or":
            return Or(n)
        case "xor":
            return XorOut(n)
        case "or out":
            return OrOut(n)
        case "and":
            return AndOut(n)
        case "imply":
            return Imply(n)
        case "pair":
            return Pair()
        case "budget":
            return Budget(n, max(1, n // 2))
        case "exact":
            return Budget(n, n // 2, exact=True)
        case "bits":
            return Bits(n)
        case "sequence":
            return Sequence(2, 2)
        case _:
            return Matching(2)


class RandomGraph:
    """Factors of random kinds on random variables, some negated; with scores of pairs for a batch."""

    def __init__(self, seed: int, variables: int = 10, factors: int = 6, kinds: tuple[str, ...] = LOGIC) -> None:
        self.draws = torch.Generator().manual_seed(seed)
        self.graph = FactorGraph()
        self.u: Variables = self.graph.variables(variables)
        self.factors: list[tuple[Factor, Variables, Attached]] = []
        for _ in range(factors):
            self.attach(factor_of(kinds[self._whole(0, len(kinds))], self._whole(2, 6)), self._some)

    def _whole(self, low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=self.draws))

    def _some(self, count: int) -> Variables:
        return self.u[torch.randperm(len(self.u), generator=self.draws)[:count]]

    def attach(self, factor: Factor, choose: object) -> None:
        v = choose(factor.variables) if callable(choose) else choose
        if self._whole(0, 4) == 0:
            v = Variables(v.graph, v.index, torch.rand(len(v), generator=self.draws) < 0.5)
        self.factors.append((factor, v, self.graph.add(factor, v)))

    def scores(self, batch: int, scale: float = 1.0) -> tuple[Tensor, dict[Attached, Tensor]]:
        x = scale * torch.randn(batch, len(self.u), generator=self.draws, dtype=torch.float64)
        return x, {
            attached: scale * shaped(factor, torch.randn(batch, factor.additional, generator=self.draws).double())
            for factor, _, attached in self.factors if factor.additional
        }  # fmt: skip


def shaped(factor: Factor, y: Tensor) -> Tensor:
    if isinstance(factor, Sequence):
        return y.view(len(y), factor.length - 1, factor.states, factor.states)
    return y


def assignments(made: RandomGraph) -> Tensor:
    """(S, n) all assignments that every factor allows, by enumeration."""
    n = len(made.u)
    every = (torch.arange(2**n)[:, None] >> torch.arange(n) & 1).double()
    for factor, v, _ in made.factors:
        own = (every[:, v.index] - v.negated.double()).abs()
        every = every[(own[:, None] == factor.enumerate()[None]).all(-1).any(-1)]
    return every


def all_pairs(made: RandomGraph, bits: Tensor) -> list[Tensor]:
    """(S, e) pairs that follow from assignments, of each factor that has some."""
    own = [(factor, (bits[:, v.index] - v.negated.double()).abs()) for factor, v, _ in made.factors]
    return [factor.pairs(of) for factor, of in own if factor.additional]


def _polytope(made: RandomGraph) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Equations of the local polytope in variables and weights of factors' structures, which are nonnegative."""
    n, structures = len(made.u), [factor.enumerate_all().numpy() for factor, _, _ in made.factors]
    columns = n + sum(map(len, structures))
    rows, right, first = [], [], n
    for (_, v, _), own in zip(made.factors, structures, strict=True):
        total = np.zeros(columns)
        total[first : first + len(own)] = 1
        rows.append(total)
        right.append(1.0)
        for j, (i, off) in enumerate(zip(v.index.tolist(), v.negated.tolist(), strict=True)):
            row = np.zeros(columns)
            row[i] = -1 if not off else 1
            row[first : first + len(own)] += own[:, j]
            rows.append(row)
            right.append(1.0 if off else 0.0)
        first += len(own)
    return np.array(rows), np.array(right), structures


def best_value(made: RandomGraph, slope: Tensor, additional: dict[Attached, Tensor], item: int) -> float:
    """The largest score over the local polytope; NaN where that is empty."""
    a, b, structures = _polytope(made)
    parts = [slope[item].numpy()]
    for (factor, _, attached), own in zip(made.factors, structures, strict=True):
        y = additional[attached][item].flatten().numpy() if factor.additional else np.zeros(0)
        parts.append(own[:, factor.variables :] @ y)
    exact = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    found = linprog(-np.concatenate(parts), A_eq=a, b_eq=b, bounds=(0, 1), options=exact)
    return -found.fun if found.status == 0 else float("nan")


def gap(made: RandomGraph, found: GraphSolution, x: Tensor, additional: dict[Attached, Tensor], item: int) -> float:
    """How much better than the solution any point of the local polytope can be at most, to first order."""
    mu = found[made.u].detach()
    value = float(((x - mu) * mu)[item].sum())
    for factor, _, attached in made.factors:
        if factor.additional:
            value += float((found.pairs(attached)[item].detach() * additional[attached][item].flatten()).sum())
    return best_value(made, x - mu, additional, item) - value


def outside(made: RandomGraph, found: GraphSolution, item: int) -> float:
    """How far marginals are from the polytope of some factor, at most."""
    worst = 0.0
    for factor, v, attached in made.factors:
        own = factor.enumerate_all().numpy()
        point = torch.cat([found[v][item], found.pairs(attached)[item]]).detach().numpy()
        a = np.concatenate([own.T, np.ones((1, len(own)))])
        worst = max(worst, nnls(a, np.append(point, 1.0))[1])
    return worst


def random_tree(
    seed: int, factors: int = 5, kinds: tuple[str, ...] = LOGIC + STRUCTURES, most: int = 12
) -> RandomGraph:
    """Factors that share one variable with what was there before, at most, so without cycles."""
    made = RandomGraph(seed, most, 0, kinds)
    used = 1
    for _ in range(factors):
        factor = factor_of(kinds[made._whole(0, len(kinds))], made._whole(2, 5))
        if used + factor.variables - 1 > most:
            continue
        order = torch.randperm(factor.variables, generator=made.draws)
        index = torch.cat([torch.randint(used, (1,), generator=made.draws), torch.arange(used, used + len(order) - 1)])
        made.attach(factor, made.u[index[order]])
        used += factor.variables - 1
    return made


class Joint(Factor):
    """Assignments of a whole graph as one factor: what trees of factors are compared with."""

    def __init__(self, made: RandomGraph) -> None:
        bits = assignments(made)
        self.every = torch.cat([bits, *all_pairs(made, bits)], 1)
        self.variables, self.natural = len(made.u), (len(made.u),)
        self.additional = self.every.shape[1] - self.variables

    def best(self, scores: Scores) -> Tensor:
        x = torch.cat([scores.unary, scores.additional], 1)
        return self.every[active_set.values(self.every[None], x).argmax(1)]

    def enumerate_all(self) -> Tensor:
        return self.every

    def _pairs(self, x: Tensor, more: object) -> Tensor:
        return x.new_zeros(len(x), 0, dtype=torch.float64) if more is None else check_tensor(more, "additional")
