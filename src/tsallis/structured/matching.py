"""Matchings between two sets."""

from __future__ import annotations

from itertools import permutations
from math import perm

import torch
from torch import Tensor

from ..core.errors import ParameterError
from ..core.inputs import is_integer
from ..core.structures import Structures
from .factor import Factor, Scores


class Matching(Factor):
    """Each of n rows has a column of its own among m.

    Args:
        n: rows.
        m: columns, n at least; None for n. Scores are (B, n, m).

    References:
        niculae2018sparsemap
    """

    chooses = True

    def __init__(self, n: int, m: int | None = None) -> None:
        m = n if m is None else m
        if not (is_integer(n) and is_integer(m)) or not 1 <= n <= m:
            raise ParameterError(f"n={n!r}, m={m!r}", "whole numbers, 1 <= n <= m", "Turn the scores round")
        self.natural, self.variables = (int(n), int(m)), int(n) * int(m)

    def best(self, scores: Scores) -> Tensor:
        x = scores.unary.unflatten(1, self.natural)
        columns = assignment(-_without_infinities(x))
        return torch.zeros_like(x).scatter_(2, columns[..., None], 1.0).flatten(1)

    def described(self) -> Structures:
        return Structures("matching", self.variables, places=self.natural[0], columns=self.natural[1])

    def enumerate_all(self) -> Tensor:
        n, m = self.natural
        if perm(m, n) > 2**16:
            raise ParameterError(f"{perm(m, n)} matchings", "2^16 at most to enumerate", "Choose a smaller size")
        columns = torch.tensor(list(permutations(range(m), n)))
        return torch.nn.functional.one_hot(columns, m).double().flatten(1)


def _without_infinities(x: Tensor) -> Tensor:
    """-inf as a number so low that no sum of others makes up for it."""
    finite = torch.where(torch.isfinite(x), x, 0.0)
    spread = (finite.amax((1, 2)) - finite.amin((1, 2)) + 1.0)[:, None, None]
    return torch.where(torch.isfinite(x), x, finite.amin((1, 2), keepdim=True) - 2 * x.shape[1] * spread)


def assignment(cost: Tensor) -> Tensor:
    """(B, n) columns of the cheapest matchings of (B, n, m): shortest augmenting paths, a batch at once.

    Rows enter one after the other. From the new row the nearest column by reduced cost is looked for, through rows that
    have columns; when a free one is found, the columns on the way change hands.
    """
    batch, n, m = cost.shape
    each = torch.arange(batch, device=cost.device)
    # Place m is where a row that enters waits.
    owner = torch.full((batch, m + 1), n, device=cost.device)
    u, v = cost.new_zeros(batch, n + 1), cost.new_zeros(batch, m + 1)
    padded = torch.nn.functional.pad(cost, (0, 0, 0, 1))
    for row in range(n):
        owner[:, m] = row
        at = torch.full((batch,), m, device=cost.device)
        seen = torch.zeros(batch, m + 1, dtype=torch.bool, device=cost.device)
        near = cost.new_full((batch, m), torch.inf)
        way = torch.full((batch, m), m, device=cost.device)
        live = torch.ones(batch, dtype=torch.bool, device=cost.device)
        while bool(live.any()):
            seen[each, at] |= live
            here = owner[each, at]
            reduced = padded[each, here] - u[each, here, None] - v[:, :m]
            closer = (reduced < near) & ~seen[:, :m] & live[:, None]
            near = torch.where(closer, reduced, near)
            way = torch.where(closer, at[:, None], way)
            step, nearest = near.masked_fill(seen[:, :m], torch.inf).min(1)
            step = torch.where(live, step, 0.0)
            moved = torch.where(seen, step[:, None], 0.0)
            # Owners of seen columns are different rows; all others add nothing.
            u.scatter_add_(1, owner, moved)
            v -= moved
            near = torch.where(seen[:, :m], near, near - step[:, None])
            at = torch.where(live, nearest, at)
            live = live & (owner[each, at] != n)
        while bool((moving := at != m).any()):
            before = way[each, at.clamp_max(m - 1)]
            owner[each, at] = torch.where(moving, owner[each, before], owner[each, at])
            at = torch.where(moving, before, at)
    columns = torch.zeros(batch, n + 1, dtype=torch.int64, device=cost.device)
    return columns.scatter_(1, owner[:, :m], torch.arange(m, device=cost.device).expand(batch, m))[:, :n]
