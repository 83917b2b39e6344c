"""Rows in groups beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor


class Grid:
    """Prefixes of a group beside each other: R rows as (G, W), W the most prefixes of a group.

    Attributes:
        group: (R) that of each row.
        count: how many groups there are.
    """

    def __init__(self, group: Tensor, count: int) -> None:
        self.group, self.count = group, count

    @classmethod
    def apart(cls, rows: int, device: torch.device) -> Grid:
        """Each row a group of its own."""
        return cls(torch.arange(rows, device=device), rows)

    @classmethod
    def joined(cls, grids: Sequence[Grid]) -> Grid:
        """The groups of all, one grid's after the other's."""
        groups, count = [], 0
        for grid in grids:
            groups.append(grid.group + count)
            count += grid.count
        return cls(torch.cat(groups), count)

    def select(self, rows: Tensor) -> Grid:
        """That of the given rows, which may repeat; groups may have none then."""
        return Grid(self.group.index_select(0, rows), self.count)

    @cached_property
    def half_empty(self) -> bool:
        """Whether half of the groups or more have no row: time to leave them out."""
        return 2 * int((self.sizes > 0).sum()) <= self.count

    @cached_property
    def sizes(self) -> Tensor:
        """(G) rows of each group."""
        return self.group.bincount(minlength=self.count)

    @cached_property
    def most(self) -> int:
        """W."""
        return int(self.sizes.max()) if self.count else 0

    @cached_property
    def within(self) -> Tensor:
        """(R) which row of its group each is."""
        order = self.group.argsort(stable=True)
        first = (self.sizes.cumsum(0) - self.sizes)[self.group[order]]
        within = torch.empty_like(order)
        within[order] = torch.arange(len(order), device=order.device) - first
        return within

    @cached_property
    def _places(self) -> Tensor | None:
        """Where rows stand in the grid; None if it is they, in their order."""
        places = self.group * self.most + self.within
        full = len(places) == self.count * self.most
        return None if full and bool((places[1:] > places[:-1]).all()) else places

    def put(self, x: Tensor) -> Tensor:
        """(R, ...) to (G, W, ...), zeros where there is no row."""
        if self._places is not None:
            grid = x.new_zeros(self.count * self.most, *x.shape[1:])
            grid[self._places] = x
            x = grid
        return x.view(self.count, self.most, *x.shape[1:])

    def take(self, x: Tensor) -> Tensor:
        """(G, W, ...) to (R, ...)."""
        x = x.flatten(0, 1)
        return x if self._places is None else x.index_select(0, self._places)
