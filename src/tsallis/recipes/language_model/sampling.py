"""Ways to draw a word from a distribution: all of it, or its most probable words alone, divided by their sum."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ...core.errors import ParameterError


class Method(Protocol):
    """How many of the most probable words are kept."""

    def kept(self, total: Tensor) -> Tensor:
        """For sums (..., V) of the 1, 2, ... V largest probabilities, a number (...) from 1 to V."""
        ...


@dataclass(frozen=True)
class Untruncated:
    """All words, none of which is drawn if its probability is zero."""

    def kept(self, total: Tensor) -> Tensor:
        return torch.full(total.shape[:-1], total.shape[-1], device=total.device)


@dataclass(frozen=True)
class Greedy:
    """The most probable word."""

    def kept(self, total: Tensor) -> Tensor:
        return torch.ones(total.shape[:-1], dtype=torch.long, device=total.device)


@dataclass(frozen=True)
class TopK:
    """The k most probable words."""

    k: int

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ParameterError(f"k={self.k}", "1 or more", "Choose how many words may be drawn")

    def kept(self, total: Tensor) -> Tensor:
        return torch.full(total.shape[:-1], min(self.k, total.shape[-1]), device=total.device)


@dataclass(frozen=True)
class Nucleus:
    """The fewest words whose probability is at least the share."""

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ParameterError(f"share={self.share}", "more than 0, at most 1", "Choose another share")

    def kept(self, total: Tensor) -> Tensor:
        few = torch.searchsorted(total, total.new_full((*total.shape[:-1], 1), self.share)).squeeze(-1)
        # One more than have too little; all of them have too little only if rounding keeps their sum below 1.
        return 1 + few.clamp_max(total.shape[-1] - 1)


@dataclass(frozen=True)
class Ranked:
    """Distributions sorted, as (..., N): their words with probability, and if N < V a last place for words without.

    Attributes:
        p: probabilities, the largest first; of equal ones that of the lowest index.
        order: their words; 0 where there is no probability.
        total: their cumulative sums.
    """

    p: Tensor
    order: Tensor
    total: Tensor

    @classmethod
    def of(cls, p: Tensor) -> Ranked:
        """Sort distributions (..., V)."""
        words, found = _with_probability(p)
        ranked, order = _sorted(found)
        order = order if words is None else words.gather(-1, order)
        return cls(ranked, torch.where(ranked > 0, order, 0), ranked.cumsum(-1, dtype=torch.float64))

    @cached_property
    def squares(self) -> Tensor:
        """Cumulative sums of squared probabilities."""
        return self.p.double().square().cumsum(-1)

    @cached_property
    def support(self) -> Tensor:
        """How many words (...) have probability."""
        return (self.p > 0).sum(-1)

    def rank(self, word: Tensor) -> Tensor:
        """Places (...) of words (...), from 0; the last, which has no probability then, for words without."""
        found = (self.order == word.unsqueeze(-1)) & (self.p > 0)
        return torch.where(found.any(-1), found.int().argmax(-1), found.shape[-1] - 1)

    def scored(self, method: Method, rank: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""What a method makes of the words at places (...), without its distribution.

        With the k words it keeps, of mass m, the sparsemax score is $\frac{p}{m} + \frac12 (1 - \sum_{i \le k} p_i^2 /
        m^2)$: two cumulative sums serve all methods.

        Args:
            method: of sampling.
            rank: places, as `rank` gives them.

        Returns:
            probabilities (...), 0 of words that are not kept; their sparsemax scores (...); how many words (...) may be
            drawn.
        """
        kept = method.kept(self.total)
        last = kept.unsqueeze(-1) - 1
        mass, squares = self.total.gather(-1, last).squeeze(-1), self.squares.gather(-1, last).squeeze(-1)
        p = self.p.gather(-1, rank.unsqueeze(-1)).squeeze(-1).double()
        right = torch.where(rank < kept, p / mass, 0.0)
        return right, right + (1 - squares / mass.square()) / 2, kept.minimum(self.support)

    def truncated(self, method: Method) -> tuple[Tensor, Tensor]:
        """Distributions (..., N) in the sorted order with a method, and how many words (...) they keep."""
        kept = method.kept(self.total).unsqueeze(-1)
        places = torch.arange(self.p.shape[-1], device=kept.device)
        mass = self.total.gather(-1, kept - 1).to(self.p.dtype)
        return torch.where(places < kept, self.p / mass, 0.0), kept.squeeze(-1)

    def draw(self, kept: Tensor, uniform: Tensor) -> Tensor:
        """Words (...) drawn from the kept (...) ones with numbers (...) from [0, 1)."""
        mass = self.total.gather(-1, kept.unsqueeze(-1) - 1)
        # The first whose sum exceeds the number: one without probability never is, unless rounding takes the number to
        # the whole mass.
        place = torch.searchsorted(self.total, uniform.unsqueeze(-1) * mass, right=True)
        last = kept.minimum(self.support).unsqueeze(-1) - 1
        return self.order.gather(-1, place.minimum(last)).squeeze(-1)


def _sorted(p: Tensor) -> tuple[Tensor, Tensor]:
    """Largest first, of equal ones that of the lowest index, and their indices."""
    if p.dtype != torch.float32 or p.device.type != "cpu":
        return p.sort(dim=-1, descending=True, stable=True)
    # Bits of floats above zero are in the order of the floats. NumPy sorts integers several times as fast as torch;
    # with the index in the low half no two are equal. Zero is added because of -0.0.
    keys = (-(p + 0.0).view(torch.int32).long() << 32) | torch.arange(p.shape[-1])
    order = torch.from_numpy(np.sort(keys.numpy(), -1)) & 0xFFFFFFFF
    return p.gather(-1, order), order


def _with_probability(p: Tensor) -> tuple[Tensor | None, Tensor]:
    """Words (..., N) with probability in the order of their numbers, and what they have; None for all of them.

    Sorting takes most of the time of a measurement, and of sparse distributions there is little to sort.
    """
    has = p > 0
    counts = has.sum(-1)
    size = int(counts.max()) + 1
    if size >= p.shape[-1]:
        return None, p
    rows = counts.flatten()
    words, found = p.new_zeros((len(rows), size), dtype=torch.long), p.new_zeros(len(rows), size)
    row, word = has.view(-1, p.shape[-1]).nonzero(as_tuple=True)
    place = torch.arange(len(row), device=p.device) - (rows.cumsum(0) - rows)[row]
    words[row, place], found[row, place] = word, p.reshape(-1, p.shape[-1])[row, word]
    return words.view(*counts.shape, size), found.view(*counts.shape, size)


def distribution(p: Tensor, method: Method) -> Tensor:
    """Distributions p (..., V) as a method draws from them."""
    ranked = Ranked.of(p)
    # Places without probability add nothing to word 0.
    return torch.zeros_like(p).scatter_add(-1, ranked.order, ranked.truncated(method)[0])


# Candidates among which the best on validation text is chosen.
KS = (2, 5, 10, 20, 50, 100, 200, 500, 1000)
SHARES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
METHODS: dict[str, tuple[Method, ...]] = {
    "untruncated": (Untruncated(),),
    "top-k": tuple(TopK(k) for k in KS),
    "nucleus": tuple(Nucleus(share) for share in SHARES),
    "greedy": (Greedy(),),
}
