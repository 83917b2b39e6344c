"""What a search keeps of prefixes, so that each step runs on one token of each: a tree of keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from ..core.errors import ParameterError
from .seq2seq_grid import Grid

# Places for tokens that a tree has to spare at least when it is made again; else half as many as are in use.
ROOM = 8
# Empty prefixes at most that share a tree: each is scored against the tokens of all.
MOST = 16


@dataclass(frozen=True)
class Memory:
    """What the decoder attends to in the sources.

    Attributes:
        keys: keys and values (G, H, S, d) of each layer.
        keep: (G, S) False where sources are padding.
    """

    keys: list[tuple[Tensor, Tensor]]
    keep: Tensor

    def select(self, rows: Tensor) -> Memory:
        """That of some groups."""
        keys = [(k.index_select(0, rows), v.index_select(0, rows)) for k, v in self.keys]
        return Memory(keys, self.keep.index_select(0, rows))

    def join(self, others: Sequence[Memory]) -> Memory:
        """Followed by that of other groups."""
        length = max(x.keep.shape[1] for x in (self, *others))
        parts = [x._padded(length) for x in (self, *others)]
        layers = zip(*(x.keys for x in parts), strict=True)
        keys = [(torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer])) for layer in layers]
        return Memory(keys, torch.cat([x.keep for x in parts]))

    def _padded(self, length: int) -> Memory:
        more = length - self.keep.shape[1]
        if not more:
            return self
        keys = [(functional.pad(k, (0, 0, 0, more)), functional.pad(v, (0, 0, 0, more))) for k, v in self.keys]
        return Memory(keys, functional.pad(self.keep, (0, more)))


class Nodes:
    """Keys and values of the tokens of prefixes, each once for all prefixes that go on from it.

    Columns in use are never written again. States that follow each other share one object: the first to go on from the
    last column in use takes the next ones.

    Attributes:
        kept: (layers, 2, G, H, room, d).
        used: columns that some state has taken.
    """

    def __init__(self, kept: Tensor, used: int) -> None:
        self.kept, self.used = kept, used

    def gathered(self, groups: Tensor, columns: Tensor) -> Tensor:
        """What columns (G', room') of some groups (G') hold."""
        layers, _, count, heads, places, width = self.kept.shape
        device = columns.device
        rows = groups[:, None] * heads + torch.arange(heads, device=device)
        index = rows[:, :, None] * places + columns[:, None]
        index = torch.arange(2 * layers, device=device)[:, None] * (count * heads * places) + index.flatten()
        found = self.kept.flatten(0, 4).index_select(0, index.flatten())
        return found.view(layers, 2, len(groups), heads, columns.shape[1], width)


@dataclass(frozen=True)
class Cache:
    """State of R prefixes of one length, in groups of one source each.

    What a state holds is never changed. A step writes behind what others see, and copies only where there is no room or
    another step has been there; then tokens that no prefix goes on from are left out.

    Attributes:
        memory: of the groups.
        grid: the groups of prefixes.
        path: (R, n) which of the first n columns of the group's tree are tokens of a prefix.
        nodes: of the trees; None before the first token.
        length: tokens of each prefix.
    """

    memory: Memory
    grid: Grid
    path: Tensor
    nodes: Nodes | None = None
    length: int = 0

    @classmethod
    def before_all(cls, memory: Memory) -> Cache:
        """That of one empty prefix for each source."""
        rows, device = len(memory.keep), memory.keep.device
        return cls(memory, Grid.apart(rows, device), torch.zeros(rows, 0, dtype=torch.bool, device=device))

    @property
    def bytes(self) -> int:
        """Bytes of all keys and values, those of states that share them included."""
        tensors = [x for layer in self.memory.keys for x in layer]
        tensors += [] if self.nodes is None else [self.nodes.kept]
        return sum(x.numel() * x.element_size() for x in tensors)

    def select(self, rows: Tensor) -> Cache:
        """The state of the given rows, which may repeat. Groups without any are left out once they are half of all."""
        grid = self.grid.select(rows)
        chosen = replace(self, grid=grid, path=self.path.index_select(0, rows))
        # Many prefixes that start together are draws: they will have little in common.
        parts = -(-grid.most // MOST) if self.nodes is None else 1
        if parts == 1 and not grid.half_empty:
            return chosen
        parts = max(1, parts)
        present, group = (grid.group * parts + grid.within % parts).unique(return_inverse=True)
        return chosen._regrouped(present // parts, Grid(group, len(present)))

    def join(self, others: Sequence[Cache]) -> Cache:
        """This state's rows followed by those of the others, whose prefixes are as long."""
        every = (self, *others)
        if len(lengths := {cache.length for cache in every}) > 1:
            raise ParameterError(
                f"states of prefixes of {sorted(lengths)} tokens", "prefixes of one length", "Join those of each length"
            )
        grid, memory = Grid.joined([x.grid for x in every]), self.memory.join([cache.memory for cache in others])
        live = [cache._live() for cache in every]
        used = max(columns.shape[1] for columns, _ in live)
        path = torch.cat([functional.pad(path, (0, used - path.shape[1])) for _, path in live])
        if self.nodes is None:
            return Cache(memory, grid, path)
        places = room(used, grid.most)
        kept = [cache._gathered(columns, places) for cache, (columns, _) in zip(every, live, strict=True)]
        return Cache(memory, grid, path, Nodes(torch.cat(kept, 2), used), self.length)

    def longer(self) -> Cache:
        """The state with a place for one token more of each prefix, which `written` fills."""
        nodes, path, more = self.nodes, self.path, self.grid.most
        if nodes is None:
            k, _ = self.memory.keys[0]
            size = (len(self.memory.keys), 2, len(k), k.shape[1], room(0, more), k.shape[3])
            nodes = Nodes(k.new_zeros(size), 0)
        elif nodes.used != path.shape[1] or nodes.used + more > nodes.kept.shape[4]:
            columns, path = self._live()
            nodes = Nodes(self._gathered(columns, room(columns.shape[1], more)), columns.shape[1])
        nodes.used += more
        own = self.grid.within[:, None] == torch.arange(more, device=path.device)
        return replace(self, path=torch.cat([path, own], 1), nodes=nodes, length=self.length + 1)

    def heads(self, x: Tensor) -> Tensor:
        """(R, H, 1, d) to (G, H, W, d)."""
        return self.grid.put(x.squeeze(2)).transpose(1, 2)

    @cached_property
    def ancestors(self) -> Tensor:
        """(G, 1, W, n) which tokens of its tree a prefix consists of."""
        return self.grid.put(self.path)[:, None]

    def written(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (G, H, n, d) of a layer, those of the last tokens (R, H, 1, d) put in."""
        assert self.nodes is not None
        n = self.path.shape[1]
        found = self.nodes.kept[layer, :, :, :, :n]
        for kept, new in zip(found, (key, value), strict=True):
            kept[:, :, n - self.grid.most :] = self.heads(new)
        return found[0], found[1]

    def _live(self) -> tuple[Tensor, Tensor]:
        """Columns (G, n') that prefixes consist of, with some that none does where other groups have more; and the
        paths in them.
        """
        live = self.grid.put(self.path).any(1)
        n = int(live.sum(1).max()) if live.numel() else 0
        columns = live.byte().argsort(dim=1, descending=True, stable=True)[:, :n]
        return columns, self.path.gather(1, columns[self.grid.group])

    def _gathered(self, columns: Tensor, places: int) -> Tensor:
        """Keys and values of columns (G, n), in trees of more room."""
        assert self.nodes is not None
        groups = torch.arange(self.grid.count, device=columns.device)
        return self.nodes.gathered(groups, _spare(columns, places))

    def _regrouped(self, origin: Tensor, grid: Grid) -> Cache:
        """The state in other groups, each of which was a part of one before, its origin."""
        chosen = replace(self, memory=self.memory.select(origin), grid=grid)
        if self.nodes is None:
            return chosen
        columns, path = chosen._live()
        kept = self.nodes.gathered(origin, _spare(columns, room(columns.shape[1], grid.most)))
        return replace(chosen, path=path, nodes=Nodes(kept, columns.shape[1]))


def _spare(columns: Tensor, places: int) -> Tensor:
    """Columns (G, n) and, up to so many, one that is there. Attention multiplies what is nobody's by zero, which memory
    that was never written does not bear.
    """
    return functional.pad(columns, (0, places - columns.shape[1]))


def room(used: int, more: int) -> int:
    """Columns of a tree made to go on from so many in use, by so many at a time."""
    return used + max(more, used // 2, ROOM)
