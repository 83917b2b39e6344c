"""The proximal operator of the sum over pairs of the larger entry: sorting and isotonic regression.

    argmin over x of 1/2 |x - z|^2 + lam sum over i < j of max(x_i, x_j)

Derivation: docs/theory/fusedmax.md. Contract as in `rows`; -inf marks removed entries.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .variation import Fused, ahead, group_sums, running_sums


def pairs(z: Tensor, lam: Tensor) -> Fused:
    """The proximal point of rows, removed entries left out."""
    flat = z.reshape(-1, z.shape[-1])
    lam = lam.expand(*z.shape[:-1], 1).reshape(-1, 1)
    ordered, order = flat.sort(dim=-1, descending=True, stable=True)
    there = ordered > -torch.inf
    place = torch.arange(z.shape[-1], device=z.device).expand_as(order)
    # How many others each entry is the larger one of.
    pull = torch.where(there, there.sum(-1, keepdim=True) - 1 - place, 0).to(z.dtype)
    # Far below the largest, scores differ from each other no more, nor do prices that are far above; sums have to be
    # finite.
    low = -(torch.finfo(z.dtype).max ** 0.5)
    top = ordered[:, :1]
    y = torch.where(there, (ordered - top).clamp_min(low), 0.0) - lam.clamp_max(-low) * pull
    x, tolerance = decreasing(y, ~there[:, 1:])
    joined = there[:, 1:] & (x.diff().abs() <= tolerance[:, 1:] + tolerance[:, :-1])
    first = torch.where(ahead(~joined, True), place, 0).cummax(-1).values
    x = torch.where(there, x.gather(-1, first) + top, -torch.inf)
    parts = x, order.gather(-1, first), pull
    return Fused(*(torch.empty_like(part).scatter_(-1, order, part).reshape(z.shape) for part in parts))


def decreasing(y: Tensor, cut: Tensor) -> tuple[Tensor, Tensor]:
    """(the nearest x that does not increase between cuts (R, n - 1), how exact it is) of finite rows (R, n).

    A segment is split where the sum of what is above its mean is largest, all segments at once, until sums are those
    of rounding. Each round finds a new cut, so there are n - 1 at most.
    """
    rounding = 16 * torch.finfo(y.dtype).eps * (1 + math.log2(y.shape[-1]))
    place = torch.arange(y.shape[-1], device=y.device)
    levels, tolerance = torch.zeros_like(y), torch.zeros_like(y)
    for _ in range(y.shape[-1]):
        segment = ahead(cut, False).cumsum(-1)
        size = group_sums(torch.ones_like(y), segment)
        levels = group_sums(y, segment) / size
        excess = y - levels
        distance = torch.zeros_like(y).scatter_reduce_(-1, segment, excess.abs(), "amax").gather(-1, segment)
        tolerance = rounding * distance * size.sqrt()
        # Sums from the start of the segment: those of whole segments are zero but for rounding.
        sums = running_sums(excess)
        start = torch.where(ahead(cut, True), place, 0).cummax(-1).values
        before = (sums - excess).gather(-1, start)
        within = torch.where(ahead(cut, True).roll(-1, -1), -torch.inf, sums - before)
        best = torch.full_like(y, -torch.inf).scatter_reduce_(-1, segment, within, "amax").gather(-1, segment)
        first = torch.where(within == best, place, y.shape[-1])
        first = torch.full_like(segment, y.shape[-1]).scatter_reduce_(-1, segment, first, "amin").gather(-1, segment)
        split = ((first == place) & (best > tolerance))[:, :-1]
        if not bool(split.any()):
            break
        cut = cut | split
    return levels, tolerance
