"""Powers, logarithms and their derivatives, stable at 0 and smooth where alpha passes through 1.

Every formula of the family is written with ``a = alpha - 1`` and two entire functions,

    phi(x) = expm1(x) / x            psi(x) = phi'(x) = (x e^x - expm1(x)) / x^2,

because the deformed logarithm is ``ln_alpha(p) = (p^a - 1)/a = l phi(a l)`` with ``l = log p`` and its derivative in
alpha at fixed p is ``l^2 psi(a l)``. Neither form divides by ``a``, so alpha = 1 needs no special case. All functions
are differentiable any number of times. Derivation: docs/theory/entmax.md.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# |x| below which the Taylor series is used. The closed forms lose log2(1/x) bits to cancellation; at |x| = 1 that is
# one or two, and 20 terms reach float64 rounding there (the first omitted term is below 1/21!).
_SERIES_RADIUS = 1.0
_SERIES_TERMS = 20
_PHI_SERIES = tuple(1.0 / math.factorial(j + 1) for j in range(_SERIES_TERMS))
_PSI_SERIES = tuple((j + 1.0) / math.factorial(j + 2) for j in range(_SERIES_TERMS))


def compute_dtype(z: Tensor) -> torch.dtype:
    """float64 wherever the device has it: the reference kernels round once, when they return."""
    return torch.float32 if z.device.type == "mps" else torch.float64


def _horner(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    total = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = total * x + c
    return total


def phi(x: Tensor) -> Tensor:
    """expm1(x)/x, equal to 1 at x = 0."""
    near = x.abs() < _SERIES_RADIUS
    # Each branch sees only arguments it is defined for: an unused branch of `where` must not leak NaN into gradients.
    far_x = torch.where(near, 2.0, x)
    return torch.where(near, _horner(_PHI_SERIES, torch.where(near, x, 0.0)), torch.expm1(far_x) / far_x)


def psi(x: Tensor) -> Tensor:
    """(x e^x - expm1(x))/x^2, the derivative of `phi`, equal to 1/2 at x = 0."""
    near = x.abs() < _SERIES_RADIUS
    far_x = torch.where(near, 2.0, x)
    closed = (far_x * far_x.exp() - torch.expm1(far_x)) / far_x.square()
    return torch.where(near, _horner(_PSI_SERIES, torch.where(near, x, 0.0)), closed)


def safe_log(p: Tensor) -> Tensor:
    """log p where p > 0, the constant 0 elsewhere (value and gradient)."""
    positive = p > 0
    return torch.where(positive, torch.where(positive, p, 1.0).log(), 0.0)


def safe_pow(p: Tensor, exponent: Tensor) -> Tensor:
    """p ** exponent where p > 0, the constant 0 elsewhere, also for negative exponents."""
    positive = p > 0
    return torch.where(positive, torch.where(positive, p, 1.0) ** exponent, 0.0)


def row_extreme(x: Tensor, *, largest: bool = True) -> Tensor:
    """The largest (or smallest) entry of each row, (..., 1), as a constant; 1 for rows without entries."""
    if x.shape[-1] == 0:
        return torch.ones_like(x.sum(-1, keepdim=True))
    x = x.detach()
    return x.amax(-1, keepdim=True) if largest else x.amin(-1, keepdim=True)


def shares(w: Tensor) -> Tensor:
    """w / sum w of each row of non-negative numbers; 0 where all are."""
    total = w.sum(-1, keepdim=True)
    return w / torch.where(total == 0, 1.0, total)


def power_shares(p: Tensor, exponent: Tensor) -> Tensor:
    """p^exponent over its sum, on the entries with p > 0, also where the powers themselves would leave the range.

    The quotient does not change if p is divided by a constant: the entry whose power is largest becomes 1.
    """
    positive = p > 0
    top = row_extreme(torch.where(positive, p, 0.0))
    bottom = row_extreme(torch.where(positive, p, torch.inf), largest=False)
    scale = torch.where(exponent < 0, bottom, top)
    usable = (scale > 0) & (scale < torch.inf)
    return shares(safe_pow(p / torch.where(usable, scale, 1.0), exponent))


def from_heaviest(v: Tensor, weight: Tensor) -> Tensor:
    """v minus its value at the entry of each row with the largest weight, which is then exactly 0."""
    return v - v.gather(-1, weight.argmax(-1, keepdim=True)) if v.shape[-1] else v


def vanishing_times(x: Tensor, y: Tensor) -> Tensor:
    """x * y where y = 0 wins over an infinite x."""
    return torch.where((y == 0) & x.isinf(), 0.0, x) * y


def tsallis_log(p: Tensor, alpha: Tensor) -> Tensor:
    """The deformed logarithm (p^(alpha-1) - 1)/(alpha-1) where p > 0, else 0; log p at alpha = 1."""
    ell = safe_log(p)
    return ell * phi((alpha - 1) * ell)


def tsallis_log_slope(p: Tensor, alpha: Tensor) -> Tensor:
    """Derivative of `tsallis_log` in alpha at fixed p."""
    ell = safe_log(p)
    return ell.square() * psi((alpha - 1) * ell)


def tsallis_negentropy(p: Tensor, alpha: Tensor) -> Tensor:
    """Elementwise p ln_alpha(p)/alpha = (p^alpha - p)/(alpha(alpha-1)); at p = 0 value 0 and, for alpha > 1, its slope.

    Summed over a row it is the negative Tsallis alpha-entropy, at alpha = 1 the negative Shannon entropy in nats.
    """
    interior = p * tsallis_log(p, alpha) / alpha
    a = alpha - 1
    curved = a > 0
    slope_at_zero = torch.where(curved, -1 / (alpha * torch.where(curved, a, 1.0)), 0.0)
    return torch.where(p > 0, interior, p * slope_at_zero)


def tsallis_exp(y: Tensor, alpha: Tensor) -> Tensor:
    """[1 + a y]_+ ^ (1/a), the inverse of the deformed logarithm; e^y at alpha = 1, and 0 at y = -inf (a masked
    entry).
    """
    inside, exponent = _tsallis_exponent(y, alpha)
    return torch.where(inside, exponent.exp(), 0.0)


def log_tsallis_exp(y: Tensor, alpha: Tensor) -> Tensor:
    """The logarithm of `tsallis_exp`, -inf where that is zero and only there: what would be too small for a number is
    not.
    """
    inside, exponent = _tsallis_exponent(y, alpha)
    return torch.where(inside, exponent, -torch.inf)


def _tsallis_exponent(y: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Where 1 + a y > 0, and log(1 + a y)/a there, else 0."""
    a = alpha - 1
    kept = y > -torch.inf
    x = a * torch.where(kept, y, 0.0)
    inside = kept & (x > -1)
    x = torch.where(inside, x, 0.0)
    # log1p(x)/x loses nothing near x = 0, and 1 + x is exact near the edge of the support, x = -1.
    ratio = torch.where(x == 0, 1.0, torch.log1p(x) / torch.where(x == 0, 1.0, x))
    return inside, torch.where(inside, y, 0.0) * ratio
