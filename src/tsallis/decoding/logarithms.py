"""Logarithms of probabilities whose zeros are proofs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.inputs import check_scores, widened
from ..core.numerics import compute_dtype, log_tsallis_exp
from ..mappings import entmax


def log_entmax(z: Tensor, alpha: float, dtype: torch.dtype | None = None) -> Tensor:
    """Logarithm of entmax over the last dimension, -inf where a probability is zero and only there: a search takes
    zeros for proofs, and those that are too small for a number are none.

    Args:
        z: scores, with entries of -inf where something is masked; integers are taken as numbers of the default dtype.
        alpha: a number in [0, inf).
        dtype: of the result; None for that of z, float32 for half precision. Finite logarithms below its range become
            its least number.

    Returns:
        Logarithms in the shape of z.

    Differentiability:
        None: in rows with zeros gradients are not defined.

    Complexity:
        That of entmax; in float64 where alpha is near 1 or below and a probability may be too small for a number.

    Example:
        >>> import torch, tsallis as ts
        >>> ts.decoding.log_entmax(torch.tensor([0.0, -60.0]), 1.01)
        tensor([  0.0000, -91.6291])

    References:
        peters2019sparse
    """
    z = widened(check_scores(z))
    dtype = dtype or z.dtype
    if alpha == 1:
        # A row without a finite score has no probabilities, here as in `entmax`; log_softmax would have NaN.
        log = z.log_softmax(-1).masked_fill(z == -torch.inf, -torch.inf)
    else:
        p = entmax(z, alpha)
        small = _may_underflow(z, alpha)
        if small and p.is_cpu and p.numel():
            # To read what is on another device is to wait for it.
            small = not bool(p.amin() >= torch.finfo(p.dtype).tiny)
        log = _log_by_largest(z.to(compute_dtype(z)), alpha) if small else p.log()
    if log.dtype == dtype:
        return log
    return torch.where(log > -torch.inf, log.clamp_min(torch.finfo(dtype).min), log).to(dtype)


def _may_underflow(z: Tensor, alpha: float) -> bool:
    """Whether a probability that rounding can tell from zero may be too small for a number.

    With the largest probability P >= 1/n it is P times a power 1/a of at least the rounding unit; below alpha = 1
    there is no least one.
    """
    limits = torch.finfo(z.dtype)
    room = -math.log(limits.tiny) - math.log(max(z.shape[-1], 1))
    return (alpha - 1) * room < -math.log(limits.eps)


def _log_by_largest(z: Tensor, alpha: float) -> Tensor:
    """log p_i = log P + log exp_alpha(d_i / P^a), P being the largest probability and d_i <= 0 what z_i is below the
    largest score (docs/theory/entmax.md): no small number is needed on the way.
    """
    if not z.shape[-1]:
        return z
    largest = entmax(z, alpha).amax(-1, keepdim=True).log()
    below = torch.where(z > -torch.inf, z - z.amax(-1, keepdim=True), -torch.inf)
    return largest + log_tsallis_exp(below * (-(alpha - 1) * largest).exp(), z.new_tensor(alpha))
