"""A categorical distribution with exact zeros."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Categorical, constraints
from torch.distributions.kl import register_kl

from ...core.errors import ParameterError, ShapeError
from ...core.inputs import check_scores
from ...core.mapping import HALF, Mapping
from ...core.numerics import compute_dtype, safe_log
from ...core.registry import get
from ..latents import shannon
from .base import SparseDistribution, log_or_never, sparse_simplex


class _Possible(constraints.Constraint):
    """Categories with probability."""

    is_discrete = True

    def __init__(self, probs: Tensor) -> None:
        self.probs = probs

    def check(self, value: Tensor) -> Tensor:
        return _in_range(value, self.probs.shape[-1]) & (chosen(self.probs, value) > 0)


def _in_range(value: Tensor, count: int) -> Tensor:
    return (value % 1 == 0) & (value >= 0) & (value < count)


def chosen(probs: Tensor, value: Tensor) -> Tensor:
    """The entries of probs (*batch, K) at value (*sample, *batch); of values that do not exist, those of others."""
    value = value.long().clamp(0, probs.shape[-1] - 1)
    value, rows = torch.broadcast_tensors(value.unsqueeze(-1), probs)
    return rows.gather(-1, value[..., :1]).squeeze(-1)


def draw(probs: Tensor, sample_shape: Size) -> Tensor:
    """Indices (*sample, *batch) drawn with probabilities (*batch, K), never one of probability 0."""
    rows = probs.reshape(probs.shape[:-1].numel(), probs.shape[-1])
    below = rows.to(compute_dtype(rows)).cumsum(-1)
    u = torch.rand(len(rows), sample_shape.numel(), dtype=below.dtype, device=below.device) * below[:, -1:]
    index = torch.searchsorted(below, u, right=True).clamp_max(rows.shape[-1] - 1)
    # A parallel sum need not be monotone in its last digit, and u may round up to the total.
    index = torch.where(rows.gather(-1, index) > 0, index, rows.argmax(-1, keepdim=True))
    return index.T.reshape(sample_shape + probs.shape[:-1])


def divergence(p: Tensor, log_q: Tensor) -> Tensor:
    """sum of p (log p - log q); infinite where q is 0 and p is not. Entries with p = 0 have gradient 0."""
    never = log_q == -torch.inf
    terms = p * (safe_log(p) - torch.where(never, 0.0, log_q))
    return torch.where(p > 0, torch.where(never, torch.inf, terms), p * 0).sum(-1)


class SparseCategorical(SparseDistribution):
    r"""A distribution over K categories, some of them with probability 0, exactly: what sparsemax returns.

    Unlike torch's ``Categorical`` it does not replace zeros by small numbers, and does not normalise: log_prob of an
    impossible category is -inf with gradient 0, and no such category is ever drawn, in any precision.

    Args:
        probs: (..., K), not negative, with sum 1. A row of zeros, which a fully masked row is mapped to, or of NaN is
            invalid.
        scores: (..., K), instead of probs: then probs = mapping(scores).
        mapping: a registered name, "sparsemax" if None.
        params: of the mapping, such as ``{"alpha": 1.5}``; tensors get gradients.
        validate_args: as in torch.

    Raises:
        ParameterError: probs and scores, or neither of them; mapping or params without scores.
        ValueError: from torch, where values are not valid.

    Differentiability:
        log_prob, entropy, KL: any order in probs, and in scores as the mapping. At p = 0 the gradient is 0 by
        definition, where the limit would be infinite.

    Complexity:
        O(K) per row; a sample O(log K) more. `enumerate_support` waits for the device once.

    Example:
        >>> import torch, tsallis as ts
        >>> d = ts.latent.SparseCategorical(scores=torch.tensor([[1.0, 0.5, -1.0], [0.0, 3.0, 0.0]]))
        >>> d.probs
        tensor([[0.7500, 0.2500, 0.0000],
                [0.0000, 1.0000, 0.0000]])
        >>> d.enumerate_support(expand=False)
        tensor([[0],
                [1]])
        >>> d.log_prob(torch.tensor([0, 0])), d.entropy()[0]
        (tensor([-0.2877,    -inf]), tensor(0.5623))

    References:
        martins2016softmax, correia2020efficient
    """

    arg_constraints = {"probs": sparse_simplex}
    tensors = {"probs": 1}
    values = "whole numbers from 0, below K"
    has_enumerate_support = True

    def __init__(
        self,
        probs: Tensor | None = None,
        *,
        scores: Tensor | None = None,
        mapping: str | Mapping | None = None,
        params: dict[str, Any] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if (probs is None) == (scores is None):
            given = "neither probs nor scores" if probs is None else "both probs and scores"
            raise ParameterError(f"SparseCategorical with {given}", "one of them", "Pass probs=, or scores=")
        if scores is not None:
            probs = get(mapping or "sparsemax")(scores, **(params or {}))
        elif mapping is not None or params is not None:
            raise ParameterError("mapping or params with probs", "scores= to apply them to", "Leave them out")
        self.probs = check_scores(probs, "probs")
        super().__init__(self.probs.shape[:-1], Size(), validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The categories with probability. log_prob takes the others too."""
        return _Possible(self.probs)

    def acceptable(self, value: Tensor) -> Tensor:
        return _in_range(value, self.probs.shape[-1])

    def log_density(self, value: Tensor) -> Tensor:
        exists = _in_range(value, self.probs.shape[-1])
        return log_or_never(torch.where(exists, chosen(self._rows, value), 0.0))

    @property
    def _rows(self) -> Tensor:
        return self.probs.float() if self.dtype in HALF else self.probs

    def entropy(self) -> Tensor:
        """Shannon's, in nats."""
        return shannon(self._rows).to(self.dtype)

    @property
    def mode(self) -> Tensor:
        """The likeliest category, the first of several."""
        return self.probs.argmax(-1)

    def draw(self, sample_shape: Size) -> Tensor:
        return draw(self.probs, sample_shape)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """(S, *batch) the categories that have probability in some row, ascending; in a row where one has none its
        log_prob is -inf. With expand=False (S, 1, ..., 1): values are the same in all rows, which parallel enumeration
        in Pyro relies on.
        """
        values = (self.probs > 0).reshape(-1, self.probs.shape[-1]).any(0).nonzero()[:, 0]
        values = values.view(-1, *[1] * len(self.batch_shape))
        return values.expand(-1, *self.batch_shape) if expand else values


@register_kl(SparseCategorical, SparseCategorical)
def _kl(p: SparseCategorical, q: SparseCategorical) -> Tensor:
    _check_counts(p, q)
    return divergence(p._rows, log_or_never(q._rows)).to(p.dtype)


@register_kl(SparseCategorical, Categorical)
def _kl_dense(p: SparseCategorical, q: Categorical) -> Tensor:
    _check_counts(p, q)
    # torch gives a probability of zero the logarithm of the smallest number next to one. A logit far below is its own.
    replaced = (q.probs == 0) & (q.logits > 2 * math.log(torch.finfo(q.logits.dtype).eps))
    return divergence(p._rows, torch.where(replaced, -torch.inf, q.logits)).to(p.dtype)


def _check_counts(p: SparseCategorical, q: SparseCategorical | Categorical) -> None:
    counts = p.probs.shape[-1], q.probs.shape[-1]
    if counts[0] != counts[1]:
        raise ShapeError(
            f"Distributions of {counts[0]} and {counts[1]} categories", "the same number", "Compare others"
        )
