"""SparseMAP by the active-set method, a batch at once: the definition that faster ways are compared with.

Maximises <x, mu> + <y, nu> - |mu|^2 / 2 over the convex hull of structures (mu, nu). Weights of the structures found so
far solve the problem on their affine hull; those that would be negative leave; the best structure for the gradient
enters, until it is no better than what there is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .factor import Scores

# Squared distance from the affine hull of the others below which a structure's variables depend on theirs.
DEPENDENT = 1e-9


@dataclass
class State:
    """Structures and their weights; S slots of which some are in use.

    Attributes:
        structures: (B, S, d + e) of zeros and ones.
        weights: (B, S), zero where a slot is free.
        used: (B, S).
    """

    structures: Tensor
    weights: Tensor
    used: Tensor


@dataclass(frozen=True)
class Solved:
    """Where the method stopped: the state, (B) the gap, how often structures were asked for, and who is done."""

    state: State
    gap: Tensor
    iterations: Tensor
    done: Tensor


def start(structure: Tensor) -> State:
    """One structure (B, d + e) with all the weight."""
    batch = len(structure)
    return State(
        structure[:, None].clone(), structure.new_ones(batch, 1),
        torch.ones(batch, 1, dtype=torch.bool, device=structure.device),
    )  # fmt: skip


def solve(best: Callable[[Scores], Tensor], scores: Scores, state: State, max_iter: int, tol: float) -> Solved:
    """Run until the gap is at most tol, everywhere, or max_iter structures were asked for."""
    x = torch.cat([scores.unary, scores.additional], -1)
    batch, d = scores.unary.shape
    done = torch.zeros(batch, dtype=torch.bool, device=x.device)
    gap = torch.full((batch,), torch.inf, dtype=x.dtype, device=x.device)
    iterations = torch.zeros(batch, dtype=torch.int64, device=x.device)
    while not bool(done.all()) and int(iterations.max()) < max_iter:
        inside = _to_affine_minimum(state, x, d, ~done)
        asking = ~done & inside
        if not bool(asking.any()):
            continue
        marginals = torch.einsum("bs,bsd->bd", state.weights, state.structures)
        slope = torch.where(torch.isfinite(scores.unary), scores.unary - marginals[:, :d], scores.unary)
        found = best(Scores(slope, scores.additional, scores.lengths))
        better = _along(torch.cat([slope, scores.additional], -1), found, marginals)
        gap = torch.where(asking, better, gap)
        iterations += asking
        done |= asking & (better <= tol)
        # One that is there already brings nothing: what is left of the gap is rounding.
        done |= asking & _enter(state, found, x, d, asking & ~done)
    return Solved(state, gap, iterations, done)


def _along(slope: Tensor, found: Tensor, marginals: Tensor) -> Tensor:
    """<slope, found - marginals>, where -inf times 0 is 0."""
    step = found - marginals
    return torch.where(step != 0, slope * step, 0.0).sum(-1)


def values(structures: Tensor, x: Tensor) -> Tensor:
    """(B, S) scores of structures, where -inf times 0 is 0."""
    return torch.where(structures > 0, x[:, None], 0.0).sum(-1)


def bordered(state: State, d: int) -> Tensor:
    """(B, S + 1, S + 1) the matrix of the conditions of optimality; slots that are free have a row of the identity."""
    u = state.structures[..., :d] * state.used[..., None]
    gram = u @ u.mT + torch.diag_embed((~state.used).to(u.dtype))
    border = state.used.to(u.dtype)
    top = torch.cat([gram, border[..., None]], -1)
    return torch.cat([top, torch.nn.functional.pad(border, (0, 1))[:, None]], -2)


def _to_affine_minimum(state: State, x: Tensor, d: int, live: Tensor) -> Tensor:
    """Move weights to the optimum on the affine hull, or as far as they stay nonnegative; who got there, (B)."""
    b = values(state.structures, x) * state.used
    rhs = torch.cat([b, torch.ones_like(b[:, :1])], -1)
    target = torch.linalg.solve_ex(bordered(state, d), rhs[..., None])[0][:, :-1, 0]
    target = torch.where(state.used, target, 0.0)
    # Of what rounding leaves of the last condition.
    target = target / target.sum(-1, keepdim=True)
    lost = state.used & (target < 0)
    step = torch.where(lost, state.weights / (state.weights - target), torch.inf)
    length, first = step.min(-1, keepdim=True)
    inside = length[:, 0] > 1
    moved = torch.where(inside[:, None], target, state.weights + length.clamp_max(1.0) * (target - state.weights))
    state.weights = torch.where(live[:, None], moved.clamp_min(0.0), state.weights)
    _leave(state, first, live & ~inside)
    return inside


def _leave(state: State, slot: Tensor, who: Tensor) -> None:
    """Free a slot (B, 1) of some items."""
    gone = torch.zeros_like(state.used).scatter_(1, slot, True) & who[:, None]
    state.used = state.used & ~gone
    state.weights = state.weights.masked_fill(gone, 0.0)


def _enter(state: State, found: Tensor, x: Tensor, d: int, who: Tensor) -> Tensor:
    """Take structures (B, d + e) in; whose bring nothing, (B)."""
    # Coordinates of its variables on the affine hull, and the distance from it.
    u = state.structures[..., :d] * state.used[..., None]
    rhs = torch.cat([(u @ found[:, :d, None])[..., 0], torch.ones_like(found[:, :1])], -1)
    along = torch.linalg.solve_ex(bordered(state, d), rhs[..., None])[0][:, :-1, 0]
    along = torch.where(state.used, along, 0.0)
    rest = found[:, :d] - torch.einsum("bs,bsd->bd", along, u)
    dependent = rest.square().sum(-1) <= DEPENDENT
    # The same variables with other pairs: weights move along the line on which variables stay, to the first that is 0.
    gain = values(found[:, None], x)[:, 0] - (along * values(state.structures, x)).sum(-1)
    swapped = who & dependent & (gain > 0) & (state.structures.shape[-1] > d)
    step = torch.where(along > 1e-12, state.weights / along, torch.inf)
    length, first = step.min(-1, keepdim=True)
    length = torch.where(swapped[:, None] & torch.isfinite(length), length, 0.0)
    state.weights = (state.weights - length * along).clamp_min(0.0)
    _leave(state, first, swapped)
    entering = who & (swapped | ~dependent)
    _fill(state, found, length, entering)
    return who & ~entering


def _fill(state: State, found: Tensor, weight: Tensor, who: Tensor) -> None:
    """Put structures with a weight (B, 1) into free slots."""
    if bool((state.used.all(-1) & who).any()):
        more = max(1, state.used.shape[1])
        pad = torch.nn.functional.pad
        state.structures = pad(state.structures, (0, 0, 0, more))
        state.weights, state.used = pad(state.weights, (0, more)), pad(state.used, (0, more))
    slot = state.used.int().argmin(-1, keepdim=True)
    here = torch.zeros_like(state.used).scatter_(1, slot, True) & who[:, None]
    state.structures = torch.where(here[..., None], found[:, None], state.structures)
    state.weights = torch.where(here, weight, state.weights)
    state.used = state.used | here


def compact(state: State) -> State:
    """Slots in order of their weight, without those that no item needs."""
    keep = state.used & (state.weights > 0)
    order = torch.where(keep, state.weights, -1.0).argsort(dim=-1, descending=True, stable=True)
    order = order[:, : max(1, int(keep.sum(-1).max()))] if len(order) else order
    kept = keep.gather(1, order)
    weights = torch.where(kept, state.weights.gather(1, order), 0.0)
    structures = state.structures.gather(1, order[..., None].expand(-1, -1, state.structures.shape[-1]))
    return State(torch.where(kept[..., None], structures, 0.0), weights, kept)
