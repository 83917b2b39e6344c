"""All factors of a graph as stacks, and their copies of variables in one row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .factor import Factor
from .logic import AndOut, AtMostOne, Bits, Budget, Imply, Or, OrOut, Pair, Simplex, XorOut
from .stacks import Logic, Pairs, Place, Stack, Structured, never

_LOGIC = (Simplex, AtMostOne, Or, XorOut, Imply, Budget, Bits, OrOut, AndOut)


def stacked(places: list[Place], none: int) -> list[tuple[Stack, list[int]]]:
    """Stacks of factors, and of which places. A subclass of a factor may be anything."""
    groups: dict[Any, list[int]] = {}
    for number, place in enumerate(places):
        kind, width = type(place.factor), place.factor.variables
        if kind in _LOGIC:
            # Padded: up to 8, or to twice as many as there are.
            key: Any = (Logic, max(3, (width - 1).bit_length()))
        elif kind is Pair:
            key = (Pairs,)
        else:
            key = (Structured, kind, _attributes(place.factor))
        groups.setdefault(key, []).append(number)
    for numbers in groups.values():
        numbers.sort(key=lambda i: type(places[i].factor) in (OrOut, AndOut))
    return [(key[0]([places[i] for i in numbers], none), numbers) for key, numbers in groups.items()]


def _attributes(factor: Factor) -> Any:
    """The same for factors of a class that are the same; tensors are if they are one object."""
    found = tuple(sorted(vars(factor).items()))
    try:
        hash(found)
    except TypeError:
        return id(factor)
    return found


class Layout:
    """Where each factor's copies are in one row of all copies, C of them.

    Attributes:
        graph: whose it is.
        count: n variables; number n stands for none.
        stacks: of factors.
        where: the stack of each place, and its number there.
        index: (C) variables of copies.
        sign, offset: (C) copies of variables z are sign z + offset.
        reach: (C) where copies of variables that are 0 go, in units of the others' size.
        real: (C) 0 for padding.
        degree: (n + 1) how many copies each has.
        never: (n + 1) variables that can only be 0, and none.
    """

    def __init__(self, graph: object, places: list[Place], count: int) -> None:
        self.graph, self.count = graph, count
        found = stacked(places, count)
        self.stacks: list[Stack] = [stack for stack, _ in found]
        self.where = {number: (s, i) for s, (_, numbers) in enumerate(found) for i, number in enumerate(numbers)}
        self.index = self._flat([stack.index for stack in self.stacks]).long()
        self.sign = self._flat([stack.sign for stack in self.stacks])
        self.offset = self._flat([stack.offset for stack in self.stacks])
        self.reach = self._flat([stack.reach() for stack in self.stacks])
        self.real = (self.index < count).double()
        self.degree = torch.zeros(count + 1, dtype=torch.float64).index_add_(0, self.index, self.real)
        self.never = torch.zeros(count + 1, dtype=torch.bool)
        self.never[count] = True
        for place in places:
            out = never(place.factor)
            self.never[place.index[:, out][~place.negated[:, out]]] = True

    def _flat(self, parts: list[Tensor]) -> Tensor:
        return torch.cat([torch.zeros(0, dtype=torch.float64), *(part.flatten().double() for part in parts)])

    def to(self, device: torch.device) -> None:
        """Move what is looked up in every iteration."""
        for stack in self.stacks:
            stack.to(device)
        for name in ("index", "sign", "offset", "real", "reach", "degree", "never"):
            setattr(self, name, getattr(self, name).to(device))

    def spread(self, v: Tensor) -> Tensor:
        """(B, C) changes of copies with those of variables, (B, n + 1)."""
        return self.sign * v[:, self.index]

    def copies(self, z: Tensor) -> Tensor:
        """(B, C) copies of variables."""
        return self.spread(z) + self.offset

    def gathered(self, c: Tensor) -> Tensor:
        """(B, n + 1) the transpose of `spread`."""
        into = c.new_zeros(len(c), self.count + 1)
        return into.scatter_add_(1, self.index.expand(len(c), -1), self.sign * c)

    def parts(self, c: Tensor) -> list[Tensor]:
        """(B, F, w) of each stack."""
        split = c.split([stack.index.numel() for stack in self.stacks], 1)
        return [part.unflatten(1, stack.index.shape) for part, stack in zip(split, self.stacks, strict=True)]

    def joined(self, like: Tensor, parts: list[Tensor]) -> Tensor:
        """(B, C) of all stacks, for the batch of another tensor."""
        return torch.cat([like.new_zeros(len(like), 0), *(part.flatten(1) for part in parts)], 1)

    def targets(self, t: Tensor, held: Tensor, most: Tensor) -> list[Tensor]:
        """What is projected: with copies of fixed variables so far out that they become 0, or 1 if negated, whatever
        scores of pairs up to `most` (B, 1) are in favour of.
        """
        far = 1 + torch.maximum(t.abs().amax(1, keepdim=True), most) if t.shape[1] else t
        return self.parts(torch.where(held, far * self.reach, t))

    def rms(self, c: Tensor) -> Tensor:
        """(B) root of the mean square of (B, C)."""
        return ((c.square() * self.real).sum(1) / self.real.sum().clamp_min(1)).sqrt()
