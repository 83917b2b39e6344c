"""Keys and values that a search keeps, so that each step runs on one token of each prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

# Places by which kept keys and values grow at a time: fewer allocations, and at most so many unused.
ROOM = 16


@dataclass(frozen=True)
class Memory:
    """What the decoder attends to in the sources, kept once for all prefixes of a sentence.

    Attributes:
        keys: keys and values (B, H, S, d) of each layer.
        keep: (B, S) False where sources are padding.
    """

    keys: list[tuple[Tensor, Tensor]]
    keep: Tensor

    def select(self, rows: Tensor) -> Memory:
        """That of some sentences."""
        keys = [(k.index_select(0, rows), v.index_select(0, rows)) for k, v in self.keys]
        return Memory(keys, self.keep.index_select(0, rows))

    def join(self, other: Memory) -> Memory:
        """Followed by that of other sentences."""
        length = max(self.keep.shape[1], other.keep.shape[1])
        mine, theirs = self._padded(length), other._padded(length)
        keys = [
            (torch.cat([k, k2]), torch.cat([v, v2])) for (k, v), (k2, v2) in zip(mine.keys, theirs.keys, strict=True)
        ]
        return Memory(keys, torch.cat([mine.keep, theirs.keep]))

    def _padded(self, length: int) -> Memory:
        more = length - self.keep.shape[1]
        keys = [(functional.pad(k, (0, 0, 0, more)), functional.pad(v, (0, 0, 0, more))) for k, v in self.keys]
        return Memory(keys, functional.pad(self.keep, (0, more)))


@dataclass(frozen=True)
class Cache:
    """State of R prefixes of one length. It is never changed: a step makes a new one, with one copy of what is kept of
    the chosen rows.

    Attributes:
        memory: of B sentences.
        sentence: (R) which of them a prefix is a target of.
        past: (layers, 2, rows, H, room, d) keys and values of the tokens; None before the first.
        chosen: (R) the rows of past that prefixes are continued from; None for all.
        length: tokens of each prefix.
    """

    memory: Memory
    sentence: Tensor
    past: Tensor | None = None
    chosen: Tensor | None = None
    length: int = 0
    _places: list[tuple[Tensor, int]] = field(default_factory=list, repr=False, compare=False)

    @classmethod
    def before_all(cls, memory: Memory) -> Cache:
        """That of one empty prefix for each sentence."""
        return cls(memory, torch.arange(len(memory.keep), device=memory.keep.device))

    def select(self, rows: Tensor) -> Cache:
        """The state of the given rows; what is kept is copied in the next step only."""
        sentence = self.sentence.index_select(0, rows)
        memory, present = self.memory, sentence.unique()
        if 2 * len(present) <= len(memory.keep):
            # Most sentences are finished: attention to the others would go on costing time.
            memory, sentence = memory.select(present), torch.searchsorted(present, sentence)
        chosen = rows if self.chosen is None else self.chosen.index_select(0, rows)
        return replace(self, memory=memory, sentence=sentence, chosen=chosen, _places=[])

    def join(self, others: Sequence[Cache]) -> Cache:
        """This state's rows followed by those of the others, whose prefixes are as long."""
        memory, sentences = self.memory, [self.sentence]
        for other in others:
            first = 0
            if other.memory is not self.memory:
                first, memory = len(memory.keep), memory.join(other.memory)
            sentences.append(other.sentence + first)
        if self.past is None:
            past = None
        else:
            parts = [cache.copied(self.past.shape[4]) for cache in (self, *others)]
            past = torch.cat(parts, 2)
        return Cache(memory, torch.cat(sentences), past, None, self.length)

    def longer(self) -> Cache:
        """The state with a place for one token more of each prefix, which `written` fills."""
        if self.past is None:
            k, v = self.memory.keys[0]
            size = (len(self.memory.keys), 2, len(self.sentence), k.shape[1], ROOM, k.shape[3])
            past = v.new_zeros(size)
        else:
            room = self.past.shape[4]
            past = self.copied(room + ROOM if self.length == room else room)
        return replace(self, past=past, chosen=None, length=self.length + 1, _places=[])

    def copied(self, room: int) -> Tensor:
        """What is kept of the chosen rows, with this much room."""
        assert self.past is not None
        past = self.past.clone() if self.chosen is None else self.past.index_select(2, self.chosen)
        return functional.pad(past, (0, 0, 0, room - past.shape[4])) if room != past.shape[4] else past

    def written(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (R, H, length, d) of a layer, those of the last token (R, H, 1, d) put in."""
        assert self.past is not None
        kept = self.past[layer, :, :, :, : self.length]
        kept[0, :, :, -1:], kept[1, :, :, -1:] = key, value
        return kept[0], kept[1]

    def grid(self, layer: int, query: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries (R, H, 1, d) as (B, H, W, d), those of a sentence beside each other; the keys and values (B, H, S, d)
        of sentences; and which of those are there (B, 1, 1, S).
        """
        places, most = self._grid()
        _, heads, _, width = query.shape
        grid = query.new_zeros(len(self.memory.keep) * most, heads, width)
        grid[places] = query.squeeze(2)
        keep = self.memory.keep[:, None, None]
        return grid.unflatten(0, (-1, most)).transpose(1, 2), *self.memory.keys[layer], keep

    def ungrid(self, x: Tensor) -> Tensor:
        """(B, W, width) to (R, 1, width)."""
        return x.flatten(0, 1).index_select(0, self._grid()[0])[:, None]

    def _grid(self) -> tuple[Tensor, int]:
        """Where each prefix stands in the grid, and its width."""
        if not self._places:
            counts = self.sentence.bincount(minlength=len(self.memory.keep))
            order = self.sentence.argsort(stable=True)
            first = (counts.cumsum(0) - counts)[self.sentence[order]]
            within = torch.empty_like(order)
            within[order] = torch.arange(len(order), device=order.device) - first
            most = int(counts.max()) if len(counts) else 0
            self._places.append((self.sentence * most + within, most))
        return self._places[0]
