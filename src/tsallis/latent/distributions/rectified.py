"""A continuous variable clamped to [0, 1]: what all binary mixed distributions have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Size, Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl

from .base import SparseDistribution, alike
from .quadrature import constant, unit_nodes


def weighted(log_p: Tensor, x: Tensor) -> Tensor:
    """p x, which is 0 where p is."""
    p = log_p.exp()
    return torch.where(p > 0, p * torch.where(p > 0, x, 0.0), p)


class Rectified(SparseDistribution, ABC):
    r"""$y = \min(\max(x, 0), 1)$ of a continuous x with known distribution: probability at 0 and at 1, and the density
    of x between.

    A subclass says how x is distributed: `log_cdf_base`, `log_survival_base`, `log_density_base`, `quantile_base`, in
    the precision of `wide`. Densities are with respect to length on (0, 1) plus one for each of the points 0 and 1.
    """

    support = constraints.unit_interval
    values = "numbers in [0, 1]"
    has_rsample = True

    # --- declared -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def log_cdf_base(self, x: Tensor) -> Tensor:
        """log P(X <= x), for x in [0, 1]."""

    @abstractmethod
    def log_survival_base(self, x: Tensor) -> Tensor:
        """log P(X > x), for x in [0, 1]."""

    @abstractmethod
    def log_density_base(self, x: Tensor) -> Tensor:
        """Of X, for x in [0, 1]."""

    @abstractmethod
    def quantile_base(self, log_u: Tensor, log_rest: Tensor) -> Tensor:
        """The x with P(X <= x) = u, from log u and log(1 - u)."""

    # --- derived ------------------------------------------------------------------------------------------------------

    def _corner(self, at: float) -> Tensor:
        return self._parameter.new_full((), at)

    @property
    def _parameter(self) -> Tensor:
        return self.wide(next(iter(self.tensors)))[0]

    @property
    def log_zero(self) -> Tensor:
        """log P(y = 0), in double precision."""
        return self.log_cdf_base(self._corner(0.0)).expand(self.batch_shape)

    @property
    def log_one(self) -> Tensor:
        """log P(y = 1), in double precision."""
        return self.log_survival_base(self._corner(1.0)).expand(self.batch_shape)

    @property
    def zero_probability(self) -> Tensor:
        """P(y = 0)."""
        return self.log_zero.exp().to(self.dtype)

    @property
    def one_probability(self) -> Tensor:
        """P(y = 1)."""
        return self.log_one.exp().to(self.dtype)

    @property
    def nonzero_probability(self) -> Tensor:
        """P(y > 0), the expected L0 norm."""
        return self.log_survival_base(self._corner(0.0)).exp().expand(self.batch_shape).to(self.dtype)

    def log_density(self, value: Tensor) -> Tensor:
        x = value.to(self._parameter.dtype)
        inside = (x > 0) & (x < 1)
        # Elsewhere the density is evaluated where it is high: there it is finite, and so is the gradient not used.
        calm = self._inner_quantile(x.new_full((), 0.5))
        density = self.log_density_base(torch.where(inside, x, calm))
        point = torch.where(x == 0, self.log_zero, torch.where(x == 1, self.log_one, -torch.inf))
        return torch.where(x.isnan(), torch.nan, torch.where(inside, density, point))

    def _inner_quantile(self, u: Tensor) -> Tensor:
        with torch.no_grad():
            return self.quantile_base(u.log(), (-u).log1p()).clamp(0, 1)

    def cdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x = value.to(self._parameter.dtype)
        below = self.log_cdf_base(x.clamp(0, 1)).exp()
        return torch.where(x >= 1, 1.0, torch.where(x < 0, 0.0, below)).to(self.dtype)

    def icdf(self, value: Tensor) -> Tensor:
        u = value.to(self._parameter.dtype)
        within = (u > 0) & (u < 1)
        safe = torch.where(within, u, 0.5)
        x = self.quantile_base(safe.log(), (-safe).log1p()).clamp(0, 1)
        end = torch.where(u == 0, 0.0, torch.where(u == 1, 1.0, torch.nan))
        return torch.where(within, x, end).to(self.dtype)

    def draw(self, sample_shape: Size) -> Tensor:
        like = self._parameter
        shape = sample_shape + self.batch_shape
        # Of two exponential variables: the quotient has both tails in full precision, as no uniform variable has.
        first, second = (torch.empty(shape, dtype=like.dtype, device=like.device).exponential_() for _ in range(2))
        logit = first.log() - second.log()
        log_sigmoid = torch.nn.functional.logsigmoid
        return self.clamped(self.quantile_base(log_sigmoid(logit), log_sigmoid(-logit)))

    def clamped(self, x: Tensor) -> Tensor:
        """min(max(x, 0), 1) in the parameters' dtype, in which no x of (0, 1) is rounded to an end: those would not
        have the density of that point.
        """
        y, info = x.clamp(0, 1).to(self.dtype), torch.finfo(self.dtype)
        inner = y.clamp(info.tiny, 1 - info.eps / 2)
        return torch.where((x > 0) & (x < 1), y + (inner - y).detach(), y)

    # --- integrals ----------------------------------------------------------------------------------------------------

    def inside(self) -> tuple[Tensor, Tensor]:
        """Nodes x in [0, 1] and weights (N, *batch) of the measure p(x) dx, differentiable at fixed nodes.

        Nodes are quantiles: as many where the probability is, however narrow that is.
        """
        with torch.no_grad():
            zero, one = self._corner(0.0), self._corner(1.0)
            below, up_to = self.log_cdf_base(zero).exp(), self.log_cdf_base(one).exp()
            above, beyond = self.log_survival_base(zero).exp(), self.log_survival_base(one).exp()
            mass = torch.where(below < 0.5, up_to - below, above - beyond).clamp_min(0)
            u, rest, weights = (t.view(-1, *[1] * mass.dim()) for t in unit_nodes(mass))
            tiny = torch.finfo(mass.dtype).tiny
            x = self.quantile_base(
                (below + mass * u).clamp_min(tiny).log(), (beyond + mass * rest).clamp_min(tiny).log()
            ).clamp(0, 1)
        x, weights = constant(x), constant(mass * weights)
        log_density = self.log_density_base(x)
        return x, weights * (log_density - constant(log_density)).exp()

    def cross_inside(self, other: Rectified) -> Tensor:
        """The integral of -p(x) log q(x) over (0, 1)."""
        x, weights = self.inside()
        return -(weights * other.log_density_base(x)).sum(0)

    def entropy(self) -> Tensor:
        """-E log p(y), Shannon's with respect to length on (0, 1) plus one for each of the points 0 and 1."""
        points = weighted(self.log_zero, self.log_zero) + weighted(self.log_one, self.log_one)
        return (self.cross_inside(self) - points).expand(self.batch_shape).to(self.dtype)

    @property
    def mean(self) -> Tensor:
        x, weights = self.inside()
        return (self.log_one.exp() + (weights * x).sum(0)).to(self.dtype)

    @property
    def variance(self) -> Tensor:
        x, weights = self.inside()
        one = self.log_one.exp()
        mean = one + (weights * x).sum(0)
        points = self.log_zero.exp() * mean.square() + one * (1 - mean).square()
        return (points + (weights * (x - mean).square()).sum(0)).to(self.dtype)


@register_kl(Rectified, Rectified)
def _kl(p: Rectified, q: Rectified) -> Tensor:
    p, q = alike(p, q)
    points = weighted(p.log_zero, p.log_zero - q.log_zero) + weighted(p.log_one, p.log_one - q.log_one)
    return (points + p.cross_inside(q) - p.cross_inside(p)).to(p.dtype)
