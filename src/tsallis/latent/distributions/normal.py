"""The standard normal distribution, with derivatives that are right in its tails."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

LOG_ROOT = 0.5 * math.log(2 * math.pi)


def density(x: Tensor) -> Tensor:
    """Of the standard normal distribution."""
    return (-0.5 * x.square() - LOG_ROOT).exp()


def hazard(x: Tensor) -> Tensor:
    """The derivative of log P(X <= x): the density over that probability."""
    low = x < 0
    left, right = torch.where(low, x, 0.0), torch.where(low, 0.0, x)
    below = math.sqrt(2 / math.pi) / torch.special.erfcx(-left / math.sqrt(2))
    return torch.where(low, below, density(right) / torch.special.ndtr(right))


class _LogCdf(torch.autograd.Function):
    # The derivative of torch.special.log_ndtr (2.13) loses digits with the square of x, and is infinite from -1e9 on.
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.special.log_ndtr(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad * hazard(ctx.saved_tensors[0])

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return tangent * hazard(ctx.saved_tensors[0])


def log_cdf(x: Tensor) -> Tensor:
    """log P(X <= x)."""
    return _LogCdf.apply(x)  # pyright: ignore[reportReturnType]
