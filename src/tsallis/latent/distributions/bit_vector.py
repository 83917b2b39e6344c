"""A distribution over few bit vectors."""

from __future__ import annotations

from typing import Self

import torch
from torch import Size, Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl

from ...core.errors import ParameterError, ShapeError
from ...core.inputs import check_scores, check_tensor
from ...core.numerics import compute_dtype
from ...structured import StructuredSolution, TopStructures
from ..latents import bit_entropies, shannon
from .base import All, SparseDistribution, alike, common_batch, log_or_never, sparse_simplex
from .categorical import divergence, draw

_BITS = All(constraints.boolean)


class _PossibleBits(constraints.Constraint):
    """Bit vectors with probability."""

    is_discrete = True
    event_dim = 1

    def __init__(self, distribution: SparseBitVector) -> None:
        self.distribution = distribution

    def check(self, value: Tensor) -> Tensor:
        return _BITS.check(value) & (self.distribution.probability(value) > 0)


class SparseBitVector(SparseDistribution):
    r"""A distribution over 0/1 vectors that gives probability to S of them per item: what `ts.structured.sparsemap` and
    `ts.structured.topk_sparsemax_bits` return.

    Args:
        vertices: (..., S, D) of 0 and 1. Equal ones count as one, with the sum of their weights.
        weights: (..., S), not negative, with sum 1 over those kept.
        mask: (..., S) True = keep; others are never read.
        validate_args: as in torch.

    Raises:
        ShapeError: shapes that do not fit.
        ValueError: from torch, where values are not valid.

    Differentiability:
        any order in weights. At weight 0 the gradient of log_prob and entropy is 0 by definition.

    Complexity:
        log_prob O(S D); entropy and mode O(S^2 D), for equal vertices. `enumerate_support` waits for the device.

    Example:
        >>> import torch, tsallis as ts
        >>> found = ts.structured.sparsemap(ts.structured.Bits(3), torch.tensor([[0.25, 2.0, -1.0]]))
        >>> d = ts.latent.SparseBitVector.from_solution(found)
        >>> d.log_prob(torch.tensor([0.0, 1.0, 0.0])).exp(), d.marginals
        (tensor([0.7500]), tensor([[0.2500, 1.0000, 0.0000]]))
        >>> d.entropy(), d.mode
        (tensor([0.5623]), tensor([[0., 1., 0.]]))

    References:
        niculae2018sparsemap, correia2020efficient
    """

    arg_constraints = {"vertices": All(constraints.boolean, 2), "weights": sparse_simplex}
    tensors = {"vertices": 2, "weights": 1}
    values = "vectors of 0 and 1"
    has_enumerate_support = True

    def __init__(
        self, vertices: Tensor, weights: Tensor, mask: Tensor | None = None, validate_args: bool | None = None
    ) -> None:
        weights, vertices = check_scores(weights, "weights"), check_tensor(vertices, "vertices")
        kept = torch.ones_like(weights, dtype=torch.bool) if mask is None else check_tensor(mask, "mask")
        if vertices.dim() < 2 or vertices.shape[-2] != weights.shape[-1] or kept.shape[-1:] != weights.shape[-1:]:
            raise ShapeError(
                f"vertices of shape {tuple(vertices.shape)}, weights {tuple(weights.shape)}, mask {tuple(kept.shape)}",
                "(..., S, D), (..., S) and (..., S)",
                "Give each vertex a weight",
            )
        if kept.dtype != torch.bool:
            raise ShapeError(f"mask of dtype {kept.dtype}", "torch.bool, True = keep", "Pass mask.bool()")
        batch = common_batch(vertices.shape[:-2], weights.shape[:-1], kept.shape[:-1])
        self.weights = torch.where(kept, weights, 0.0).expand(*batch, -1)
        self.vertices = torch.where(kept[..., None], vertices.to(weights.dtype), 0.0).expand(*batch, -1, -1)
        super().__init__(batch, vertices.shape[-1:], validate_args)

    @classmethod
    def from_solution(cls, solution: StructuredSolution | TopStructures, validate_args: bool | None = None) -> Self:
        """The distribution that was found, differentiable in what it was found from.

        Raises:
            ParameterError: something else.
        """
        if isinstance(solution, StructuredSolution):
            return cls(solution.vertices, solution.weights, solution.mask, validate_args)
        if isinstance(solution, TopStructures):
            return cls(solution.vertices, solution.p, None, validate_args)
        raise ParameterError(
            f"from_solution({type(solution).__name__})",
            "what sparsemap(...) or topk_sparsemax_bits(...) returned",
            "Pass that, or vertices and weights to SparseBitVector",
        )

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """The vectors with probability. log_prob takes the others too."""
        return _PossibleBits(self)

    def probability(self, value: Tensor) -> Tensor:
        """Of each vector (*sample, *batch, D)."""
        equal = (value.unsqueeze(-2) == self.vertices).all(-1)
        return torch.where(equal, self.weights, 0.0).to(compute_dtype(self.weights)).sum(-1)

    def acceptable(self, value: Tensor) -> Tensor:
        return _BITS.check(value)

    def log_density(self, value: Tensor) -> Tensor:
        return log_or_never(self.probability(value))

    @property
    def distinct(self) -> Tensor:
        """(..., S) the probability of each vertex at its first place, 0 at others."""
        v = self.vertices.to(compute_dtype(self.weights))
        equal = v @ v.mT + (1 - v) @ (1 - v).mT == v.shape[-1]
        first = ~equal.tril(-1).any(-1)
        total = (equal.to(v.dtype) @ self.weights.to(v.dtype).unsqueeze(-1)).squeeze(-1)
        return torch.where(first, total, 0.0)

    def entropy(self) -> Tensor:
        """Shannon's of the vector, in nats."""
        return shannon(self.distinct).to(self.dtype)

    @property
    def marginals(self) -> Tensor:
        """(..., D) the probability that a bit is on."""
        return (self.weights.unsqueeze(-2) @ self.vertices).squeeze(-2)

    @property
    def mean(self) -> Tensor:
        return self.marginals

    @property
    def variance(self) -> Tensor:
        """Of single bits."""
        return self.marginals * (1 - self.marginals)

    def marginal_entropy(self) -> Tensor:
        """The sum of the entropies of single bits: at least `entropy`, equal to it where bits are independent."""
        on = self.marginals.to(compute_dtype(self.weights))
        return bit_entropies(on).to(self.dtype)

    @property
    def mode(self) -> Tensor:
        """The likeliest vector, the first of several."""
        return self._at(self.distinct.argmax(-1))

    def _at(self, index: Tensor) -> Tensor:
        """The vertices at index (*sample, *batch)."""
        vertices = self.vertices.expand(*index.shape, *self.vertices.shape[-2:])
        return vertices.gather(-2, index[..., None, None].expand(*index.shape, 1, vertices.shape[-1])).squeeze(-2)

    def draw(self, sample_shape: Size) -> Tensor:
        return self._at(draw(self.weights, sample_shape))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """(S, *batch, D) the vectors that have probability in some item, in lexicographic order; in an item where one
        has none its log_prob is -inf. With expand=False (S, 1, ..., 1, D), as Pyro's parallel enumeration needs it.
        """
        values = torch.unique(self.vertices[self.weights > 0], dim=0)
        values = values.view(len(values), *[1] * len(self.batch_shape), *self.event_shape)
        return values.expand(-1, *self.batch_shape, -1) if expand else values


@register_kl(SparseBitVector, SparseBitVector)
def _kl(p: SparseBitVector, q: SparseBitVector) -> Tensor:
    p, q = alike(p, q)
    probability = q.probability(p.vertices.movedim(-2, 0)).movedim(0, -1)
    return divergence(p.distinct, log_or_never(probability)).to(p.dtype)
