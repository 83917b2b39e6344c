"""The proximal operator of total variation on a grid, up to a duality gap.

With D the differences along rows and C those along columns, x = z - D'u - C'v for dual variables of at most lam. Given
v, the best u is that of chains, solved exactly, and the other way round: both in turn, extrapolated.
Derivation: docs/theory/fusedmax.md.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .variation import Fused, differences_transposed, group_means, running_sums, solved


class Solved(NamedTuple):
    """A proximal point and how far from optimal it is, at most.

    Attributes:
        fused: (B, H W) the point and its groups.
        gap: (B) how far its objective may be from the optimum; |x - x*|^2 is at most twice as much.
        iterations: (B) how often rows and columns were solved.
        done: (B) whether the gap is as small as was asked for, or as rounding lets it be.
    """

    fused: Fused
    gap: Tensor
    iterations: Tensor
    done: Tensor


class _Chains(NamedTuple):
    """Chains of a grid (B, H, W): its rows, or of its transpose."""

    lam: Tensor
    broken: Tensor

    def dual(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The proximal point x of w, and w - x = D'u."""
        lam = self.lam.expand(*w.shape[:2], 1)
        x = solved(w.flatten(0, 1), lam.flatten(0, 1), self.broken.flatten(0, 1))[0].view_as(w)
        return x, w - x

    def slack(self, x: Tensor, part: Tensor) -> Tensor:
        """(B) lam |D x| - <u, D x> with part = D'u: sums of terms that are not negative, but for rounding."""
        step = torch.where(self.broken, 0.0, x.diff())
        return (self.lam * step.abs() + running_sums(part)[..., :-1] * step).sum((-2, -1))


def grid(z: Tensor, lam: Tensor, tol: float, max_iter: int) -> Solved:
    """The proximal point of (B, H, W) finite scores, -inf where an entry is removed, with lam (B, 1, 1); right where
    sparsemax of it is not zero.
    """
    there = z > -torch.inf
    top = z.amax((-2, -1), keepdim=True).nan_to_num(neginf=0.0)
    # The largest x is at least top - 4 lam, and tau at least that less 1. What is lower than tau by 4 lam is below it
    # in x whatever its neighbours do, and pulls at them with all it has: how low it is makes no difference.
    z = torch.where(there, (z - top).clamp_min(-1 - 8 * lam), 0.0)
    rows, columns = _Chains(lam, _broken(there)), _Chains(lam, _broken(there.mT))
    cells = z.shape[-2] * z.shape[-1]
    # What rounding makes of sums over all steps.
    size = 1 + z.abs().amax((-2, -1))
    floor = torch.finfo(z.dtype).eps * cells * size * torch.minimum(lam.flatten(), size)
    x, across, down = z, torch.zeros_like(z), torch.zeros_like(z)
    before, pace = down, torch.ones_like(lam)
    gap, iterations = torch.full_like(floor, torch.inf), torch.zeros_like(floor, dtype=torch.int64)
    for _ in range(max_iter):
        live = (gap > torch.clamp_min(floor, tol))[:, None, None]
        if not bool(live.any()):
            break
        faster = (1 + (1 + 4 * pace.square()).sqrt()) / 2
        start = down + (pace - 1) / faster * (down - before)
        new_across = rows.dual(z - start)[1]
        new_x, new_down = (y.mT for y in columns.dual((z - new_across).mT))
        # Extrapolation that leads uphill starts anew.
        uphill = ((start - new_down) * (new_down - down)).sum((-2, -1), keepdim=True) > 0
        pace = torch.where(uphill, 1.0, faster)
        before = torch.where(live, torch.where(uphill, new_down, down), before)
        x, across, down = (
            torch.where(live, new, old) for new, old in ((new_x, x), (new_across, across), (new_down, down))
        )
        iterations += live.flatten()
        # Columns are solved exactly, x being their proximal point: they have no slack.
        gap = torch.where(live.flatten(), rows.slack(x, across), gap)

    def measured(y: Tensor) -> Tensor:
        distance = (y - (z - across - down)).square().sum((-2, -1)) / 2
        return distance + rows.slack(y, across) + columns.slack(y.mT, down.mT)

    def exact(apart: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        group, pull = _groups(x, rows.broken, columns.broken, apart)
        flat = z.flatten(1) - lam.flatten(1) * pull
        return group_means(flat, group), group, pull

    # With the right groups and signs x* is known in closed form. Entries that differ by more than the gap allows are in
    # different groups; whether the others are in the same one, the gap shows.
    sure = exact(2 * (2 * gap.clamp_min(0)).sqrt() + floor)
    own = _groups(x, rows.broken, columns.broken, floor)
    sure_gap = measured(sure[0].view_as(z))
    better = sure_gap <= torch.maximum(gap, floor)
    kept = better[:, None]
    point = torch.where(kept, sure[0], group_means(x.flatten(1), own[0]))
    gap = torch.where(better, sure_gap, measured(point.view_as(z))).clamp_min(0)
    point = torch.where(there.flatten(1), point + top.flatten(1), -torch.inf)
    fused = Fused(point, torch.where(kept, sure[1], own[0]), torch.where(kept, sure[2], own[1]))
    return Solved(fused, gap, iterations, gap <= torch.clamp_min(floor, tol))


def _broken(there: Tensor) -> Tensor:
    return ~(there[..., 1:] & there[..., :-1])


def _groups(x: Tensor, rows: Tensor, columns: Tensor, apart: Tensor) -> tuple[Tensor, Tensor]:
    """(B, H W) the first member of each entry's group, and the pull of its neighbours in other groups; neighbours are
    in one if their difference is not larger than (B) apart.
    """
    across, down = x.diff(), x.mT.diff()
    near = apart[:, None, None]
    beside, below = ~rows & (across.abs() <= near), (~columns & (down.abs() <= near)).mT
    group = torch.arange(x[0].numel(), device=x.device).expand(len(x), -1).view(x.shape)
    for _ in range(x[0].numel()):
        new = group.clone()
        new[:, :, 1:] = torch.where(beside, torch.minimum(new[:, :, 1:], group[:, :, :-1]), new[:, :, 1:])
        new[:, :, :-1] = torch.where(beside, torch.minimum(new[:, :, :-1], group[:, :, 1:]), new[:, :, :-1])
        new[:, 1:] = torch.where(below, torch.minimum(new[:, 1:], group[:, :-1]), new[:, 1:])
        new[:, :-1] = torch.where(below, torch.minimum(new[:, :-1], group[:, 1:]), new[:, :-1])
        # A member's first one may know of an earlier one.
        new = new.flatten(1).gather(1, new.flatten(1)).view_as(new)
        if torch.equal(new, group):
            break
        group = new
    same = (group.diff() == 0, group.mT.diff() == 0)
    signs = [
        torch.where(cut | one, 0.0, step.sign())
        for cut, one, step in zip((rows, columns), same, (across, down), strict=True)
    ]
    pull = differences_transposed(signs[0]) + differences_transposed(signs[1]).mT
    return group.flatten(1), pull.flatten(1)
