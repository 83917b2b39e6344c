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

from .factor import Factor, Scores

# After so many structures that were there already, a face is taken to be whole.
MISSES = 12
# Squared distance from the affine hull of the others below which a structure's variables depend on theirs.
DEPENDENT = 1e-9
# A slope that is rounding, as that of a bit which is free in the hull: its sign must not choose the next structure, or
# scores that differ by next to nothing end with different ones.
NOTHING = 2.0**-46


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
    """Run until the gap is at most tol, or an item has asked for max_iter structures."""
    x = torch.cat([scores.unary, scores.additional], -1)
    batch, d = scores.unary.shape
    done, stuck = (torch.zeros(batch, dtype=torch.bool, device=x.device) for _ in range(2))
    gap = torch.full((batch,), torch.inf, dtype=x.dtype, device=x.device)
    iterations = torch.zeros(batch, dtype=torch.int64, device=x.device)
    while bool((live := ~done & ~stuck & (iterations < max_iter)).any()):
        inside = _to_affine_minimum(state, x, d, live)
        asking = live & inside
        if not bool(asking.any()):
            continue
        slope = _slope(scores, state)
        found = best(Scores(slope, scores.additional, scores.lengths))
        better = _gap(torch.cat([slope, scores.additional], -1), found, state)
        gap = torch.where(asking, better, gap)
        iterations += asking
        done |= asking & (better <= tol)
        nothing = asking & _enter(state, found, x, d, asking & ~done)
        # One that is there already brings nothing: the item is done if what is left of the gap is rounding.
        done |= nothing & (better.abs() <= tol + _rounding(x, found, state))
        stuck |= nothing & ~done
    return Solved(state, gap, iterations, done)


def _slope(scores: Scores, state: State) -> Tensor:
    """(B, d) of the objective, by the variables; 0 where it is rounding."""
    marginals = torch.einsum("bs,bsd->bd", state.weights, state.structures)[:, : scores.unary.shape[1]]
    slope = torch.where(torch.isfinite(scores.unary), scores.unary - marginals, scores.unary)
    return torch.where(slope.abs() <= NOTHING, 0.0, slope)


def _rounding(x: Tensor, found: Tensor, state: State) -> Tensor:
    """(B) what rounding may leave of a gap."""
    differ = ((found[:, None] != state.structures) & state.used[..., None]).any(1)
    size = torch.where(differ & x.isfinite(), x.abs(), 0.0).sum(-1)
    return 64 * torch.finfo(x.dtype).eps * (x.shape[1] + size)


def _gap(slope: Tensor, found: Tensor, state: State) -> Tensor:
    """<slope, found - marginals>: what is common to all structures cancels before it is added up."""
    step = (found[:, None] - state.structures) * state.used[..., None]
    return (state.weights * torch.where(step != 0, slope[:, None] * step, 0.0).sum(-1)).sum(-1)


def ahead(state: State, x: Tensor) -> Tensor:
    """(B, S) by how much the scores of structures exceed that of the one with the largest weight."""
    most = state.weights.argmax(-1)[:, None, None].expand(-1, 1, state.structures.shape[-1])
    step = (state.structures - state.structures.gather(1, most)) * state.used[..., None]
    return torch.where(step != 0, step * x[:, None], 0.0).sum(-1)


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


def corner(state: State, d: int) -> Tensor:
    """(B, S, S) of its inverse: the derivative of weights by scores of structures, on a support that stays."""
    inverse = torch.linalg.inv_ex(bordered(state, d))[0][:, :-1, :-1]
    # Of an item without structures it is no number.
    return torch.where(state.used[:, None] & state.used[..., None], inverse, 0.0)


def _to_affine_minimum(state: State, x: Tensor, d: int, live: Tensor) -> Tensor:
    """Move weights to the optimum on the affine hull, or as far as they stay nonnegative; who got there, (B)."""
    # A number that is added to all of them moves the multiplier only.
    b = ahead(state, x)
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


def _along(state: State, direction: Tensor, total: float, d: int) -> tuple[Tensor, Tensor]:
    """Coordinates (B, S), which add up to the total, of the nearest point on the affine hull of the structures in use
    (for a total of 0, among its directions), and what is left of the direction (B, d).
    """
    u = state.structures[..., :d] * state.used[..., None]
    product = (u @ direction[..., None])[..., 0]
    rhs = torch.cat([product, torch.full_like(direction[:, :1], total)], -1)
    along = torch.linalg.solve_ex(bordered(state, d), rhs[..., None])[0][:, :-1, 0]
    along = torch.where(state.used, along, 0.0)
    return along, direction - torch.einsum("bs,bsd->bd", along, u)


def _off_the_hull(state: State, found: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """Coordinates (B, S) of structures' variables on the affine hull of those in use, and whether they are off it."""
    along, rest = _along(state, found[:, :d], 1.0, d)
    return along, rest.square().sum(-1) > DEPENDENT


def _enter(state: State, found: Tensor, x: Tensor, d: int, who: Tensor) -> Tensor:
    """Take structures (B, d + e) in; whose bring nothing, (B)."""
    along, off = _off_the_hull(state, found, d)
    # The same variables with other pairs: weights move along the line on which variables stay, to the first that is 0.
    step = (found[:, None] - state.structures) * state.used[..., None]
    gain = (along * torch.where(step != 0, step * x[:, None], 0.0).sum(-1)).sum(-1)
    swapped = who & ~off & (gain > _rounding(x, found, state)) & (state.structures.shape[-1] > d)
    ratio = torch.where(along > 1e-12, state.weights / along, torch.inf)
    length, first = ratio.min(-1, keepdim=True)
    length = torch.where(swapped[:, None] & torch.isfinite(length), length, 0.0)
    state.weights = (state.weights - length * along).clamp_min(0.0)
    _leave(state, first, swapped)
    entering = who & (swapped | off)
    _fill(state, found, length, entering)
    return who & ~entering


def whole_face(factor: Factor, scores: Scores, state: State, gap: Tensor) -> State:
    """With structures of weight 0 that are as good as those in use, as many as are affinely independent.

    Few structures may reach the marginals by chance, as at ties, or because the tolerance allows it; marginals move in
    all directions of the face that is optimal. Structures on it are best for slopes that differ by next to nothing.
    """
    if factor.slopes(scores.unary) is not None or not len(gap):
        return state
    state = State(state.structures, state.weights, state.used)
    d = scores.unary.shape[1]
    draws = torch.Generator().manual_seed(0)
    slope = _slope(scores, state)
    full = torch.cat([slope, scores.additional], -1)
    # As much as the gap leaves open.
    error = (2 * gap.nan_to_num(0.0).clamp_min(0.0)).sqrt()
    nudge, tied = (1e-6 + 4 * error)[:, None], 1e-9 + 2 * error * d**0.5
    misses = 0
    while misses < MISSES and state.used.shape[1] <= 2 * d:
        noise = torch.randn(slope.shape, generator=draws, dtype=slope.dtype).to(slope.device)
        # Along the hull nothing new is found.
        noise = _along(state, noise, 0.0, d)[1]
        found = factor.best(Scores(slope + nudge * noise, scores.additional, scores.lengths))
        worse = -_gap(full, found, state)
        new = (worse <= tied) & _off_the_hull(state, found, d)[1]
        misses = 0 if bool(new.any()) else misses + 1
        _fill(state, found, torch.zeros_like(gap)[:, None], new)
    return state


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
