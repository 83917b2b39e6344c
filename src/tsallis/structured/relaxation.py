"""What a factor graph's relaxation returns: marginals, their derivatives and what certifies them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import ParameterError
from ..core.status import Outcome, Result
from . import admm
from .graph_gradients import Moved, Tangent
from .layout import Layout
from .stacks import Projected, Structured, best_of
from .variables import Attached, Variables

# What sums of weights are off by, at most; factors that need a variable have far more of it.
ROUNDING = 1e-9


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
    layout: Layout

    def __getitem__(self, variables: Variables) -> Tensor:
        """(B, *shape) marginals.

        Raises:
            ParameterError: what are no variables of the graph, or none when it was solved.
        """
        self._check(variables, Variables, "variables")
        if bool((variables.index >= self.layout.count).any()):
            raise ParameterError(f"{variables!r}, declared after this solution", "older ones", "Solve again")
        found = self.marginals[:, variables.index.to(self.marginals.device)]
        return torch.where(variables.negated.to(found.device), 1 - found, found)

    def pairs(self, attached: Attached) -> Tensor:
        """(B, *lead, e) marginals of the pairs of a factor, which `FactorGraph.add` returned.

        Raises:
            ParameterError: what is no factor of the graph, or none when it was solved.
        """
        self._check(attached, Attached, "what add() returned")
        if attached.number not in self.layout.where:
            raise ParameterError(f"{attached!r}, added after this solution", "an older one", "Solve again")
        s, i = self.layout.where[attached.number]
        rows = self.layout.stacks[s].rows
        first = sum(rows[:i])
        found = self.pairs_of[s][:, first : first + rows[i]]
        return found.reshape(len(found), *attached.lead, found.shape[-1])

    def _check(self, part: Variables | Attached, kind: type, words: str) -> None:
        if not isinstance(part, kind):
            raise ParameterError(f"{part!r}", f"{words} of this graph", "Pass that")
        if part.graph is not self.layout.graph:
            raise ParameterError(f"{part!r} of another graph", "of that which was solved", "Look it up there")


@dataclass(frozen=True)
class Options:
    """How to solve; the weight of the quadratic is 1, or 0 for a linear programme."""

    max_iter: int
    tol: float
    step_size: float
    start: admm.Point | None
    curved: float


def relaxed(layout: Layout, x: Tensor, y: list[Tensor], options: Options, dtype: torch.dtype) -> GraphSolution:
    """Solve for scores (B, n + 1) of variables and (B, F, e) of pairs, of each stack."""
    wanted = torch.is_grad_enabled() and any(given.requires_grad for given in (x, *y))
    with torch.no_grad():
        problem, codes = _cleaned(layout, x, y, options.curved)
        alone, masks = bool((layout.degree <= 1).all()), torch.zeros_like(problem.fixed)
        if alone:
            found = (_alone if options.curved else _best_alone)(layout, problem)
        else:
            near, masks = admm.without_far(problem)
            point = admm.begin(layout, near, options.step_size, options.start)
            found = admm.solve(layout, near, point, options.max_iter, options.tol)
        mu = layout.joined(problem.x, [part.mu for part in found.found])
        shared = layout.degree > 0
        # Not the variables themselves: where all copies are 0, so is their mean.
        mean = layout.gathered(mu - layout.offset) / layout.degree.clamp_min(1)
        free = problem.x.clamp(0, 1) if options.curved else (problem.x > 0).double()
        z = torch.where(shared, mean, free)
        bad = codes != Outcome.SUCCESS
        if alone:
            # Exact: what a factor cannot do without is ruled out.
            against = problem.fixed & shared & (mean.abs() > ROUNDING)
            codes = torch.where(~bad & against.any(1), int(Outcome.INFEASIBLE), codes)
            bad = codes != Outcome.SUCCESS
        # What was as good as ruled out is needed: how bad that is was cut off.
        needed = (masks & shared & (z > options.tol)).any(1)
        codes = torch.where(~bad & (needed | ~found.done), int(Outcome.NOT_CONVERGED), codes)
        integral = ((z - z.round()).abs() <= options.tol).all(1) & (codes == Outcome.SUCCESS)
        if not options.curved:
            integral = integral if alone else integral & _allowed(layout, z.round())
            z = torch.where(integral[:, None], z.round(), z)
        pairs = [part.nu for part in found.found]
    if wanted:
        tangent = _tangent(layout, problem, found)
        moved = Moved.apply(tangent, *(_difference(given) for given in (x, *y)))
        z, pairs = z + moved[0], [a + b for a, b in zip(pairs, moved[1:], strict=True)]
    z, *pairs = (torch.where(bad.view(-1, *[1] * (v.dim() - 1)), torch.nan, v).to(dtype) for v in (z, *pairs))
    primal, dual = (torch.where(bad, torch.nan, r) for r in (found.primal, found.dual))
    return GraphSolution(
        z[:, : layout.count], primal, dual, found.iterations, integral, Result(codes.to(torch.int8)), tuple(pairs),
        found.point, layout,
    )  # fmt: skip


def _allowed(layout: Layout, z: Tensor) -> Tensor:
    """(B) whether every factor has a structure with variables (B, n + 1) of zeros and ones: then it is its own
    projection.
    """
    allowed = torch.ones(len(z), dtype=torch.bool, device=z.device)
    for stack, copies in zip(layout.stacks, layout.parts(layout.copies(z)), strict=True):
        no_scores = z.new_zeros(*copies.shape[:2], stack.additional)
        mu = stack.project(copies, no_scores, None, admm.EXACTLY).mu
        allowed = allowed & ((mu - copies).abs() <= 1e-3).flatten(1).all(1)
    return allowed


def _tangent(layout: Layout, problem: admm.Problem, found: admm.Solved) -> Tangent:
    """The faces where it ended."""
    with torch.no_grad():
        slack, rho = found.primal + found.dual, found.point.rho[..., None]
        faces = [
            stack.face(t, more / rho, part, slack)
            for stack, t, more, part in zip(layout.stacks, found.targets, problem.y, found.found, strict=True)
        ]
        inside = (problem.x > 0) & (problem.x < 1)
        return Tangent(layout, faces, ~problem.fixed & ((layout.degree > 0) | inside))


def _difference(given: Tensor) -> Tensor:
    """Zeros whose derivatives are those of the scores."""
    return torch.where(given.isfinite(), given - given.detach(), 0.0)


def _cleaned(layout: Layout, x: Tensor, y: list[Tensor], curved: float) -> tuple[admm.Problem, Tensor]:
    """What can be worked with, and what is wrong with each item."""
    codes = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    flat = torch.cat([x, *(pairs.flatten(1) for pairs in y)], 1)
    codes = torch.where((flat == torch.inf).any(1), int(Outcome.INFINITE_SCORE), codes)
    codes = torch.where(flat.isnan().any(1), int(Outcome.NAN_SCORE), codes)
    bad = codes != Outcome.SUCCESS
    x = torch.where(bad[:, None], 0.0, x)
    y = [torch.where(bad[:, None, None], 0.0, pairs) for pairs in y]
    fixed = (x == -torch.inf) | layout.never
    held = layout.targets(layout.copies(torch.zeros_like(x)), fixed[:, layout.index], admm.largest(x, y))
    for stack, own, pairs in zip(layout.stacks, held, y, strict=True):
        if isinstance(stack, Structured):
            codes = torch.where(~bad & ~stack.possible(own, pairs), int(Outcome.INFEASIBLE), codes)
    bad = (codes != Outcome.SUCCESS)[:, None]
    fixed = (fixed & ~bad) | layout.never
    y = [torch.where(bad[..., None], 0.0, pairs) for pairs in y]
    problem = admm.Problem(torch.where(fixed | bad, 0.0, x), fixed, fixed[:, layout.index], y, curved)
    if curved:
        return problem, codes
    # Of a linear programme the size of scores is of no matter.
    size = admm.size(problem)
    size = torch.where(size > 0, size, 1.0)
    y = [pairs / size[..., None] for pairs in y]
    return admm.Problem(problem.x / size, fixed, problem.held, y, curved), codes


def _alone(layout: Layout, problem: admm.Problem) -> admm.Solved:
    """Factors that share nothing: their projections of the scores."""
    return admm.finish(layout, problem, _exact(layout, problem.x), [None] * len(layout.stacks))


def _best_alone(layout: Layout, problem: admm.Problem) -> admm.Solved:
    """Factors that share nothing: their best structures."""
    z, pairs = torch.zeros_like(problem.x), []
    for stack, y in zip(layout.stacks, problem.y, strict=True):
        parts = []
        for place, more in zip(stack.places, y.split(stack.rows, 1), strict=True):
            found = best_of(place, problem.x, problem.fixed, more)
            bits, nu = found.tensor_split([place.factor.variables], -1)
            z[:, place.index] = torch.where(place.negated, 1 - bits, bits)
            parts.append(nu)
        pairs.append(torch.cat(parts, 1))
    solved, copies = _exact(layout, z), layout.parts(layout.copies(z))
    solved.found = [Projected(mu, nu) for mu, nu in zip(copies, pairs, strict=True)]
    return solved


def _exact(layout: Layout, z: Tensor) -> admm.Solved:
    point = admm.Point(z, z.new_zeros(len(z), len(layout.index)), torch.ones_like(z[:, :1]))
    none = torch.zeros_like(z[:, 0])
    return admm.Solved(point, none, none, none.long(), none == 0)
