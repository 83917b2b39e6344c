"""Distributions over [0, 1] with probability at 0 and at 1."""

from __future__ import annotations

import math

import torch
from torch import Size, Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from ...core.errors import ParameterError
from ...core.inputs import is_number
from ..latents import wide
from . import normal
from .base import together
from .quadrature import smooth_nodes
from .rectified import Rectified

# Of the standard deviation: beyond, the density on [0, 1] is so flat that a few nodes integrate it to rounding.
_FAR = 10.0


class GaussianSparsemaxBit(Rectified):
    r"""$y = \min(\max(x, 0), 1)$ with $x \sim N(\text{loc}, \text{scale}^2)$: a rectified Gaussian, the bit of
    Gaussian-sparsemax.

    Args:
        loc: mean of x.
        scale: its standard deviation, positive.
        validate_args: as in torch.

    Differentiability:
        any order; samples are differentiable in loc and scale.

    Complexity:
        all in closed form (entropy and KL from a scale above 10 by 8 nodes), but mean and variance, and KL to a
        distribution of another family: quadrature of 201 nodes.

    Example:
        >>> import torch, tsallis as ts
        >>> y = ts.latent.GaussianSparsemaxBit(torch.tensor(0.3), 0.7)
        >>> y.zero_probability, y.one_probability, y.entropy()
        (tensor(0.3341), tensor(0.1587), tensor(0.9982))

    References:
        farinhas2022sparse
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    tensors = {"loc": 0, "scale": 0}

    def __init__(self, loc: Tensor | float, scale: Tensor | float, validate_args: bool | None = None) -> None:
        self.loc, self.scale = together(loc, scale)
        super().__init__(self.loc.shape, Size(), validate_args)

    def _standard(self, x: Tensor) -> Tensor:
        loc, scale = self.wide("loc", "scale")
        return (x - loc) / scale

    def log_cdf_base(self, x: Tensor) -> Tensor:
        return normal.log_cdf(self._standard(x))

    def log_survival_base(self, x: Tensor) -> Tensor:
        return normal.log_cdf(-self._standard(x))

    def log_density_base(self, x: Tensor) -> Tensor:
        (scale,) = self.wide("scale")
        return -0.5 * self._standard(x).square() - scale.log() - normal.LOG_ROOT

    def quantile_base(self, log_u: Tensor, log_rest: Tensor) -> Tensor:
        loc, scale = self.wide("loc", "scale")
        tail = torch.special.ndtri(torch.minimum(log_u, log_rest).exp())
        return loc + scale * torch.where(log_u < log_rest, tail, -tail)

    def draw(self, sample_shape: Size) -> Tensor:
        loc, scale = wide(self.loc), wide(self.scale)
        noise = torch.randn(sample_shape + self.batch_shape, dtype=loc.dtype, device=loc.device)
        return self.clamped(loc + scale * noise)

    def cross_inside(self, other: Rectified) -> Tensor:
        if not isinstance(other, GaussianSparsemaxBit):
            return super().cross_inside(other)
        loc, scale = self.wide("loc", "scale")
        loc_q, scale_q = other.wide("loc", "scale")
        a, b = (self._standard(self._corner(at)) for at in (0.0, 1.0))
        left, right = normal.density(a), normal.density(b)
        # The difference of the smaller tails.
        mass = torch.where(
            a < 0,
            torch.special.ndtr(b) - torch.special.ndtr(a),
            torch.special.ndtr(-a) - torch.special.ndtr(-b),
        )
        shift, ratio = (loc - loc_q) / scale_q, scale / scale_q
        square = ratio.square() * (mass + a * left - b * right) + 2 * ratio * shift * (left - right)
        closed = mass * (scale_q.log() + normal.LOG_ROOT) + 0.5 * (square + shift.square() * mass)
        # If x is spread far beyond [0, 1], little is left of the differences, times the square of the ratio.
        far = scale > _FAR
        spread = torch.where(far, scale, _FAR)
        x, weights = smooth_nodes(closed)
        flat = -(weights * normal.density((x - loc) / spread) / spread * other.log_density_base(x)).sum(0)
        return torch.where(far, flat, closed)


class Stretched(Rectified):
    """x = low + (high - low) t with t in (0, 1), low < 0 and high > 1.

    A subclass says how t is distributed, in terms of log t and log(1 - t).
    """

    constants = ("low", "high")
    low: float
    high: float

    def set_ends(self, low: float, high: float) -> None:
        """Check and keep them."""
        if not (is_number(low) and is_number(high) and -math.inf < low < 0 and 1 < high < math.inf):
            raise ParameterError(f"low={low!r}, high={high!r}", "numbers with low < 0 and high > 1", "Use -0.1 and 1.1")
        self.low, self.high = float(low), float(high)

    @property
    def log_width(self) -> float:
        """log(high - low)."""
        return math.log(self.high - self.low)

    def logs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log t and log(1 - t) of x."""
        return (x - self.low).log() - self.log_width, (self.high - x).log() - self.log_width

    def stretch(self, t: Tensor) -> Tensor:
        """x of t."""
        return self.low + (self.high - self.low) * t


class HardConcrete(Stretched):
    r"""$y = \min(\max(x, 0), 1)$, $x = \text{low} + (\text{high} - \text{low})\, \sigma((\text{loc} + L) / T)$ with L
    logistic: a binary concrete variable, stretched and rectified.

    Args:
        loc: log odds.
        temperature: T, positive.
        low, high: the interval it is stretched to, with low < 0 and high > 1.
        validate_args: as in torch.

    Raises:
        ParameterError: low or high that cannot be.

    Differentiability:
        any order; samples are differentiable in loc and temperature.

    Complexity:
        probabilities, densities and quantiles in closed form; entropy, KL, mean, variance by quadrature of 201 nodes.

    Example:
        >>> import torch, tsallis as ts
        >>> gate = ts.latent.HardConcrete(torch.tensor([0.0, 3.0]), 2 / 3)
        >>> gate.zero_probability, gate.nonzero_probability
        (tensor([0.1682, 0.0100]), tensor([0.8318, 0.9900]))

    References:
        louizos2018learning
    """

    arg_constraints = {"loc": constraints.real, "temperature": constraints.positive}
    tensors = {"loc": 0, "temperature": 0}

    def __init__(
        self,
        loc: Tensor | float,
        temperature: Tensor | float = 2 / 3,
        low: float = -0.1,
        high: float = 1.1,
        validate_args: bool | None = None,
    ) -> None:
        self.set_ends(low, high)
        self.loc, self.temperature = together(loc, temperature)
        super().__init__(self.loc.shape, Size(), validate_args)

    def _noise(self, x: Tensor) -> Tensor:
        """The L that leads to x."""
        loc, temperature = self.wide("loc", "temperature")
        log_t, log_rest = self.logs(x)
        return temperature * (log_t - log_rest) - loc

    def log_cdf_base(self, x: Tensor) -> Tensor:
        return logsigmoid(self._noise(x))

    def log_survival_base(self, x: Tensor) -> Tensor:
        return logsigmoid(-self._noise(x))

    def log_density_base(self, x: Tensor) -> Tensor:
        (temperature,) = self.wide("temperature")
        noise = self._noise(x)
        log_t, log_rest = self.logs(x)
        return logsigmoid(noise) + logsigmoid(-noise) + temperature.log() - log_t - log_rest - self.log_width

    def quantile_base(self, log_u: Tensor, log_rest: Tensor) -> Tensor:
        loc, temperature = self.wide("loc", "temperature")
        return self.stretch(((loc + log_u - log_rest) / temperature).sigmoid())


def log_one_minus_exp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x <= 0, to full precision; 0 counts as the largest number below it."""
    x = x.clamp_max(-torch.finfo(x.dtype).tiny)
    near = x > -math.log(2)
    return torch.where(near, (-torch.where(near, x, -1.0).expm1()).log(), (-torch.where(near, -1.0, x).exp()).log1p())


# Below, log(1 - e^-y) and log(-log(1 - e^y)) equal their first two terms.
_FIRST_TERMS = -25.0


def log_minus_log(y: Tensor) -> Tensor:
    """log(-log(1 - e^y)) for y <= 0: y + e^y/2 + ... where e^y is small, where the logarithm would round to 0."""
    small = y < _FIRST_TERMS
    return torch.where(small, y + 0.5 * y.exp(), (-log_one_minus_exp(torch.where(small, -1.0, y))).log())


def log_one_minus_exp_exp(y: Tensor) -> Tensor:
    """log(1 - exp(-e^y)): y - e^y/2 + ... where e^y is small."""
    small = y < _FIRST_TERMS
    safe = torch.where(small, 0.0, y)
    return torch.where(small, y - 0.5 * torch.where(small, y, 0.0).exp(), log_one_minus_exp(-safe.exp()))


class HardKuma(Stretched):
    r"""$y = \min(\max(x, 0), 1)$, $x = \text{low} + (\text{high} - \text{low})\, t$ with t of Kumaraswamy's
    distribution, $P(t \le s) = 1 - (1 - s^a)^b$.

    Args:
        a, b: positive.
        low, high: the interval it is stretched to, with low < 0 and high > 1.
        validate_args: as in torch.

    Raises:
        ParameterError: low or high that cannot be.

    Differentiability:
        any order; samples are differentiable in a and b.

    Complexity:
        as `HardConcrete`.

    Example:
        >>> import torch, tsallis as ts
        >>> y = ts.latent.HardKuma(torch.tensor([0.5, 5.0]), torch.tensor([0.5, 1.0]))
        >>> y.zero_probability, y.one_probability
        (tensor([1.5660e-01, 4.0188e-06]), tensor([0.2063, 0.3528]))

    References:
        bastings2019interpretable
    """

    arg_constraints = {"a": constraints.positive, "b": constraints.positive}
    tensors = {"a": 0, "b": 0}

    def __init__(
        self,
        a: Tensor | float,
        b: Tensor | float,
        low: float = -0.1,
        high: float = 1.1,
        validate_args: bool | None = None,
    ) -> None:
        self.set_ends(low, high)
        self.a, self.b = together(a, b)
        super().__init__(self.a.shape, Size(), validate_args)

    def _log_rate(self, x: Tensor) -> Tensor:
        """log of -log P(X > x)."""
        a, b = self.wide("a", "b")
        return b.log() + log_minus_log(a * self.logs(x)[0])

    def log_cdf_base(self, x: Tensor) -> Tensor:
        return log_one_minus_exp_exp(self._log_rate(x))

    def log_survival_base(self, x: Tensor) -> Tensor:
        return -self._log_rate(x).exp()

    def log_density_base(self, x: Tensor) -> Tensor:
        a, b = self.wide("a", "b")
        log_t = self.logs(x)[0]
        return a.log() + b.log() + (a - 1) * log_t + (b - 1) * log_one_minus_exp(a * log_t) - self.log_width

    def quantile_base(self, log_u: Tensor, log_rest: Tensor) -> Tensor:
        a, b = self.wide("a", "b")
        return self.stretch((log_one_minus_exp(log_rest / b) / a).exp())
