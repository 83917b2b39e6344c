"""Proximal operators of total variation: of a chain exactly, of a grid up to a duality gap.

    argmin over x of 1/2 |x - z|^2 + lam sum over neighbours |x_i - x_j|

Derivation: docs/theory/fusedmax.md. Contract as in `rows`; -inf marks removed entries.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Fused(NamedTuple):
    """A proximal point and what its derivatives need, each (..., n).

    Attributes:
        x: the point; -inf where an entry is removed.
        group: where the first member of each entry's group is, a group being neighbours of equal value.
        pull: the derivative of total variation in each entry, members of one group not counted.
    """

    x: Tensor
    group: Tensor
    pull: Tensor


def chain(z: Tensor, lam: Tensor) -> Fused:
    """The proximal point of rows whose entries are neighbours in their order, removed ones left out."""
    flat = z.reshape(-1, z.shape[-1])
    lam = lam.expand(*z.shape[:-1], 1).reshape(-1, 1)
    kept = flat > -torch.inf
    order = (~kept).to(torch.uint8).sort(dim=-1, stable=True).indices
    rows = flat.gather(-1, order)
    there = rows > -torch.inf
    x, sign, tolerance = solved(torch.where(there, rows, 0.0), lam, ~there[:, 1:])
    joined = there[:, 1:] & (x.diff().abs() <= tolerance[:, 1:] + tolerance[:, :-1])
    sign = torch.where(joined, 0.0, sign)
    first = torch.arange(z.shape[-1], device=z.device).expand_as(order)
    first = torch.where(ahead(~joined, True), first, 0).cummax(-1).values
    x = torch.where(there, x.gather(-1, first), -torch.inf)
    parts = x, order.gather(-1, first), differences_transposed(sign)
    return Fused(*(torch.empty_like(part).scatter_(-1, order, part).reshape(z.shape) for part in parts))


def solved(z: Tensor, lam: Tensor, broken: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(x, signs of the steps between segments of equal value, how exact the values are) of finite rows (R, n) with
    breaks (R, n - 1) across which entries are no neighbours.

    Segments are compared with their own means: entries above and below are separated, in all segments at once, until
    there is nothing to separate. Each round finds a new step, so there are n - 1 at most.
    """
    top = z.amax(-1, keepdim=True)
    # What is lower than that pulls at its neighbours as if it were there; sums have to be finite.
    z = (z - top).clamp_min(-(torch.finfo(z.dtype).max ** 0.5))
    rounding = 16 * torch.finfo(z.dtype).eps * (1 + math.log2(z.shape[-1]))
    cut, sign = broken, torch.zeros_like(z[:, 1:])
    levels, tolerance = torch.zeros_like(z), torch.zeros_like(z)
    for _ in range(z.shape[-1]):
        segment = ahead(cut, False).cumsum(-1)
        size = group_sums(torch.ones_like(z), segment)
        pulled = z - lam * differences_transposed(sign)
        levels = group_sums(pulled, segment) / size
        # Largest distance in the segment; sums of them are cut off at lam.
        distance = torch.zeros_like(z).scatter_reduce_(-1, segment, (z - levels).abs(), "amax").gather(-1, segment)
        tolerance = rounding * (distance + torch.minimum(lam, size * distance))
        left, right = _preferences(pulled - levels, torch.where(cut, 0.0, lam))
        up = _separated(-left[:, :-1] - lam, right[:, 1:] - lam, tolerance)
        down = _separated(left[:, :-1] - lam, -right[:, 1:] - lam, tolerance)
        step = torch.where(cut, 0.0, up.to(z.dtype) - down.to(z.dtype))
        if not bool((step != 0).any()):
            break
        sign, cut = sign + step, cut | (step != 0)
    return levels + top, sign, tolerance


def held(found: Fused, lam: Tensor) -> Fused:
    """The same with groups as derivatives in z need them: at lam = 0 nothing holds equal entries together. A lam just
    above does, so pulls are shared already.
    """
    x, group, pull = found
    alone = torch.arange(x.shape[-1], device=x.device).expand_as(group)
    return Fused(x, torch.where(lam == 0, alone, group), torch.where(lam == 0, group_means(pull, group), pull))


def group_means(v: Tensor, group: Tensor) -> Tensor:
    """(..., n) the mean of v over each entry's group, which a number below n names; differentiable."""
    return group_sums(v, group) / group_sums(torch.ones_like(v), group)


def group_sums(x: Tensor, group: Tensor) -> Tensor:
    """At each entry the sum over its group."""
    return torch.zeros_like(x).scatter_add(-1, group, x).gather(-1, group)


def running_sums(x: Tensor) -> Tensor:
    """Of (..., n) along n, in log n rounds: `cumsum` of floating numbers has no deterministic form on GPUs."""
    reach = 1
    while reach < x.shape[-1]:
        x = torch.cat([x[..., :reach], x[..., reach:] + x[..., :-reach]], -1)
        reach *= 2
    return x


def ahead(x: Tensor, value: float) -> Tensor:
    """(R, n) with a first column of the value before (R, n - 1)."""
    return torch.nn.functional.pad(x, (1, 0), value=value)


def differences_transposed(u: Tensor) -> Tensor:
    """(..., n) D' u of (..., n - 1), where D x are the differences of neighbours."""
    return -torch.nn.functional.pad(u, (1, 1)).diff()


def _separated(before: Tensor, behind: Tensor, tolerance: Tensor) -> Tensor:
    """Where there is a step: both sides want one, whatever the other does, and one of them strictly. Without the first
    a step made by rounding would be wrong by as much as lam.
    """
    allowed = tolerance[:, 1:]
    return (torch.minimum(before, behind) >= -allowed) & (torch.maximum(before, behind) > allowed)


def _preferences(c: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    """How much better it is for an entry to be above than below, seen from the row up to it and from it on: max over s
    in {0, 1}^i of <c, s> - sum bound |s_j - s_{j+1}| with s_i = 1, less that with s_i = 0.
    """
    both = torch.stack([c, c.flip(-1)])
    limit = torch.nn.functional.pad(torch.stack([bound, bound.flip(-1)]), (0, 1))
    # Entry i tells the next one clip(c_i + what it was told, -bound, bound). Such functions compose:
    # y -> clip(y + total, low, high); in log n rounds each one reaches back to the start.
    total, low, high = both, -limit, limit
    reach = 1
    while reach < c.shape[-1]:
        own, low_own, high_own = total[..., reach:], low[..., reach:], high[..., reach:]
        new_low = torch.minimum(torch.maximum(low[..., :-reach] + own, low_own), high_own)
        new_high = torch.minimum(torch.maximum(high[..., :-reach] + own, low_own), high_own)
        total = torch.cat([total[..., :reach], total[..., :-reach] + own], -1)
        low = torch.cat([low[..., :reach], new_low], -1)
        high = torch.cat([high[..., :reach], new_high], -1)
        reach *= 2
    told = torch.minimum(torch.maximum(total, low), high)
    wanted = both + ahead(told[..., :-1], 0.0)
    return wanted[0], wanted[1].flip(-1)
