"""A learnable alpha that stays inside its interval."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.errors import ParameterError
from ..core.inputs import constant_alpha, is_number, widened

# What a learned alpha starts from.
START = 1.5
# What modules take for alpha.
AlphaLike = float | Tensor | nn.Module | Literal["learn"]


class Alpha(nn.Module):
    r"""alpha = low + (high - low) sigmoid(theta), with theta learned.

    Args:
        init: the first value, in [low, high]. At an end it moves inside by 1e-4 of the width, where theta is finite.
        shape: shape of alpha, to broadcast with size 1 at the mapping's `dim`: (heads, 1, 1) for one alpha per head.
        low, high: the interval, 0 <= low < high.

    Raises:
        ParameterError: an empty interval, or init outside it.

    Example:
        >>> import tsallis as ts
        >>> float(ts.nn.Alpha(1.5)().detach())
        1.5
    """

    def __init__(self, init: float = START, shape: tuple[int, ...] = (), low: float = 1.0, high: float = 2.0) -> None:
        super().__init__()
        if not 0 <= low < high < math.inf:
            raise ParameterError(f"low={low}, high={high}", "0 <= low < high < inf", "Choose another interval")
        if not low <= init <= high:
            raise ParameterError(
                f"init={init}", f"a value in [{low}, {high}]", "Choose init inside the interval, or widen it"
            )
        self.low, self.high, self.init = float(low), float(high), float(init)
        self.theta = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Back to the first value."""
        share = min(max((self.init - self.low) / (self.high - self.low), 1e-4), 1 - 1e-4)
        with torch.no_grad():
            self.theta.fill_(math.log(share) - math.log1p(-share))

    def forward(self) -> Tensor:
        """alpha, of the given shape; in float32 at least: steps of half precision are too wide for it."""
        return self.low + (self.high - self.low) * torch.sigmoid(widened(self.theta))

    def extra_repr(self) -> str:
        return f"shape={tuple(self.theta.shape)}, low={self.low}, high={self.high}"


def alpha_module(
    alpha: AlphaLike, shape: tuple[int, ...], device: Any = None, dtype: Any = None
) -> float | Tensor | nn.Module:
    """Alpha as it was given, numbers checked; for "learn", one of the shape that is learned in (1, 2), from 1.5."""
    if isinstance(alpha, Tensor | nn.Module):
        return alpha
    if is_number(alpha):
        return constant_alpha(alpha)
    if alpha != "learn":
        raise ParameterError(f"alpha={alpha!r}", 'a number, a tensor, a module, or "learn"', "Choose one")
    return Alpha(START, shape).to(device=device, dtype=dtype)
