"""Batches whose order depends on (seed, epoch) alone, and that can go on in the middle of an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset, Sampler

from .seeding import derive, generator


class Order(Sampler[Tensor]):
    """Positions of each batch; shuffled if there is a seed.

    Processes of a distributed run share the examples out. In training some batches may come twice, so that all of them
    have equally many; an evaluation sees every example once.
    """

    def __init__(self, n: int, batch_size: int, seed: int | None) -> None:
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer at the start of every epoch."""
        self.epoch = epoch

    def _batches(self) -> tuple[Tensor, ...]:
        rank, world = _world()
        if self.seed is None:
            return torch.arange(self.n)[rank::world].split(self.batch_size)
        batches = torch.randperm(self.n, generator=generator(self.seed, "order", self.epoch)).split(self.batch_size)
        # Every process takes the same number of batches, or their collectives would wait for each other for ever.
        rounds = math.ceil(len(batches) / world)
        return tuple(batches[(i * world + rank) % len(batches)] for i in range(rounds))

    def __len__(self) -> int:
        return len(self._batches())

    def __iter__(self) -> Iterator[Tensor]:
        yield from self._batches()[self.start :]


class _Batches(Dataset[Any]):
    """A function from positions to a batch, as a data set of batches."""

    def __init__(self, take: Callable[[Tensor], Any]) -> None:
        self.take = take

    def __getitem__(self, positions: Tensor) -> Any:
        return self.take(positions)


class Loader(DataLoader[Any]):
    """Batches ``take(positions)`` of n examples, with the Trainer's protocol for going on after a checkpoint.

    Args:
        take: a function from positions (B,) to a batch.
        n: number of examples.
        batch_size: B; the last batch may be smaller.
        seed: of the order; None keeps the order.
        workers: number of processes that call ``take``.
    """

    def __init__(
        self, take: Callable[[Tensor], Any], n: int, batch_size: int, seed: int | None = None, workers: int = 0
    ) -> None:
        self.n = n
        self._done = self._start = 0
        self._order = Order(n, batch_size, seed)
        self._workers_seed = torch.Generator()
        super().__init__(
            _Batches(take),
            batch_size=None,
            sampler=self._order,
            num_workers=workers,
            generator=self._workers_seed,
            persistent_workers=False,
        )

    @property
    def epoch(self) -> int:
        """Which pass this is, from 0."""
        return self._order.epoch

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # A generator: nothing happens before the first batch is asked for, and by then the epoch is known.
        self._done = self._order.start = self._start
        self._start = 0
        self._workers_seed.manual_seed(derive(self._order.seed or 0, "workers", self._order.epoch))
        for batch in super().__iter__():
            self._done += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches of this epoch are done."""
        return {"done": self._done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next pass after so many batches."""
        self._start = state["done"]


def buckets(lengths: Tensor, room: int, draws: torch.Generator) -> list[Tensor]:
    """Positions of the batches of an epoch: examples of a length in random order, as many as fit into so much room,
    padding included, or one. Always equally many batches.
    """
    order = torch.randperm(len(lengths), generator=draws)
    order = order[lengths[order].argsort(stable=True)]
    batches, first = [], 0
    for last, length in enumerate(lengths[order].tolist()):
        if last > first and length * (last + 1 - first) > room:
            batches.append(order[first:last])
            first = last
    return [*batches, order[first:]]


def bucketed(take: Callable[[Tensor], Any], lengths: Tensor, room: int, seed: int) -> Loader:
    """Batches ``take(positions)`` of examples that are about as long as each other (`buckets`), in random order."""
    known: dict[int, list[Tensor]] = {}

    def batch(number: Tensor) -> Any:
        epoch = loader.epoch
        if epoch not in known:
            known.clear()
            known[epoch] = buckets(lengths, room, generator(seed, "buckets", epoch))
        return take(known[epoch][int(number)])

    loader = Loader(batch, len(buckets(lengths, room, generator(0))), 1, seed)
    return loader


def _world() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
