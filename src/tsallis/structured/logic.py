"""Bits with and without a budget, and the factors of propositional logic."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..core.errors import ParameterError, ShapeError
from ..core.inputs import check_tensor, is_integer
from ..core.structures import Structures
from .factor import Factor, Scores, one_hot, subsets

Geometry = Literal["on", "onoff"]


class _Binary(Factor):
    """n binary variables, of which some assignments are structures."""

    least = 1

    def __init__(self, n: int) -> None:
        if not is_integer(n) or n < self.least:
            raise ParameterError(f"n={n!r}", f"a whole number, {self.least} at least", "Choose one")
        self.variables, self.natural = int(n), (int(n),)

    def allowed(self, bits: Tensor) -> Tensor:
        """(S) which of (S, n) assignments are structures: all, unless a factor says otherwise."""
        return torch.ones(len(bits), dtype=torch.bool)

    def enumerate_all(self) -> Tensor:
        bits = subsets(self.variables)
        bits = bits[self.allowed(bits)]
        return torch.cat([bits, self.pairs(bits)], -1)


def _geometry(factor: Factor, geometry: Geometry) -> None:
    if geometry not in ("on", "onoff"):
        raise ParameterError(f"geometry={geometry!r}", '"on" or "onoff"', "Choose one")
    if geometry == "onoff":
        factor.shift, factor.spread = 1.0, 2.0


def _bits(factor: Factor, low: int, high: int) -> Structures:
    return Structures("bits", factor.variables, low=low, high=high)


class Bits(_Binary):
    """All 0/1 vectors of n bits.

    Args:
        n: how many.
        geometry: "on" counts bits that are on, marginals are clamp(x, 0, 1); "onoff" counts those that are off too,
            marginals are clamp((x + 1)/2, 0, 1).

    References:
        niculae2018sparsemap, correia2020efficient
    """

    def __init__(self, n: int, geometry: Geometry = "on") -> None:
        super().__init__(n)
        _geometry(self, geometry)

    def best(self, scores: Scores) -> Tensor:
        return (scores.unary > 0).double()

    def described(self) -> Structures:
        return _bits(self, 0, self.variables)

    def slopes(self, unary: Tensor) -> Tensor:
        return ((unary > 0) & (unary < 1)).double()


class Budget(_Binary):
    """0/1 vectors of n bits of which at most k are on, or exactly k.

    Args:
        n: how many bits.
        k: how many may be on.
        exact: whether so many have to be.
        geometry: as in `Bits`.
    """

    def __init__(self, n: int, k: int, exact: bool = False, geometry: Geometry = "on") -> None:
        super().__init__(n)
        if not is_integer(k) or not 0 <= k <= n:
            raise ParameterError(f"k={k!r}", f"a whole number in [0, {n}]", "Choose one")
        self.k, self.exact = int(k), bool(exact)
        _geometry(self, geometry)

    def best(self, scores: Scores) -> Tensor:
        x = scores.unary
        # Of equal scores the first; topk does not say which.
        order = x.argsort(dim=-1, descending=True, stable=True)[:, : self.k]
        chosen = torch.zeros_like(x).scatter_(-1, order, 1.0)
        return chosen if self.exact else chosen * (x > 0)

    def described(self) -> Structures:
        return _bits(self, self.k if self.exact else 0, self.k)

    def allowed(self, bits: Tensor) -> Tensor:
        on = bits.sum(-1)
        return on == self.k if self.exact else on <= self.k


class Simplex(_Binary):
    """Exactly one of n variables is on: marginals are sparsemax."""

    def best(self, scores: Scores) -> Tensor:
        return one_hot(scores.unary.argmax(-1), self.variables)

    def described(self) -> Structures:
        return _bits(self, 1, 1)

    def allowed(self, bits: Tensor) -> Tensor:
        return bits.sum(-1) == 1


class AtMostOne(_Binary):
    """At most one of n variables is on."""

    def best(self, scores: Scores) -> Tensor:
        top, index = scores.unary.max(-1, keepdim=True)
        return one_hot(index[:, 0], self.variables) * (top > 0)

    def described(self) -> Structures:
        return _bits(self, 0, 1)

    def allowed(self, bits: Tensor) -> Tensor:
        return bits.sum(-1) <= 1


class Or(_Binary):
    """At least one of n variables is on."""

    def best(self, scores: Scores) -> Tensor:
        return _some(scores.unary)

    def described(self) -> Structures:
        return _bits(self, 1, self.variables)

    def allowed(self, bits: Tensor) -> Tensor:
        return bits.any(-1)


class XorOut(_Binary):
    """At most one of the first n - 1 variables is on, and the last is on iff one is."""

    least = 2

    def best(self, scores: Scores) -> Tensor:
        x = scores.unary
        top, index = x[:, :-1].max(-1, keepdim=True)
        chosen = one_hot(index[:, 0], self.variables)
        chosen[:, -1] = 1.0
        return chosen * (top + x[:, -1:] > 0)

    def allowed(self, bits: Tensor) -> Tensor:
        return (bits[:, :-1].sum(-1) == bits[:, -1]) & (bits[:, -1] <= 1)


class OrOut(_Binary):
    """The last variable is on iff one of the others is, at least."""

    least = 2

    def best(self, scores: Scores) -> Tensor:
        x = scores.unary
        inputs = _some(x[:, :-1])
        chosen = torch.cat([inputs, torch.ones_like(inputs[:, :1])], -1)
        return chosen * (_value(chosen, x)[:, None] > 0)

    def allowed(self, bits: Tensor) -> Tensor:
        return bits[:, :-1].any(-1) == bits[:, -1].bool()


class AndOut(_Binary):
    """The last variable is on iff all others are."""

    least = 2

    def best(self, scores: Scores) -> Tensor:
        x = scores.unary
        every = torch.ones_like(x)
        # The least harmful input is off.
        off = (x[:, :-1] > 0).double()
        off.scatter_(-1, x[:, :-1].argmin(-1, keepdim=True), 0.0)
        off = torch.cat([off, torch.zeros_like(off[:, :1])], -1)
        return torch.where((_value(every, x) > _value(off, x))[:, None], every, off)

    def allowed(self, bits: Tensor) -> Tensor:
        return bits[:, :-1].all(-1) == bits[:, -1].bool()


class Imply(_Binary):
    """If the first n - 1 variables are on, then the last is."""

    least = 2

    def best(self, scores: Scores) -> Tensor:
        x = scores.unary
        chosen = (x > 0).double()
        wrong = chosen[:, :-1].all(-1) & (chosen[:, -1] == 0)
        # One of them has to change, at the smallest cost.
        cheapest = one_hot(x.abs().argmin(-1), self.variables)
        return torch.where(wrong[:, None], (chosen - cheapest).abs(), chosen)

    def allowed(self, bits: Tensor) -> Tensor:
        return ~(bits[:, :-1].all(-1) & (bits[:, -1] == 0))


class Pair(_Binary):
    """Two variables, and a score for both being on together (the additional one)."""

    additional = 1

    def __init__(self) -> None:
        super().__init__(2)

    def best(self, scores: Scores) -> Tensor:
        found = self.enumerate_all().to(scores.unary.device)
        x = torch.cat([scores.unary, scores.additional], -1)
        values = torch.where(found[None] > 0, x[:, None], 0.0).sum(-1)
        return found[values.argmax(-1)]

    def pairs(self, unary: Tensor) -> Tensor:
        return unary.prod(-1, keepdim=True)

    def _pairs(self, x: Tensor, more: object) -> Tensor:
        if more is None:
            return super()._pairs(x, more)
        y = check_tensor(more, "additional")
        if tuple(y.shape) not in ((len(x),), (len(x), 1)):
            raise ShapeError(f"additional of shape {tuple(y.shape)}", f"({len(x)}, 1)", "Pass one score per item")
        return y.reshape(len(x), 1).double()


def _some(x: Tensor) -> Tensor:
    """All with a positive score, or the best one."""
    chosen = (x > 0).double()
    return torch.where(chosen.any(-1, keepdim=True), chosen, one_hot(x.argmax(-1), x.shape[-1]))


def _value(chosen: Tensor, x: Tensor) -> Tensor:
    return torch.where(chosen > 0, x, 0.0).sum(-1)
