"""Distributions of sparsemax of a continuous variable: all faces of the simplex have probability."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Size, Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl

from ...core.errors import ParameterError, ShapeError
from ...core.inputs import is_number
from ...core.registry import get
from ..latents import exponential, wide
from . import normal
from .base import All, FormulaError, SparseDistribution, alike, sparse_simplex, together
from .bits import GaussianSparsemaxBit, HardConcrete
from .quadrature import log_integral
from .rectified import Rectified


class SparsemaxOf(SparseDistribution, ABC):
    """y = sparsemax(x) of a continuous x.

    Densities are with respect to the sum over faces of the Lebesgue measure of all coordinates of the face but one, as
    Dirichlet's is; of a vertex it is the probability. For K = 2 everything follows from the first coordinate, which
    is `Rectified`.
    """

    support = sparse_simplex
    values = "rows that are not negative, with sum 1"
    has_rsample = True

    @abstractmethod
    def binary(self) -> Rectified:
        """The distribution of the first coordinate, for K = 2."""

    @abstractmethod
    def score(self) -> Tensor:
        """A sample of x (*batch, K), in float32 at least, differentiable; the batch is what was expanded to."""

    @abstractmethod
    def log_density_of_face(self, y: Tensor) -> Tensor:
        """For any K, or K > 2, and y in the precision of `wide`."""

    @property
    def size(self) -> int:
        """K."""
        return self.event_shape[0]

    def log_density(self, value: Tensor) -> Tensor:
        if self.size == 2:
            return self.binary().log_density(self._first(value))
        (like,) = self.wide(next(iter(self.tensors)))
        return self.log_density_of_face(value.to(like.dtype))

    def _first(self, value: Tensor) -> Tensor:
        """The first of two coordinates, from the smaller of them; 0 or 1 only where one of them is 0."""
        (like,) = self.wide(next(iter(self.tensors)))
        first, second = value.to(like.dtype).unbind(-1)
        x = torch.where(first < second, first.clamp_min(0), 1 - second)
        x = torch.where(second <= 0, 1.0, x.clamp_max(1 - torch.finfo(x.dtype).eps / 2))
        return torch.where(first.isnan(), first, x)

    def _of_binary(self, what: str) -> Rectified:
        if self.size == 2:
            return self.binary()
        raise FormulaError(
            f"{what} of {type(self).__name__} with K = {self.size}",
            "K = 2: for more no formula is known",
            "Estimate it from samples and log_prob, where that has a formula",
        )

    def entropy(self) -> Tensor:
        """-E log p(y), for K = 2."""
        return self._of_binary("entropy").entropy().to(self.dtype)

    @property
    def mean(self) -> Tensor:
        first = self._of_binary("mean").mean
        return torch.stack([first, 1 - first], -1).to(self.dtype)

    def draw(self, sample_shape: Size) -> Tensor:
        return get("sparsemax")(self.expand(sample_shape + self.batch_shape).score()).to(self.dtype)


@register_kl(SparsemaxOf, SparsemaxOf)
def _kl(p: SparsemaxOf, q: SparsemaxOf) -> Tensor:
    p, q = alike(p, q)
    return torch.distributions.kl_divergence(p._of_binary("KL"), q._of_binary("KL")).to(p.dtype)


class GaussianSparsemax(SparsemaxOf):
    r"""$y = \text{sparsemax}(x)$, $x_i \sim N(\text{loc}_i, \text{scale}_i^2)$ independent.

    Args:
        loc: (..., K).
        scale: positive, (..., K) or (..., 1), or a number.
        validate_args: as in torch.

    Raises:
        ShapeError: no dimension for K.
        FormulaError: entropy, mean and KL for K > 2.

    Differentiability:
        samples are differentiable in loc and scale; log_prob is in all of them, and in y on its face.

    Complexity:
        log_prob, K > 2: [an integral](../theory/mixed.md#gaussian-sparsemax) of 192 nodes, O(K) each, and as much to
        place them. K = 2: closed form.

    Example:
        >>> import torch, tsallis as ts
        >>> d = ts.latent.GaussianSparsemax(torch.tensor([0.5, 0.2]), 0.7)
        >>> d.log_prob(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).exp()
        tensor([0.2398, 0.0946])
        >>> d = ts.latent.GaussianSparsemax(torch.tensor([1.0, 0.0, 0.0, -1.0]), 0.5)
        >>> d.log_prob(torch.tensor([1.0, 0.0, 0.0, 0.0])).exp()
        tensor(0.3298)

    References:
        farinhas2022sparse
    """

    arg_constraints = {"loc": All(constraints.real), "scale": All(constraints.positive)}
    tensors = {"loc": 1, "scale": 1}

    def __init__(self, loc: Tensor, scale: Tensor | float, validate_args: bool | None = None) -> None:
        self.loc, self.scale = together(loc, scale)
        _check_vector(self.loc, "loc")
        super().__init__(self.loc.shape[:-1], self.loc.shape[-1:], validate_args)

    def binary(self) -> Rectified:
        loc, scale = self.wide("loc", "scale")
        return GaussianSparsemaxBit(
            (1 + loc[..., 0] - loc[..., 1]) / 2, torch.hypot(scale[..., 0], scale[..., 1]) / 2, validate_args=False
        )

    def score(self) -> Tensor:
        loc, scale = wide(self.loc), wide(self.scale)
        return loc + scale * torch.randn_like(scale)

    def log_density_of_face(self, y: Tensor) -> Tensor:
        r"""log of k times the integral over t of prod_{y_i > 0} N(y_i + t) prod_{y_j = 0} P(x_j <= t)."""
        loc, scale = self.wide("loc", "scale")
        y, loc, scale = torch.broadcast_tensors(y, loc, scale)
        face, smallest = y > 0, scale.detach().amin(-1, keepdim=True)
        # The product of the normal densities is one in t, with this mean and deviation, times a constant.
        precision = torch.where(face, (smallest / scale).square(), 0.0)
        total = precision.sum(-1, keepdim=True)
        off = loc - torch.where(face, y, 0.0)
        off = off - (precision * off).sum(-1, keepdim=True) / total
        sigma = (smallest * total.rsqrt()).squeeze(-1)
        densities = torch.where(face, -0.5 * (off / scale).square() - normal.LOG_ROOT - scale.log(), 0.0).sum(-1)

        def h(t: Tensor) -> Tensor:
            z = torch.where(face, 0.0, (t.unsqueeze(-1) - off) / scale)
            below = torch.where(face, 0.0, normal.log_cdf(z)).sum(-1)
            return below - 0.5 * (t / sigma).square()

        def slope(t: Tensor) -> Tensor:
            z = (t.unsqueeze(-1) - off) / scale
            return torch.where(face, 0.0, normal.hazard(z) / scale).sum(-1) - t / sigma.square()

        with torch.no_grad():
            # There the slope is negative: hazards are at most 0.8 above all of the dropped coordinates.
            pull = torch.where(face, 0.0, 0.8 * sigma.unsqueeze(-1) / scale).sum(-1) * sigma
            high = off.amax(-1).clamp_min(0) + pull
        value = densities + log_integral(h, slope, torch.zeros_like(high), high, sigma.detach())
        return torch.where(y.isnan().any(-1) | ~face.any(-1), torch.nan, value + face.sum(-1).to(y.dtype).log())


class KDHardConcrete(SparsemaxOf):
    r"""$y = \text{sparsemax}(\lambda w)$ with w of the concrete distribution (Gumbel-softmax): a hard concrete
    variable in K dimensions.

    Args:
        scores: (..., K), log odds.
        temperature: T of the concrete distribution, positive, (...) or a number.
        stretch: lambda, above 1; at 1 no coordinate would ever be 0.
        validate_args: as in torch.

    Raises:
        ShapeError: no dimension for K.
        ParameterError: stretch that cannot be.
        FormulaError: for K > 2, log_prob of a y with zeros, entropy, mean and KL.

    Differentiability:
        samples are differentiable in scores and temperature.

    Complexity:
        O(K). For K = 2 it is a `HardConcrete` between (1 - lambda)/2 and (1 + lambda)/2.

    Example:
        >>> import torch, tsallis as ts
        >>> d = ts.latent.KDHardConcrete(torch.tensor([1.0, 0.0]), 0.5)
        >>> d.log_prob(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).exp()
        tensor([0.3723, 0.0743])

    References:
        farinhas2022sparse, maddison2017concrete
    """

    arg_constraints = {"scores": All(constraints.real), "temperature": constraints.positive}
    tensors = {"scores": 1, "temperature": 0}
    constants = ("stretch",)

    def __init__(
        self,
        scores: Tensor,
        temperature: Tensor | float,
        stretch: float = 1.1,
        validate_args: bool | None = None,
    ) -> None:
        if not is_number(stretch) or not 1 < stretch < math.inf:
            raise ParameterError(f"stretch={stretch!r}", "a number above 1", "Use 1.1")
        self.stretch = float(stretch)
        _check_vector(scores, "scores")
        each = temperature.unsqueeze(-1) if isinstance(temperature, Tensor) else temperature
        self.scores, temperatures = together(scores, each)
        self.temperature = temperatures[..., 0]
        super().__init__(self.scores.shape[:-1], self.scores.shape[-1:], validate_args)

    def binary(self) -> Rectified:
        scores, temperature = self.wide("scores", "temperature")
        return HardConcrete(
            scores[..., 0] - scores[..., 1],
            temperature,
            low=(1 - self.stretch) / 2,
            high=(1 + self.stretch) / 2,
            validate_args=False,
        )

    def score(self) -> Tensor:
        scores, temperature = wide(self.scores), wide(self.temperature).unsqueeze(-1)
        return self.stretch * ((scores - exponential(scores.contiguous()).log()) / temperature).softmax(-1)

    def log_density_of_face(self, y: Tensor) -> Tensor:
        if bool((y == 0).any()):
            raise FormulaError(
                f"log_prob of KDHardConcrete with K = {self.size} at a y with zeros",
                "K = 2, or a y without zeros: the probability of other faces has no formula",
                "Use GaussianSparsemax, which has one for every face",
            )
        scores, temperature = self.wide("scores", "temperature")
        size, temperature = self.size, temperature.unsqueeze(-1)
        log_w = (y + (self.stretch - 1) / size).log() - math.log(self.stretch)
        rate = scores - temperature * log_w
        odds = (rate - log_w).sum(-1) - size * rate.logsumexp(-1)
        return math.lgamma(size) + (size - 1) * (temperature[..., 0].log() - math.log(self.stretch)) + odds


def _check_vector(x: Tensor, what: str) -> None:
    if not isinstance(x, Tensor) or x.dim() == 0 or x.shape[-1] == 0:
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ShapeError(f"{what} of shape {shape}", "(..., K), K at least 1", "Give each coordinate its own")
