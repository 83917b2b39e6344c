"""Exact marginalization over categories, at the price of the support."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.domains import Simplex, SparseSimplex
from ..core.errors import ParameterError, ShapeError
from ..core.guard import debugging
from ..core.inputs import check_tensor, is_integer
from ..core.mapping import Mapping
from ..core.numerics import shares
from ..core.registry import get
from .estimators import Estimate, Estimator, Problem
from .latents import Table, matrix
from .packing import name_bad_rows, support_pairs


@dataclass(frozen=True, eq=False)
class Marginal(Estimator):
    r"""Exact marginalization: $\sum_z p_z\, \ell(z)$, evaluated where $p_z > 0$ only.

    Args:
        mapping: registered name of a mapping onto the simplex; ``"softmax"`` sums over all K values.
        params: its parameters, as in its function; tensors get gradients.
        frontier: at most so many rows in a call, the most probable ones of the batch, but at least one of each example;
            what is left of p is scaled to sum to one. `Expectation.exact` says where nothing was left out. Within a
            loss_fn it holds for each call of that: with an outer max_rows, for each of its ceil(R/max_rows) chunks.
        importance: (B,) how much each example counts in that choice: in a hierarchy, the probability of the branch.

    References:
        correia2020efficient
    """

    mapping: str | Mapping = "sparsemax"
    params: dict[str, Any] = field(default_factory=dict)
    frontier: int | None = None
    importance: Tensor | None = None

    def __post_init__(self) -> None:
        found = get(self.mapping)
        if not isinstance(found.domain, Simplex | SparseSimplex):
            raise ParameterError(
                f"Estimator {found.name!r}", "a mapping onto the simplex", "Use 'softmax', 'sparsemax', 'entmax15', ..."
            )
        if self.frontier is not None and (not is_integer(self.frontier) or self.frontier < 1):
            raise ParameterError(f"frontier={self.frontier!r}", "a whole number, 1 at least, or None", "Choose one")
        if self.importance is not None and self.frontier is None:
            raise ParameterError("importance without frontier", "both: it counts in that choice", "Set frontier")

    def estimate(self, scores: Tensor, problem: Problem) -> Estimate:
        if problem.generator is not None:
            raise ParameterError(
                "generator with exact marginalization", "none: nothing is sampled", "Leave generator out, or sample"
            )
        mapping, exact = get(self.mapping), None
        if isinstance(mapping.domain, SparseSimplex):
            solution = mapping.solution(matrix(scores), **self.params)
            p, exact = solution.p, solution.exact
        else:
            p = mapping(matrix(scores), **self.params)
        if problem.table_fn is not None:
            loss = self._table(p, problem)
        else:
            if self.frontier is not None and p.shape[1]:
                p, whole = self._most_probable(p, self.frontier)
                exact = whole if exact is None else exact & whole
            index, z = support_pairs(p)
            loss = problem.expected(index, z, p[index, z], len(p))
        return Estimate(loss, loss, Table(p), exact)

    def _most_probable(self, p: Tensor, frontier: int) -> tuple[Tensor, Tensor]:
        """p on the frontier, and whether that is all of it, (B,)."""
        positive = p.detach() > 0
        ranked = p.detach()
        if self.importance is not None:
            importance = check_tensor(self.importance, "importance").detach()
            if importance.shape != p.shape[:1]:
                raise ShapeError(
                    f"importance of shape {tuple(importance.shape)} for {len(p)} examples", "one each", "Reshape it"
                )
            # Finite: nothing comes before the best of each example.
            ranked = (ranked * importance[:, None]).nan_to_num()
        # The best of each example come first, whatever their rank; then what has probability, by that.
        first = torch.zeros_like(positive).scatter_(-1, p.detach().argmax(-1, keepdim=True), True) & positive
        order = torch.where(first, torch.inf, torch.where(positive, ranked, -torch.inf)).flatten()
        room = max(frontier, int(first.sum()))
        kept = torch.zeros_like(order, dtype=torch.bool)
        kept[order.topk(min(room, len(order))).indices] = True
        kept = kept.reshape(p.shape) & positive
        whole = (kept == positive).all(-1)
        # NaN is not positive, and has to stay.
        return torch.where(whole[:, None], p, shares(torch.where(kept, p, 0.0))), whole

    def _table(self, p: Tensor, problem: Problem) -> Tensor:
        if get(self.mapping).name != "softmax" or self.frontier is not None:
            problem.refuse_table(repr(get(self.mapping).name))
        assert problem.table_fn is not None
        table = check_tensor(problem.table_fn(), "The result of table_fn")
        if table.shape != p.shape:
            raise ShapeError(
                f"table_fn returned shape {tuple(table.shape)}", f"{tuple(p.shape)}, one loss per value", "Reshape it"
            )
        problem.rows += table.numel()
        problem.calls += 1
        if debugging(table):
            index, z = support_pairs(p)
            name_bad_rows(table[index, z], index, z, len(p), "table_fn")
        return (p * torch.where((p == 0) & ~table.isfinite(), 0.0, table)).sum(-1)
