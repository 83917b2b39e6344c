"""Ways to draw a word from a distribution: all of it, or its most probable words alone, divided by their sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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
        # One more than have too little; all of them have too little only if rounding keeps their sum below 1.
        return 1 + (total[..., :-1] < self.share).sum(-1)


@dataclass(frozen=True)
class Ranked:
    """Distributions (..., V) sorted.

    Attributes:
        p: probabilities, the largest first; of equal ones that of the lowest index.
        order: their words.
        total: their cumulative sums.
    """

    p: Tensor
    order: Tensor
    total: Tensor

    @classmethod
    def of(cls, p: Tensor) -> Ranked:
        """Sort distributions."""
        ranked, order = p.sort(dim=-1, descending=True, stable=True)
        return cls(ranked, order, ranked.cumsum(-1, dtype=torch.float64))

    def rank(self, word: Tensor) -> Tensor:
        """Places (...) of words (...), from 0."""
        return (self.order == word.unsqueeze(-1)).int().argmax(-1)

    def truncated(self, method: Method) -> tuple[Tensor, Tensor]:
        """Distributions (..., V) in the sorted order with a method, and how many words (...) they keep."""
        kept = method.kept(self.total).unsqueeze(-1)
        places = torch.arange(self.p.shape[-1], device=kept.device)
        mass = self.total.gather(-1, kept - 1).to(self.p.dtype)
        return torch.where(places < kept, self.p / mass, 0.0), kept.squeeze(-1)

    def draw(self, kept: Tensor, uniform: Tensor) -> Tensor:
        """Words (...) drawn from the kept (...) ones with numbers (...) from [0, 1)."""
        mass = self.total.gather(-1, kept.unsqueeze(-1) - 1)
        # The first whose sum exceeds the number: one without probability never is.
        place = torch.searchsorted(self.total, uniform.unsqueeze(-1) * mass, right=True)
        return self.order.gather(-1, place.minimum(kept.unsqueeze(-1) - 1)).squeeze(-1)


def distribution(p: Tensor, method: Method) -> Tensor:
    """Distributions p (..., V) as a method draws from them."""
    ranked = Ranked.of(p)
    return torch.zeros_like(p).scatter(-1, ranked.order, ranked.truncated(method)[0])


# Candidates among which the best on validation text is chosen.
KS = (2, 5, 10, 20, 50, 100, 200, 500, 1000)
SHARES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
METHODS: dict[str, tuple[Method, ...]] = {
    "untruncated": (Untruncated(),),
    "top-k": tuple(TopK(k) for k in KS),
    "nucleus": tuple(Nucleus(share) for share in SHARES),
    "greedy": (Greedy(),),
}
