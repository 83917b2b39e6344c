"""LP-SparseMAP by the alternating direction method of multipliers (ADMM), a batch at once.

Variables z and factors' copies mu of them, which have to agree: mu = C z, where C repeats variables and turns negated
ones round. Copies are projected onto their factors' polytopes, variables are weighted means of scores and copies, and
multipliers u add up what is left between them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .stacks import Place, Projected, Stack, Structured, never, stacked, take

# Iterations between two looks at the residuals: they are read on the host.
EVERY = 5
# How far copies go beyond the projection: between 1 and 2.
RELAXED = 1.6


class Layout:
    """Where each factor's copies are in one row of all copies, C of them.

    Attributes:
        count: n variables; number n stands for none.
        degree: (n + 1) how many copies each has.
        never: (n + 1) variables that can only be 0, and none.
    """

    def __init__(self, places: list[Place], count: int) -> None:
        self.count = count
        found = stacked(places, count)
        self.stacks: list[Stack] = [stack for stack, _ in found]
        self.where = {number: (s, i) for s, (_, numbers) in enumerate(found) for i, number in enumerate(numbers)}
        flat = [torch.cat([getattr(stack, name).flatten() for stack in self.stacks]) if found else torch.zeros(0)
                for name in ("index", "sign", "offset")]  # fmt: skip
        self.index, self.sign, self.offset = flat[0].long(), flat[1].double(), flat[2].double()
        self.real = (self.index < count).double()
        self.degree = torch.zeros(count + 1, dtype=torch.float64).index_add_(0, self.index, self.real)
        self.never = torch.zeros(count + 1, dtype=torch.bool)
        self.never[count] = True
        for place in places:
            self.never[place.index[:, never(place.factor)][~place.negated[:, never(place.factor)]]] = True

    def to(self, device: torch.device) -> None:
        """Move what is looked up in every iteration."""
        for stack in self.stacks:
            stack.to(device)
        for name in ("index", "sign", "offset", "real", "degree", "never"):
            setattr(self, name, getattr(self, name).to(device))

    def spread(self, v: Tensor) -> Tensor:
        """(B, C) changes of copies with those of variables, (B, n + 1)."""
        return self.sign * v[:, self.index]

    def copies(self, z: Tensor) -> Tensor:
        """(B, C) copies of variables."""
        return self.spread(z) + self.offset

    def gathered(self, c: Tensor) -> Tensor:
        """(B, n + 1) the transpose of `spread`."""
        into = c.new_zeros(len(c), self.count + 1)
        return into.scatter_add_(1, self.index.expand(len(c), -1), self.sign * c)

    def parts(self, c: Tensor) -> list[Tensor]:
        """(B, F, w) of each stack."""
        split = c.split([stack.index.numel() for stack in self.stacks], 1)
        return [part.unflatten(1, stack.index.shape) for part, stack in zip(split, self.stacks, strict=True)]

    def joined(self, parts: list[Tensor]) -> Tensor:
        """(B, C) of all stacks."""
        return torch.cat([part.flatten(1) for part in parts], 1)

    def targets(self, t: Tensor, fixed: Tensor) -> list[Tensor]:
        """What is projected: with copies of fixed variables so far out that they become 0, or 1 if negated."""
        far = 2 * (1 + t.abs().amax(1)) if t.shape[1] else t.sum(1)
        held, found = fixed[:, self.index], []
        pieces = (self.parts(each) for each in (t, held, self.sign.expand_as(t)))
        for stack, own, out, sign in zip(self.stacks, *pieces, strict=True):
            edge = -sign * (far * own.shape[-1])[:, None, None]
            if isinstance(stack, Structured):
                edge = torch.where(sign > 0, -torch.inf, edge)
            found.append(torch.where(out, edge, own))
        return found

    def rms(self, c: Tensor) -> Tensor:
        """(B) root of the mean square of (B, C)."""
        return ((c.square() * self.real).sum(1) / self.real.sum().clamp_min(1)).sqrt()


@dataclass(frozen=True)
class Problem:
    """What is to be solved.

    Attributes:
        x: (B, n + 1) scores, 0 where fixed.
        fixed: (B, n + 1) which variables are 0.
        y: (B, F, e) scores of pairs, of each stack.
        curved: the weight of the quadratic: 1, or 0 for a linear programme.
    """

    x: Tensor
    fixed: Tensor
    y: list[Tensor]
    curved: float = 1.0

    def take(self, kept: Tensor) -> Problem:
        return Problem(self.x[kept], self.fixed[kept], [y[kept] for y in self.y], self.curved)


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


def begin(layout: Layout, problem: Problem, rho: float) -> Point:
    """At the scores, without multipliers."""
    z = torch.where(problem.fixed, 0.0, problem.x.clamp(0, 1))
    return Point(z, z.new_zeros(len(z), len(layout.index)), z.new_full((len(z), 1), rho))


def _project(layout: Layout, targets: list[Tensor], y: list[Tensor], rho: Tensor, memory: list[Any]) -> list[Projected]:
    each = zip(layout.stacks, targets, y, memory, strict=True)
    return [stack.project(t, pairs / rho[..., None], kept) for stack, t, pairs, kept in each]


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
    given = layout.copies(z)
    for number in range(1, max_iter + 1):
        if not len(rows):
            break
        found = _project(layout, layout.targets(given - u, local.fixed), local.y, rho, memory)
        mu = layout.joined([part.mu for part in found])
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
            rows, z, u, rho, given, local = rows[kept], z[kept], u[kept], rho[kept], given[kept], local.take(kept)
            memory = [take(state, kept) for state in memory]
    return finish(layout, problem, Solved(end, primal, dual, iterations, done))


def _adapted(number: int, primal: Tensor, dual: Tensor, rho: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Steps twice as large where copies lag behind, half as large where variables do."""
    if number % (2 * EVERY):
        return rho, u
    factor = torch.where(primal > 10 * dual, 2.0, torch.where(dual > 10 * primal, 0.5, 1.0))[:, None]
    new = (rho * factor).clamp(1e-3, 1e3)
    return new, u * (rho / new)


def finish(layout: Layout, problem: Problem, solved: Solved) -> Solved:
    """With copies for where each item ended, whatever others did."""
    point = solved.point
    solved.targets = layout.targets(layout.copies(point.z) - point.u, problem.fixed)
    solved.found = _project(layout, solved.targets, problem.y, point.rho, [None] * len(layout.stacks))
    return solved
