"""Factor graphs: variables that several factors share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import ParameterError, ShapeError
from ..core.inputs import check_tensor, is_integer, is_number
from ..core.status import Outcome, Result
from . import admm
from .factor import Factor
from .graph_gradients import Moved, Tangent
from .stacks import Place, Structured
from .variables import Attached, Variables, bound


@dataclass(frozen=True)
class GraphSolution:
    """Marginals of a factor graph. `solution[v]` are those of variables v, or of any part of them.

    Attributes:
        marginals: (B, n) of all variables in the order of their declaration, differentiable.
        primal_residual: (B) root of the mean square of what factors and variables differ by.
        dual_residual: (B) the same of what is left of the conditions of optimality.
        iterations: (B), 0 where no variable is shared.
        integral: (B) whether all marginals are 0 or 1: then they are the best assignment too, for `solve_map`.
        result: what happened in each item.
        pairs_of: (B, F, e) of each stack of factors; see `pairs`.
        point: where it ended, for `init`.
        layout: of the graph.
    """

    marginals: Tensor
    primal_residual: Tensor
    dual_residual: Tensor
    iterations: Tensor
    integral: Tensor
    result: Result
    pairs_of: tuple[Tensor, ...]
    point: admm.Point
    layout: admm.Layout

    def __getitem__(self, variables: Variables) -> Tensor:
        """(B, *shape) marginals."""
        found = self.marginals[:, variables.index.to(self.marginals.device)]
        return torch.where(variables.negated.to(found.device), 1 - found, found)

    def pairs(self, attached: Attached) -> Tensor:
        """(B, *lead, e) marginals of the pairs of a factor, which `FactorGraph.add` returned."""
        s, i = self.layout.where[attached.number]
        rows = self.layout.stacks[s].rows
        first = sum(rows[:i])
        found = self.pairs_of[s][:, first : first + rows[i]]
        return found.reshape(len(found), *attached.lead, -1)


class FactorGraph:
    r"""Variables and the factors that share them, for batches of scores.

    `solve` is LP-SparseMAP: marginals of the variables that every factor can have, nearest to the scores,

    $$\max_{\mu, \nu} \; \langle x, \mu \rangle + \sum_f \langle y_f, \nu_f \rangle - \tfrac12 \|\mu\|^2
    \quad \text{with } (\mu_f, \nu_f) \in \mathcal M_f \text{ for all factors } f.$$

    Where factors form a tree, that is SparseMAP over what all of them allow; otherwise a relaxation of it.

    Example:
        >>> import torch
        >>> from tsallis.structured import AtMostOne, FactorGraph, Simplex
        >>> graph = FactorGraph()
        >>> u = graph.variables((2, 3))
        >>> rows = graph.add(Simplex(3), u)
        >>> columns = graph.add(AtMostOne(2), u.mT)
        >>> solution = graph.solve(torch.tensor([[[1.0, 0.0, 0.0], [1.0, 0.5, 0.0]]]))
        >>> solution[u]
        tensor([[[0.6667, 0.0000, 0.3333],
                 [0.3333, 0.5833, 0.0833]]])

    References:
        niculae2020lp, martins2015ad3
    """

    def __init__(self) -> None:
        self._count = 0
        self._blocks: list[tuple[torch.Size, Tensor | None]] = []
        self._places: list[Place] = []
        self._attached: list[tuple[Attached, Tensor | None]] = []
        self._layout: admm.Layout | None = None

    def variables(self, given: int | tuple[int, ...] | Tensor) -> Variables:
        """New binary variables.

        Args:
            given: their shape; or scores (B, *shape), which `solve` takes if it gets no others.

        Returns:
            the variables, to be indexed, attached to factors and looked up in solutions.

        Raises:
            ShapeError: what is no shape.
        """
        scores = None
        if isinstance(given, Tensor):
            scores = check_tensor(given, "scores")
            if scores.dim() < 1:
                raise ShapeError("scores of shape ()", "(B, *shape)", "Pass a batch, or a shape")
            shape = scores.shape[1:]
        else:
            sizes = given if isinstance(given, tuple | list) else (given,)
            if not all(is_integer(size) and size >= 0 for size in sizes):
                raise ShapeError(f"variables of shape {given!r}", "whole numbers", "Pass (4, 5), or scores")
            shape = torch.Size(sizes)
        first, self._count = self._count, self._count + math.prod(shape)
        self._blocks.append((shape, scores))
        self._layout = None
        index = torch.arange(first, self._count).reshape(shape)
        return Variables(self, index, torch.zeros(shape, dtype=torch.bool))

    def add(self, factor: Factor, *variables: Variables, additional: Tensor | None = None) -> Attached:
        """Attach a factor to variables of this graph.

        Args:
            factor: any, with geometry "on".
            variables: in the order of the factor's own, one after the other; or a single (..., *natural), for a factor
                at each place of the leading dimensions.
            additional: scores of the factor's pairs, which `solve` takes if it gets no others: as in `sparsemap`, with
                the leading dimensions after that of the batch.

        Returns:
            where to give such scores to `solve`, and to read pairs from a solution.

        Raises:
            ShapeError: variables that do not fit the factor.
            ParameterError: what is no factor, a factor of another geometry, or variables of another graph.
        """
        if not isinstance(factor, Factor) or factor.spread != 1 or factor.shift != 0:
            raise ParameterError(f"{factor!r}", 'a factor with geometry "on"', "Pass one, with scores (x + 1)/2")
        if not variables or not all(isinstance(v, Variables) and v.graph is self for v in variables):
            raise ParameterError(f"variables {variables!r}", "variables of this graph", "Declare them with variables()")
        flat, lead = bound(factor, variables)
        attached = Attached(factor, len(self._places), lead)
        self._places.append(Place(factor, flat.index, flat.negated))
        self._attached.append((attached, additional))
        self._layout = None
        return attached

    def solve(
        self,
        *scores: Tensor | None,
        additional: Mapping[Attached, Tensor] | None = None,
        max_iter: int = 1000,
        tol: float = 1e-6,
        step_size: float = 0.5,
        init: GraphSolution | None = None,
    ) -> GraphSolution:
        """LP-SparseMAP, by the alternating direction method of multipliers. Where no variable is shared, each factor is
        solved alone, exactly.

        Args:
            scores: (B, *shape) of the variables, in the order of their declaration; None, or left out, for those given
                then. -inf rules a variable out.
            additional: scores of pairs, of factors that have such.
            max_iter: iterations at most.
            tol: largest primal and dual residual.
            step_size: at the start; it adapts.
            init: an earlier solution of this graph and a batch of this size, from which to go on.

        Returns:
            a `GraphSolution`, in the dtype of the scores; solved in float64. Items that did not reach the tolerance,
            such as those whose factors contradict each other, say so in `result`.

        Raises:
            ShapeError: scores that do not fit.
            ParameterError: max_iter, tol, step_size or init that cannot be.

        Differentiability:
            any order in all scores; the result is piecewise linear, so second derivatives are zero. On the faces that
            the factors ended on, by conjugate gradients; a gradient that these do not reach warns.

        Complexity:
            per iteration one projection per factor, O(d log d) for those of logic and budgets, all of a kind at once.

        References:
            niculae2020lp, martins2015ad3
        """
        return self._solved(scores, additional, max_iter, tol, step_size, init, 1.0)

    def solve_map(
        self,
        *scores: Tensor | None,
        additional: Mapping[Attached, Tensor] | None = None,
        max_iter: int = 10000,
        tol: float = 1e-6,
        step_size: float = 0.5,
        init: GraphSolution | None = None,
    ) -> GraphSolution:
        """The best assignment, relaxed to a linear programme: `solve` without the quadratic term.

        Args:
            scores: as in `solve`.
            additional: as in `solve`.
            max_iter: as in `solve`.
            tol: as in `solve`.
            step_size: as in `solve`.
            init: as in `solve`.

        Returns:
            a `GraphSolution` without gradient. Items that are `integral` have the best assignment; without ties, all
            are whose factors form a tree.

        Raises:
            ShapeError, ParameterError: as in `solve`.

        Differentiability:
            none.

        Complexity:
            as `solve`.

        References:
            martins2015ad3
        """
        with torch.no_grad():
            return self._solved(scores, additional, max_iter, tol, step_size, init, 0.0)

    def _solved(
        self, scores: tuple[Tensor | None, ...], additional: Mapping[Attached, Tensor] | None, max_iter: int, tol: float,
        step_size: float, init: GraphSolution | None, curved: float,
    ) -> GraphSolution:  # fmt: skip
        if not is_integer(max_iter) or max_iter < 1:
            raise ParameterError(f"max_iter={max_iter!r}", "a whole number, 1 at least", "Choose one")
        for name, value in (("tol", tol), ("step_size", step_size)):
            if not is_number(value) or not 0 < value < math.inf:
                raise ParameterError(f"{name}={value!r}", "a positive number", "Choose one")
        x, dtype = self._unary(scores)
        if self._layout is None:
            self._layout = admm.Layout(self._places, self._count)
        layout = self._layout
        layout.to(x.device)
        y = self._pairs(layout, x, additional or {})
        batch = len(x)
        if init is not None and (init.layout is not layout or len(init.marginals) != batch):
            raise ParameterError("init of another graph or batch", f"one of this graph, {batch} items", "Start anew")
        wanted = torch.is_grad_enabled() and (x.requires_grad or any(pairs.requires_grad for pairs in y))
        with torch.no_grad():
            problem, codes = _cleaned(layout, x, y, curved)
            bad = codes != Outcome.SUCCESS
            alone = bool((layout.degree <= 1).all()) and curved > 0
            if alone:
                found = _alone(layout, problem)
            else:
                point = admm.begin(layout, problem, step_size) if init is None else init.point
                found = admm.solve(layout, problem, point, max_iter, tol)
            mu = layout.joined([part.mu for part in found.found]) if layout.stacks else x.new_zeros(batch, 0)
            total, shared = layout.gathered(mu - layout.offset), layout.degree > 0
            whole = problem.x.clamp(0, 1) if curved else (problem.x > 0).double()
            z = torch.where(shared, total / layout.degree.clamp_min(1), whole)
            if alone:
                # Exact: what a factor cannot do without is impossible.
                against = problem.fixed & shared & ((total / layout.degree.clamp_min(1)).abs() > tol)
                codes = torch.where(~bad & against.any(1), int(Outcome.INFEASIBLE), codes)
                bad = codes != Outcome.SUCCESS
            codes = torch.where(~bad & ~found.done, int(Outcome.NOT_CONVERGED), codes)
            pairs = [part.nu for part in found.found]
        if wanted:
            with torch.no_grad():
                faces = [
                    stack.face(t, more / found.point.rho[..., None], part, found.primal + found.dual)
                    for stack, t, more, part in zip(layout.stacks, found.targets, problem.y, found.found, strict=True)
                ]
                free = ~problem.fixed & (shared | ((problem.x > 0) & (problem.x < 1)))
            moved = Moved.apply(Tangent(layout, faces, free), *(_difference(given) for given in (x, *y)))
            z, pairs = z + moved[0], [a + b for a, b in zip(pairs, moved[1:], strict=True)]
        z, *pairs = (torch.where(bad.view(-1, *[1] * (v.dim() - 1)), torch.nan, v).to(dtype) for v in (z, *pairs))
        integral = ((mu * (1 - mu)).abs() <= tol).all(1) & ((whole * (1 - whole)) * ~shared == 0).all(1) & ~bad
        return GraphSolution(
            z[:, : self._count], *(torch.where(bad, torch.nan, r) for r in (found.primal, found.dual)),
            found.iterations, integral, Result(codes.to(torch.int8)), tuple(pairs), found.point, layout,
        )  # fmt: skip

    def _unary(self, scores: tuple[Tensor | None, ...]) -> tuple[Tensor, torch.dtype]:
        """(B, n + 1) scores of all variables, and the dtype of the result."""
        if len(scores) > len(self._blocks) or not self._blocks:
            raise ShapeError(f"{len(scores)} scores", f"{len(self._blocks)}, one of each variables()", "Leave some out")
        rest = (*scores, *[None] * (len(self._blocks) - len(scores)))
        found: list[Tensor] = []
        for number, (own, (shape, default)) in enumerate(zip(rest, self._blocks, strict=True)):
            x = default if own is None else own
            if x is None:
                raise ShapeError(f"no scores for variables {number}", f"(B, {_dims(shape)})", "Pass them to solve")
            x = check_tensor(x, "scores")
            if x.dim() < 1 or x.shape[1:] != shape or (found and len(x) != len(found[0])):
                batch = len(found[0]) if found else "B"
                raise ShapeError(f"scores of shape {tuple(x.shape)}", f"({batch}, {_dims(shape)})", "Reshape them")
            found.append(x if x.is_floating_point() else x.to(torch.get_default_dtype()))
        dtype = found[0].dtype
        for x in found:
            dtype = torch.promote_types(dtype, x.dtype)
        flat = torch.cat([x.reshape(len(x), -1).double() for x in found], 1)
        return torch.nn.functional.pad(flat, (0, 1)), dtype

    def _pairs(self, layout: admm.Layout, x: Tensor, given: Mapping[Attached, Tensor]) -> list[Tensor]:
        """(B, F, e) scores of pairs, of each stack."""
        if unknown := set(given) - {attached for attached, _ in self._attached}:
            raise ParameterError(f"additional of {unknown}", "factors of this graph", "Pass what add() returned")
        parts: list[list[Tensor]] = [[] for _ in layout.stacks]
        each = sorted(self._attached, key=lambda one: layout.where[one[0].number])
        for attached, default in each:
            own, factor, batch = given.get(attached, default), attached.factor, len(x)
            rows = math.prod(attached.lead)
            if own is not None and attached.lead and own.shape[: 1 + len(attached.lead)] == (batch, *attached.lead):
                own = own.flatten(0, len(attached.lead))
            flat = factor.flat(x.new_zeros(batch * rows, factor.variables), own).additional
            parts[layout.where[attached.number][0]].append(flat.view(batch, rows, factor.additional))
        return [torch.cat(part, 1) for part in parts]


def _dims(shape: torch.Size) -> str:
    return ", ".join(map(str, shape)) or "no more"


def _difference(given: Tensor) -> Tensor:
    """Zeros whose derivatives are those of the scores."""
    return torch.where(given.isfinite(), given - given.detach(), 0.0)


def _cleaned(layout: admm.Layout, x: Tensor, y: list[Tensor], curved: float) -> tuple[admm.Problem, Tensor]:
    """What can be worked with, and what is wrong with each item."""
    codes = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    flat = torch.cat([x, *(pairs.flatten(1) for pairs in y)], 1)
    codes = torch.where((flat == torch.inf).any(1), int(Outcome.INFINITE_SCORE), codes)
    codes = torch.where(flat.isnan().any(1), int(Outcome.NAN_SCORE), codes)
    bad = codes != Outcome.SUCCESS
    x = torch.where(bad[:, None], 0.0, x)
    y = [torch.where(bad[:, None, None], 0.0, pairs) for pairs in y]
    fixed = (x == -torch.inf) | layout.never
    for stack, own, pairs in zip(layout.stacks, layout.targets(layout.copies(torch.zeros_like(x)), fixed), y, strict=True):
        if isinstance(stack, Structured):
            codes = torch.where(~bad & ~stack.possible(own, pairs), int(Outcome.INFEASIBLE), codes)
    bad = (codes != Outcome.SUCCESS)[:, None]
    fixed = (fixed & ~bad) | layout.never
    y = [torch.where(bad[..., None], 0.0, pairs) for pairs in y]
    return admm.Problem(torch.where(fixed | bad, 0.0, x), fixed, y, curved), codes


def _alone(layout: admm.Layout, problem: admm.Problem) -> admm.Solved:
    """Factors that share nothing: their projections of the scores."""
    point = admm.begin(layout, problem, 1.0)
    point.z = problem.x
    none, never = torch.zeros_like(problem.x[:, 0]), torch.zeros(len(problem.x), dtype=torch.bool)
    found = admm.finish(layout, problem, admm.Solved(point, none, none, none.long(), never))
    found.done = ~never.to(none.device)
    for part in found.found:
        found.done = found.done if part.exact is None else found.done & part.exact
    return found
