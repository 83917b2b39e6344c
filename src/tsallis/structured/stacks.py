"""Factors of one kind as one tensor: where their variables are, their projections and faces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from . import active_set
from .factor import Factor, Scores
from .logic import AndOut, AtMostOne, Budget, Imply, Or, OrOut, Simplex, XorOut
from .projections import Face, logic, logic_face, pair

# The gap of projections by the active set.
TOLERANCE = 1e-12


@dataclass(frozen=True)
class Place:
    """A factor and its variables.

    Attributes:
        factor: of which kind.
        index: (F, d) numbers of variables, for F factors of it.
        negated: (F, d) which of them count as 1 minus themselves.
    """

    factor: Factor
    index: Tensor
    negated: Tensor


class Moves(Protocol):
    """What `projections.Face` has."""

    def along(self, v: Tensor) -> Tensor: ...
    def pairs(self, v: Tensor) -> Tensor: ...
    def back(self, w: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Projected:
    """Marginals (B, F, w), pairs (B, F, e), where to go on from, and (B) which items are exact; None for all."""

    mu: Tensor
    nu: Tensor
    memory: Any = None
    exact: Tensor | None = None


class Stack(ABC):
    """F factors with w variables each, of which some may be no more than padding.

    Attributes:
        index: (F, w) variables; `none` for padding.
        sign, offset: (F, w) copies of variables z are sign z + offset.
        places, rows: what it is made of, and how many factors each has.
        additional: e.
    """

    additional = 0

    def __init__(self, places: list[Place], none: int, negate: list[Tensor], order: list[Tensor]) -> None:
        width = max(place.index.shape[1] for place in places)
        index, negated = [], []
        for place, flip, at in zip(places, negate, order, strict=True):
            missing = (0, width - place.index.shape[1])
            index.append(torch.nn.functional.pad(place.index[:, at], missing, value=none))
            negated.append(torch.nn.functional.pad((place.negated ^ flip)[:, at], missing))
        self.index, off = torch.cat(index), torch.cat(negated).double()
        self.sign, self.offset = 1 - 2 * off, off
        self.places, self.rows = places, [len(place.index) for place in places]

    def reach(self) -> Tensor:
        """(F, w) how far out copies go that have to be 0, or 1 if negated: further than is worth any other."""
        return -2 * self.sign * (self.sign.shape[1] + self.additional)

    def to(self, device: torch.device) -> None:
        """Move what is looked up in every iteration."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        self.places = [Place(place.factor, place.index.to(device), place.negated.to(device)) for place in self.places]

    @abstractmethod
    def project(self, t: Tensor, y: Tensor, memory: Any, limit: int) -> Projected:
        """Nearest points to t (B, F, w), with scores of pairs y (B, F, e); from a memory, by `limit` structures."""

    @abstractmethod
    def face(self, t: Tensor, y: Tensor, found: Projected, slack: Tensor) -> Moves:
        """How the projection moves; slack (B) is what t may be off by."""


def best_of(place: Place, x: Tensor, fixed: Tensor, y: Tensor) -> Tensor:
    """(B, F, d + e) the best structures of a place's factors, by scores of all variables, some of which are 0."""
    own, out = torch.where(place.negated, -x[:, place.index], x[:, place.index]), fixed[:, place.index]
    far = own
    if own.numel():
        size = torch.cat([own, torch.where(y.isfinite(), y, 0.0)], -1).abs().amax((1, 2), keepdim=True)
        far = 2 * (own.shape[-1] + y.shape[-1]) * (1 + size)
    own = torch.where(out, torch.where(place.negated, far, -torch.inf), own)
    return place.factor.best(Scores(own.flatten(0, 1), y.flatten(0, 1))).unflatten(0, own.shape[:2])


class Logic(Stack):
    """Bounds on how many variables are on; the last rows are `OrOut` and `AndOut`, the output first and negated."""

    def __init__(self, places: list[Place], none: int) -> None:
        rules = [_count(place.factor) for place in places]
        outs = [isinstance(place.factor, OrOut | AndOut) for place in places]
        order = [_same(place).roll(int(out)) for place, out in zip(places, outs, strict=True)]
        super().__init__(places, none, [flip for _, _, flip in rules], order)
        rows = torch.tensor(self.rows)
        self.low, self.high = (
            torch.tensor([rule[i] for rule in rules]).double().repeat_interleave(rows)[:, None] for i in (0, 1)
        )
        self.outputs = sum(count for count, out in zip(self.rows, outs, strict=True) if out)

    def project(self, t: Tensor, y: Tensor, memory: Any, limit: int) -> Projected:
        return Projected(logic(t, self.low, self.high, self.outputs), y)

    def face(self, t: Tensor, y: Tensor, found: Projected, slack: Tensor) -> Moves:
        return logic_face(t, self.low, self.high, self.outputs)


class Pairs(Stack):
    """`Pair`."""

    additional = 1

    def __init__(self, places: list[Place], none: int) -> None:
        super().__init__(places, none, [_none(place) for place in places], [_same(place) for place in places])

    def project(self, t: Tensor, y: Tensor, memory: Any, limit: int) -> Projected:
        return Projected(*pair(t, y)[:2])

    def face(self, t: Tensor, y: Tensor, found: Projected, slack: Tensor) -> Moves:
        return pair(t, y)[2]


class Structured(Stack):
    """Any factor, by the active set."""

    def __init__(self, places: list[Place], none: int) -> None:
        super().__init__(places, none, [_none(place) for place in places], [_same(place) for place in places])
        self.factor = places[0].factor
        self.additional, self.never = self.factor.additional, never(self.factor)

    def _scores(self, t: Tensor, y: Tensor) -> Scores:
        return Scores(t.masked_fill(self.never, -torch.inf).flatten(0, 1), y.flatten(0, 1))

    def reach(self) -> Tensor:
        return torch.where(self.sign > 0, -torch.inf, super().reach())

    def possible(self, t: Tensor, y: Tensor) -> Tensor:
        """(B) whether each factor has a structure that is not ruled out."""
        scores = self._scores(t, y)
        x = torch.cat([scores.unary, scores.additional], -1)
        value = active_set.values(self.factor.best(scores)[:, None], x)
        return (value > -torch.inf).view(t.shape[:2]).all(1)

    def project(self, t: Tensor, y: Tensor, memory: Any, limit: int) -> Projected:
        scores = self._scores(t, y)
        state = active_set.start(self.factor.best(scores)) if memory is None else memory
        found = active_set.solve(self.factor.best, scores, state, limit, TOLERANCE)
        state = active_set.compact(found.state)
        both = torch.einsum("bs,bsd->bd", state.weights, state.structures)
        mu, nu = both.unflatten(0, t.shape[:2]).tensor_split([self.factor.variables], -1)
        return Projected(mu, nu, state, found.done.view(t.shape[:2]).all(1))

    def face(self, t: Tensor, y: Tensor, found: Projected, slack: Tensor) -> Moves:
        scores = self._scores(t, y)
        slopes = self.factor.slopes(scores.unary)
        if slopes is not None:
            own = slopes.view_as(t)
            none = torch.zeros_like(own)
            return Face(own, none, none[..., :1].bool(), none.new_zeros(*own.shape, self.additional))
        gap = (slack.square() / 2 + TOLERANCE).repeat_interleave(t.shape[1])
        return Hull(self.factor.variables, active_set.whole_face(self.factor, scores, found.memory, gap), t.shape[:2])


class Hull:
    """Directions of the affine hull of structures."""

    def __init__(self, d: int, state: active_set.State, rows: torch.Size) -> None:
        self.inverse = active_set.corner(state, d).unflatten(0, rows)
        self.own, self.more = state.structures.unflatten(0, rows).tensor_split([d], -1)

    def _weights(self, v: Tensor) -> Tensor:
        return self.inverse @ (self.own @ v[..., None])

    def along(self, v: Tensor) -> Tensor:
        return (self.own.mT @ self._weights(v))[..., 0]

    def pairs(self, v: Tensor) -> Tensor:
        return (self.more.mT @ self._weights(v))[..., 0]

    def back(self, w: Tensor) -> Tensor:
        return (self.own.mT @ (self.inverse @ (self.more @ w[..., None])))[..., 0]


def _parts(memory: active_set.State, batch: int) -> list[Tensor]:
    parts = (memory.structures, memory.weights, memory.used)
    return [part.unflatten(0, (batch, len(part) // max(batch, 1))) for part in parts]


def take(memory: Any, kept: Tensor) -> Any:
    """A state of all factors of a batch, of some items of it."""
    if memory is None:
        return None
    return active_set.State(*(part[kept].flatten(0, 1) for part in _parts(memory, len(kept))))


def together(memories: list[Any], sizes: list[int], order: Tensor) -> Any:
    """The states of several batches as that of one, in another order."""
    if all(memory is None for memory in memories):
        return None
    found = [(memory, size) for memory, size in zip(memories, sizes, strict=True) if size]
    slots = max((memory.used.shape[1] for memory, _ in found), default=1)
    parts: list[list[Tensor]] = [[], [], []]
    for memory, size in found:
        more = slots - memory.used.shape[1]
        for joined, part in zip(parts, _parts(memory, size), strict=True):
            joined.append(torch.nn.functional.pad(part, (0, 0, 0, more) if part.dim() == 4 else (0, more)))
    return active_set.State(*(torch.cat(part)[order].flatten(0, 1) for part in parts)) if found else None


def never(factor: Factor) -> Tensor:
    """(d) variables that no structure of a factor has, whatever their scores."""
    return factor.flat(torch.zeros(1, factor.variables)).unary[0] == -torch.inf


def _same(place: Place) -> Tensor:
    return torch.arange(place.factor.variables)


def _none(place: Place) -> Tensor:
    return torch.zeros(place.factor.variables, dtype=torch.bool)


def _count(factor: Any) -> tuple[int, int, Tensor]:
    """The least and the most variables that are on, when some are negated."""
    n = factor.variables
    none, last = torch.zeros(n, dtype=torch.bool), torch.arange(n) == n - 1
    match factor:
        case Simplex():
            return 1, 1, none
        case AtMostOne():
            return 0, 1, none
        case Or():
            return 1, n, none
        case XorOut() | OrOut():
            return 1, 1, last
        case AndOut():
            return 1, 1, ~last
        case Imply():
            return 1, n, ~last
        case Budget():
            return factor.k if factor.exact else 0, factor.k, none
        case _:
            return 0, n, none
