"""Distributions of latent variables as estimators need them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import ParameterError, ShapeError
from ..core.inputs import check_tensor
from ..core.numerics import compute_dtype, safe_log
from ..core.registry import get

Kind = Literal["categories", "bits"]


class Latent(Protocol):
    """The distribution in use, as the result of `expectation` shows it."""

    @property
    def probs(self) -> Tensor: ...
    @property
    def mask(self) -> Tensor | None: ...
    @property
    def vertices(self) -> Tensor | None: ...
    def entropy(self) -> Tensor: ...
    def marginal_entropy(self) -> Tensor | None: ...
    def support_size(self) -> Tensor: ...


def shannon(p: Tensor) -> Tensor:
    """Shannon entropy in nats over the last dimension."""
    return -(p * safe_log(p)).sum(-1)


def bit_entropies(p: Tensor, off: Tensor | None = None) -> Tensor:
    """Sum of the entropies of bits with these probabilities; ``off`` is 1 - p where that is known more exactly."""
    off = 1 - p if off is None else off
    return -(p * safe_log(p) + off * safe_log(off)).sum(-1)


@dataclass(frozen=True, eq=False)
class Table:
    """Probabilities (B, K) of categories; of structures if there are `vertices` (B, K, d), as far as `mask` goes."""

    probs: Tensor
    vertices: Tensor | None = None
    mask: Tensor | None = None
    marginals: Tensor | None = None

    def entropy(self) -> Tensor:
        return shannon(self.probs)

    def marginal_entropy(self) -> Tensor | None:
        return None if self.marginals is None else bit_entropies(self.marginals.flatten(1))

    def support_size(self) -> Tensor:
        return (self.probs > 0).sum(-1)


class Categories:
    """softmax(scores), (B, K), in float32 at least."""

    mask = vertices = None

    def __init__(self, scores: Tensor) -> None:
        self.scores = wide(scores)
        self.log_probs = self.scores.log_softmax(-1)
        # Zero in a row without a possible value, NaN in one with NaN or +inf.
        self.probs = get("softmax")(self.scores)
        self.usable = self.probs.detach().sum(-1) > 0

    def entropy(self) -> Tensor:
        return shannon(self.probs)

    def marginal_entropy(self) -> None:
        return None

    def support_size(self) -> Tensor:
        return (self.probs > 0).sum(-1)

    def rows(self, index: Tensor) -> Categories:
        return Categories(self.scores[index])

    def log_prob(self, z: Tensor) -> Tensor:
        return self.log_probs.gather(-1, z[:, None])[:, 0]

    def sample(self, generator: torch.Generator | None) -> Tensor:
        return race(self.probs.detach(), generator)

    def most_probable(self) -> Tensor:
        return largest(self.scores.detach())

    def relaxed(self, temperature: Tensor, generator: torch.Generator | None) -> Tensor:
        """Gumbel-softmax: (log p + Gumbel noise) / temperature through softmax."""
        return ((self.log_probs - exponential(self.log_probs, generator).log()) / temperature).softmax(-1)

    def hard(self, z: Tensor) -> Tensor:
        """Values as the points of the relaxed space that they are."""
        return torch.zeros_like(self.scores).scatter(-1, z[:, None], 1.0)

    @staticmethod
    def nearest(relaxed: Tensor) -> Tensor:
        return largest(relaxed)


class Bits:
    """Independent bits with probabilities sigmoid(scores), (B, D), in float32 at least."""

    mask = vertices = None

    def __init__(self, scores: Tensor) -> None:
        self.scores = wide(scores)
        self.probs = self.scores.sigmoid()
        self.usable = ~self.probs.detach().sum(-1).isnan()

    def entropy(self) -> Tensor:
        return bit_entropies(self.probs, (-self.scores).sigmoid())

    def marginal_entropy(self) -> Tensor:
        return self.entropy()

    def support_size(self) -> Tensor:
        p = self.probs.detach()
        return 2.0 ** ((p > 0) & (p < 1)).sum(-1, dtype=compute_dtype(p))

    def rows(self, index: Tensor) -> Bits:
        return Bits(self.scores[index])

    def log_prob(self, z: Tensor) -> Tensor:
        return F.logsigmoid(torch.where(z > 0.5, self.scores, -self.scores)).sum(-1)

    def sample(self, generator: torch.Generator | None) -> Tensor:
        return torch.bernoulli(self.probs.detach(), generator=generator)

    def most_probable(self) -> Tensor:
        return (self.scores.detach() > 0).to(self.scores.dtype)

    def relaxed(self, temperature: Tensor, generator: torch.Generator | None) -> Tensor:
        """(scores + logistic noise) / temperature through the sigmoid; the noise as a difference of two Gumbels'."""
        noise = exponential(self.scores, generator).log() - exponential(self.scores, generator).log()
        return ((self.scores + noise) / temperature).sigmoid()

    def hard(self, z: Tensor) -> Tensor:
        return z

    @staticmethod
    def nearest(relaxed: Tensor) -> Tensor:
        return (relaxed > 0.5).to(relaxed.dtype)


def latent_of(kind: Kind, scores: Tensor) -> Categories | Bits:
    """The distribution of this kind that scores (B, n) stand for."""
    scores = matrix(scores)
    return Categories(scores) if kind == "categories" else Bits(scores)


def check_kind(kind: object) -> None:
    """Raise unless this is a kind of latent variable."""
    if kind not in ("categories", "bits"):
        raise ParameterError(f"latent={kind!r}", '"categories" or "bits"', "Choose one")


def matrix(scores: Tensor) -> Tensor:
    """Scores, if they are (B, K)."""
    scores = check_tensor(scores, "scores")
    if scores.dim() != 2:
        raise ShapeError(f"Scores of shape {tuple(scores.shape)}", "(B, K)", "Flatten the batch dimensions")
    return scores


def race(weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """One index a row, with probability in proportion to weights (B, K), at most 1; never one of weight 0 if another
    has more.
    """
    # The power of two, which is exact, keeps quotients of the smallest numbers from becoming zero.
    return largest(weights * 2.0**64 / exponential(weights, generator))


def largest(x: Tensor) -> Tensor:
    """The index of the largest of each row; 0 where there is none."""
    return x.argmax(-1) if x.shape[-1] else torch.zeros(x.shape[:-1], dtype=torch.long, device=x.device)


def exponential(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard exponential variables, like a floating tensor."""
    # Zero would be an infinite head start: the smallest positive number takes its place.
    return torch.empty_like(like).exponential_(generator=generator).clamp_min_(torch.finfo(like.dtype).tiny)


def wide(x: Tensor) -> Tensor:
    """Half precision as float32: sums over many values and rows lose too much in it."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
