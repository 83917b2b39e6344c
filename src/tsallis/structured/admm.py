"""LP-SparseMAP by the alternating direction method of multipliers (ADMM), a batch at once.

Variables z and factors' copies mu of them, which have to agree: mu = C z, where C repeats variables and turns negated
ones round. Copies are projected onto their factors' polytopes, variables are weighted means of scores and copies, and
multipliers u add up what is left between them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .layout import Layout
from .stacks import Projected, take, together

# Iterations between two looks at the residuals: they are read on the host.
EVERY = 5
# Structures asked for in a projection at most, since the next goes on from there; and in the last one.
INNER, EXACTLY = 5, 1000
# How far copies go beyond the projection: between 1 and 2.
RELAXED = 1.6
# How much lower than 0 scores can be, relative to the best ones, that count for the size of all; and at all.
MASK, FAR = 100.0, 1e9
# Steps adapt every so many iterations, and at the beginning only: with a fixed step the method converges.
ADAPT, SETTLED = 10, 500


@dataclass(frozen=True)
class Problem:
    """What is to be solved.

    Attributes:
        x: (B, n + 1) scores, 0 where fixed.
        fixed: (B, n + 1) which variables are 0.
        held: (B, C) which copies are of such.
        y: (B, F, e) scores of pairs, of each stack.
        curved: the weight of the quadratic: 1, or 0 for a linear programme.
    """

    x: Tensor
    fixed: Tensor
    held: Tensor
    y: list[Tensor]
    curved: float = 1.0

    @cached_property
    def most(self) -> Tensor:
        """(B, 1) the size of the largest score of pairs, but for those that are ruled out."""
        return largest(self.x, self.y)

    def take(self, kept: Tensor) -> Problem:
        return Problem(self.x[kept], self.fixed[kept], self.held[kept], [y[kept] for y in self.y], self.curved)


@dataclass
class Point:
    """Where the method stands: variables (B, n + 1), multipliers (B, C) and step sizes (B, 1), in that the true
    multipliers are their product.
    """

    z: Tensor
    u: Tensor
    rho: Tensor

    def take(self, kept: Tensor) -> Point:
        return Point(self.z[kept], self.u[kept], self.rho[kept])


@dataclass
class Solved:
    """Where it ended, (B) residuals and iterations, and which items met the tolerance."""

    point: Point
    primal: Tensor
    dual: Tensor
    iterations: Tensor
    done: Tensor
    targets: list[Tensor] = field(default_factory=list)
    found: list[Projected] = field(default_factory=list)


def largest(like: Tensor, parts: list[Tensor]) -> Tensor:
    """(B, 1) the largest finite absolute value in (B, ...) tensors, 0 if there is none."""
    flat = torch.cat([torch.zeros_like(like[:, :1]), *(part.flatten(1) for part in parts)], 1)
    return torch.where(flat.isfinite(), flat.abs(), 0.0).amax(1, keepdim=True)


def _best(scores: Tensor) -> Tensor:
    """(B, 1) the size of the highest of (B, k); 0 where there is none."""
    best = torch.where(scores.isfinite(), scores, -torch.inf)
    best = torch.nn.functional.pad(best, (1, 0), value=-torch.inf).amax(1, keepdim=True)
    return torch.where(best.isfinite(), best.abs(), 0.0)


def size(problem: Problem) -> Tensor:
    """(B, 1) that of most scores, of variables or of pairs; but for masks, which may be most of them."""
    most = torch.zeros_like(problem.x[:, :1])
    for given in (torch.where(problem.fixed, torch.nan, problem.x), *(y.flatten(1) for y in problem.y)):
        scores = torch.where(given < -MASK * (1 + _best(given)), torch.nan, given)
        if scores.numel():
            middle = torch.where(scores.isfinite(), scores.abs(), torch.nan).nanmedian(1, keepdim=True).values
            most = torch.maximum(most, middle.nan_to_num(0.0))
    return most


def without_far(problem: Problem) -> tuple[Problem, Tensor]:
    """With scores so low that others would be lost beside them cut off, and which variables (B, n + 1) have such. Where
    these end at 0, nothing has changed: elsewhere scores are worth less than they seem to be.
    """
    lowest = -FAR * (1 + torch.maximum(_best(torch.where(problem.fixed, -torch.inf, problem.x)), problem.most))
    return replace(problem, x=torch.maximum(problem.x, lowest)), problem.x < lowest


def begin(layout: Layout, problem: Problem, step_size: float, start: Point | None) -> Point:
    """At the scores, without multipliers; steps are in proportion to scores. Or at an earlier point, where it is any
    use: an item whose multipliers do not leave less than half of what balances its scores begins anew.
    """
    x = problem.x
    z = torch.where(problem.fixed, 0.0, x.clamp(0, 1))
    rho = step_size * size(problem).clamp_min(1.0)
    if start is None:
        return Point(z, z.new_zeros(len(z), len(layout.index)), rho)
    start = Point(*(part.to(x.device) for part in (start.z, start.u, start.rho)))
    without = torch.where(problem.fixed | (layout.degree == 0), 0.0, x - problem.curved * start.z)
    left = torch.where(without == 0, 0.0, without + layout.gathered(start.rho * start.u))
    good = left.norm(dim=1, keepdim=True) <= without.norm(dim=1, keepdim=True) / 2
    return Point(*(torch.where(good, a, b) for a, b in ((start.z, z), (start.u, 0.0), (start.rho, rho))))


def _project(
    layout: Layout, targets: list[Tensor], y: list[Tensor], rho: Tensor, memory: list[Any], limit: int = INNER
) -> list[Projected]:
    each = zip(layout.stacks, targets, y, memory, strict=True)
    return [stack.project(t, pairs / rho[..., None], kept, limit) for stack, t, pairs, kept in each]


def _step(problem: Problem, total: Tensor, degree: Tensor, rho: Tensor) -> Tensor:
    """Variables, from the sum of their copies and multipliers."""
    weight = problem.curved + rho * degree
    z = (problem.x + rho * total) / torch.where(weight > 0, weight, 1.0)
    return torch.where(problem.fixed, 0.0, z)


def solve(layout: Layout, problem: Problem, point: Point, max_iter: int, tol: float) -> Solved:
    """Until both residuals are at most tol, or max_iter."""
    batch = len(problem.x)
    done = torch.zeros(batch, dtype=torch.bool, device=problem.x.device)
    iterations = torch.full((batch,), max_iter, device=problem.x.device)
    primal, dual = (torch.full_like(problem.x[:, 0], torch.inf) for _ in range(2))
    end = point.take(torch.arange(batch, device=done.device))
    rows, memory = torch.arange(batch, device=done.device), [None] * len(layout.stacks)
    z, u, rho, local = point.z, point.u, point.rho, problem
    given, ended = layout.copies(z), []
    for number in range(1, max_iter + 1):
        if not len(rows):
            break
        found = _project(layout, layout.targets(given - u, local.held, local.most / rho), local.y, rho, memory)
        mu = layout.joined(z, [part.mu for part in found])
        memory = [part.memory for part in found]
        ahead = RELAXED * mu + (1 - RELAXED) * given
        z = _step(local, layout.gathered(ahead + u - layout.offset), layout.degree, rho)
        before, given = given, layout.copies(z)
        u = (u + ahead - given) * layout.real
        if number % EVERY and number < max_iter:
            continue
        here, there = layout.rms(mu - given), rho[:, 0] * layout.rms(given - before)
        primal[rows], dual[rows], end.z[rows], end.u[rows], end.rho[rows] = here, there, z, u, rho
        good = (here <= tol) & (there <= tol)
        for part in found:
            good = good if part.exact is None else good & part.exact
        done[rows], iterations[rows] = good, number
        rho, u = _adapted(number, here, there, rho, u)
        if bool(good.any()):
            kept = ~good
            ended.append((rows[good], [take(state, good) for state in memory]))
            rows, z, u, rho, given, local = rows[kept], z[kept], u[kept], rho[kept], given[kept], local.take(kept)
            memory = [take(state, kept) for state in memory]
    ended.append((rows, memory))
    order = torch.cat([own for own, _ in ended]).argsort()
    sizes = [len(own) for own, _ in ended]
    memory = [together([states[i] for _, states in ended], sizes, order) for i in range(len(layout.stacks))]
    return finish(layout, problem, Solved(end, primal, dual, iterations, done), memory)


def _adapted(number: int, primal: Tensor, dual: Tensor, rho: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Steps twice as large where copies lag behind, half as large where variables do."""
    if number % ADAPT or number > SETTLED:
        return rho, u
    factor = torch.where(primal > 5 * dual, 2.0, torch.where(dual > 5 * primal, 0.5, 1.0))[:, None]
    new = (rho * factor).clamp(1e-3, 1e12)
    return new, u * (rho / new)


def finish(layout: Layout, problem: Problem, solved: Solved, memory: list[Any]) -> Solved:
    """With copies for where each item ended, whatever others did."""
    point = solved.point
    solved.targets = layout.targets(layout.copies(point.z) - point.u, problem.held, problem.most / point.rho)
    solved.found = _project(layout, solved.targets, problem.y, point.rho, memory, EXACTLY)
    for part in solved.found:
        solved.done = solved.done if part.exact is None else solved.done & part.exact
    return solved
