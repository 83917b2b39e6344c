"""Dependency trees, projective or not."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor

from ..core.errors import ParameterError
from ..core.inputs import is_integer
from ..core.structures import Structures
from .factor import Factor, Scores, where_best
from .lengths import checked_lengths


class DependencyTree(Factor):
    """Every one of n words has a head: another word or the root, without cycles.

    Args:
        n: words; items of a batch may have fewer, see `lengths` of `sparsemap`. Scores are (B, n + 1, n) of
            [head, modifier], head 0 is the root; those of a word with itself, [i + 1, i], are not looked at.
        projective: whether arcs may not cross.
        single_root: whether only one word hangs on the root.

    References:
        chu1965shortest, eisner1996three, niculae2018sparsemap
    """

    chooses = True

    def __init__(self, n: int, projective: bool = False, single_root: bool = True) -> None:
        if not is_integer(n) or n < 1:
            raise ParameterError(f"n={n!r}", "a whole number, 1 at least", "Choose one")
        self.n, self.projective, self.single_root = int(n), bool(projective), bool(single_root)
        self.natural, self.variables = (self.n + 1, self.n), (self.n + 1) * self.n

    def flat(self, scores: object, more: object = None, lengths: Tensor | None = None) -> Scores:
        given = super().flat(scores, more)
        own = torch.eye(self.n, dtype=torch.bool, device=given.unary.device)
        own = torch.nn.functional.pad(own, (0, 0, 1, 0)).flatten()
        unary = given.unary.masked_fill(own, -torch.inf)
        if lengths is None:
            return Scores(unary, given.additional)
        found = checked_lengths(lengths, len(unary), self.n, unary)
        return Scores(self.inside(unary, found), given.additional, found)

    def inside(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is None:
            return x
        there = torch.arange(self.n, device=x.device) < lengths[:, None]
        heads = torch.nn.functional.pad(there, (1, 0), value=True)
        return torch.where((heads[:, :, None] & there[:, None]).flatten(1), x, 0.0)

    def best(self, scores: Scores) -> Tensor:
        if self.projective:
            return where_best(self._value, scores)
        lengths = [self.n] * len(scores.unary) if scores.lengths is None else scores.lengths.tolist()
        x = scores.unary.detach().unflatten(1, self.natural).cpu().numpy()
        found = np.zeros_like(x)
        for item, (arcs, n) in enumerate(zip(x, lengths, strict=True)):
            if n:
                found[item, arborescence(arcs[: n + 1, :n], self.single_root), np.arange(n)] = 1.0
        return torch.from_numpy(found).flatten(1).to(scores.unary.device)

    def described(self) -> Structures:
        kind = "projective" if self.projective else "tree"
        return Structures(kind, self.variables, places=self.n, columns=self.n, high=1 if self.single_root else self.n)

    def _value(self, unary: Tensor, additional: Tensor, lengths: Tensor | None) -> Tensor:
        return projective_value(unary.unflatten(1, self.natural), self.single_root, lengths)

    def enumerate_all(self) -> Tensor:
        if self.n > 6:
            raise ParameterError(f"trees of {self.n} words", "6 at most to enumerate", "Choose a smaller size")
        trees = [heads for heads in product(range(self.n + 1), repeat=self.n) if self._is_one(heads)]
        return torch.nn.functional.one_hot(torch.tensor(trees), self.n + 1).mT.double().flatten(1)

    def _is_one(self, heads: tuple[int, ...]) -> bool:
        if self.single_root and heads.count(0) != 1:
            return False
        for word in range(1, self.n + 1):
            at, steps = word, 0
            while at and steps <= self.n:
                at, steps = heads[at - 1], steps + 1
            if at:
                return False
        return not self.projective or not any(_cross((h, m + 1), (g, k + 1)) for m, h in enumerate(heads)
                                              for k, g in enumerate(heads))  # fmt: skip


def _cross(one: tuple[int, int], other: tuple[int, int]) -> bool:
    (a, b), (c, d) = sorted(one), sorted(other)
    return a < c < b < d


# The rank of an arc that is none.
NEVER = -(2**40)


def arborescence(arcs: np.ndarray, single_root: bool) -> np.ndarray:
    """(n) heads of the best tree for (n + 1, n) scores, by contraction of cycles (Chu and Liu, Edmonds)."""
    n = arcs.shape[1]
    possible, scores = np.zeros((n + 1, n + 1), dtype=bool), np.zeros((n + 1, n + 1))
    possible[:, 1:] = np.isfinite(arcs)
    scores[:, 1:] = np.where(possible[:, 1:], arcs, 0.0)
    # What is ruled out counts before words on the root, those before scores: whole numbers, which lose no digits.
    ranks = np.where(possible, 0, -(n + 2))
    if single_root:
        # Trees with fewer words on the root win; there is one with a single one, unless all such are ruled out.
        ranks[0] -= 1
    np.fill_diagonal(ranks, NEVER)
    ranks[:, 0] = NEVER
    return _contracted(ranks, scores)[1:]


def _best_of(ranks: np.ndarray, scores: np.ndarray, axis: int) -> np.ndarray:
    """Where along an axis the best is: by rank, then by score."""
    return np.where(ranks == ranks.max(axis, keepdims=True), scores, -np.inf).argmax(axis)


def _contracted(ranks: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(N) heads; ranks and scores of arcs (N, N) of [head, modifier], 0 is the root and has no head."""
    heads = _best_of(ranks, scores, 0)
    heads[0] = 0
    cycle = _cycle(heads)
    if cycle is None:
        return heads
    inside = np.zeros(len(heads), dtype=bool)
    inside[cycle] = True
    rest = np.flatnonzero(~inside)
    # The cycle as one node, the last: entering it at a word gives up that word's arc in it.
    enter = [part[np.ix_(rest, cycle)] - part[heads[cycle], cycle] for part in (ranks, scores)]
    leave = [part[np.ix_(cycle, rest)] for part in (ranks, scores)]
    entered, left, places = _best_of(enter[0], enter[1], 1), _best_of(leave[0], leave[1], 0), np.arange(len(rest))
    smaller = [np.full((len(rest) + 1, len(rest) + 1), lowest) for lowest in (NEVER, 0.0)]
    for matrix, part, in_, out in zip(smaller, (ranks, scores), enter, leave, strict=True):
        matrix[:-1, :-1] = part[np.ix_(rest, rest)]
        matrix[:-1, -1], matrix[-1, :-1] = in_[places, entered], out[left, places]
    smaller[0][:, 0] = NEVER
    found = _contracted(smaller[0], smaller[1])
    for place, word in enumerate(rest):
        if place:
            heads[word] = cycle[left[place]] if found[place] == len(rest) else rest[found[place]]
    outside = found[-1]
    heads[cycle[entered[outside]]] = rest[outside]
    return heads


def _cycle(heads: np.ndarray) -> np.ndarray | None:
    """Nodes of a cycle; None in a tree."""
    state = np.zeros(len(heads), dtype=np.int64)
    state[0] = -1
    for first in range(1, len(heads)):
        at, path = first, []
        while state[at] == 0:
            state[at] = first
            path.append(at)
            at = heads[at]
        if state[at] == first:
            return np.array(path[path.index(at) :])
        state[path] = -1
    return None


def projective_value(arcs: Tensor, single_root: bool, lengths: Tensor | None) -> Tensor:
    """(B) scores of the best projective trees of (B, n + 1, n), by dynamic programming over spans (Eisner)."""
    n = arcs.shape[2]
    zero = arcs.new_zeros(len(arcs))
    # Best parts [i, j] with the head at the left or the right end; open: where that end is the head of the other.
    right = {(i, i): zero for i in range(n + 1)}
    left = dict(right)
    open_right: dict[tuple[int, int], Tensor] = {}
    open_left: dict[tuple[int, int], Tensor] = {}
    for width in range(1, n + 1):
        for i in range(n + 1 - width):
            j = i + width
            joined = _most([right[i, k] + left[k + 1, j] for k in range(i, j)])
            open_right[i, j] = joined + arcs[:, i, j - 1]
            right[i, j] = _most([open_right[i, k] + right[k, j] for k in range(i + 1, j + 1)])
            if i:
                open_left[i, j] = joined + arcs[:, j, i - 1]
                left[i, j] = _most([left[i, k] + open_left[k, j] for k in range(i, j)])
            else:
                left[i, j] = torch.full_like(zero, -torch.inf)
    ends = [zero]
    for end in range(1, n + 1):
        roots = [left[1, r] + right[r, end] + arcs[:, 0, r - 1] for r in range(1, end + 1)]
        ends.append(_most(roots) if single_root else right[0, end])
    if lengths is None:
        return ends[-1]
    return torch.stack(ends, 1).gather(1, lengths[:, None])[:, 0]


def _most(values: list[Tensor]) -> Tensor:
    return torch.stack(values).max(0).values
