"""Sequences of states, with scores of transitions."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from ..core.errors import ParameterError, ShapeError
from ..core.inputs import check_tensor, is_integer
from ..core.structures import Structures
from .factor import Factor, Scores, one_hot, where_best
from .lengths import checked_lengths


class Sequence(Factor):
    """A state at each of L places, and a transition between neighbours.

    Args:
        length: L; items of a batch may be shorter, see `lengths` of `sparsemap`.
        states: S of them. Scores are (B, L, S), those of transitions (S, S) or (B, L - 1, S, S), from one state to the
            next; what lies behind an item's length is not looked at.

    References:
        niculae2018sparsemap
    """

    chooses = True

    def __init__(self, length: int, states: int) -> None:
        for name, value in (("length", length), ("states", states)):
            if not is_integer(value) or value < 1:
                raise ParameterError(f"{name}={value!r}", "a whole number, 1 at least", "Choose one")
        self.length, self.states = int(length), int(states)
        self.natural = (self.length, self.states)
        self.variables = self.length * self.states
        self.additional = (self.length - 1) * self.states**2

    def flat(self, scores: object, more: object = None, lengths: Tensor | None = None) -> Scores:
        given = super().flat(scores, more)
        if lengths is None:
            return given
        found = checked_lengths(lengths, len(given.unary), self.length, given.unary)
        steps = self._before(found)[:, 1:].repeat_interleave(self.states**2, 1)
        return Scores(self.inside(given.unary, found), torch.where(steps, given.additional, 0.0), found)

    def _before(self, lengths: Tensor) -> Tensor:
        """(B, L) which places lie before the ends of items."""
        return torch.arange(self.length, device=lengths.device) < lengths[:, None]

    def inside(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is None:
            return x
        return torch.where(self._before(lengths).repeat_interleave(self.states, 1), x, 0.0)

    def _pairs(self, x: Tensor, more: object) -> Tensor:
        if more is None:
            return super()._pairs(x, more)
        y, S = check_tensor(more, "additional"), self.states
        shapes = ((S, S), (len(x), self.length - 1, S, S))
        if tuple(y.shape) not in shapes:
            raise ShapeError(f"transitions of shape {tuple(y.shape)}", f"{shapes[0]} or {shapes[1]}", "Reshape them")
        return y.double().expand(shapes[1]).reshape(len(x), self.additional)

    def best(self, scores: Scores) -> Tensor:
        return where_best(self._value, scores)

    def described(self) -> Structures:
        return Structures("sequence", self.variables, self.additional, self.length, self.states)

    def _value(self, unary: Tensor, additional: Tensor, lengths: Tensor | None) -> Tensor:
        x, y = unary.unflatten(1, self.natural), additional.unflatten(1, (self.length - 1, self.states, self.states))
        value = x[:, 0]
        for t in range(1, self.length):
            after = (value[:, :, None] + y[:, t - 1]).max(1).values + x[:, t]
            value = after if lengths is None else torch.where((t < lengths)[:, None], after, value)
        total = value.max(1).values
        return total if lengths is None else torch.where(lengths > 0, total, 0.0)

    def pairs(self, unary: Tensor) -> Tensor:
        at = unary.unflatten(1, self.natural)
        return (at[:, :-1, :, None] * at[:, 1:, None, :]).flatten(1)

    def enumerate_all(self) -> Tensor:
        if self.length * torch.log2(torch.tensor(float(self.states))) > 16:
            raise ParameterError(f"{self.states}^{self.length} sequences", "2^16 at most to enumerate", "Be smaller")
        paths = torch.tensor(list(product(range(self.states), repeat=self.length)))
        unary = one_hot(paths, self.states).flatten(1)
        return torch.cat([unary, self.pairs(unary)], 1)
