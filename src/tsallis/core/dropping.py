"""Dropout whose random numbers cost a fraction on CPUs, where drawing them can be a quarter of a training step."""

from __future__ import annotations

import torch
from torch import Tensor

from .fused import is_plain

# A number of 64 random bits is four of 16.
_LEVELS, _LEAST, _A_WORD = 2**16, -(2**15), 4


def dropped(x: Tensor, p: float) -> Tensor:
    """x with entries dropped, as `torch.nn.functional.dropout` in training; other entries where `is_plain` is false."""
    if not p:
        return x
    if x.device.type != "cpu" or not is_plain(x):
        return torch.nn.functional.dropout(x, p)
    return x * factors(x, p)


def factors(like: Tensor, p: float, generator: torch.Generator | None = None) -> Tensor:
    """What dropout multiplies entries by: 0 for a share p of them, for the others what makes the mean 1.

    On the CPU p is rounded to a multiple of 2^-16, and the mean is 1 for the rounded one.
    """
    if like.device.type != "cpu":
        drawn = torch.empty_like(like).bernoulli_(1 - p, generator=generator)
        return drawn.div_(1 - p) if p < 1 else drawn
    lost = round(p * _LEVELS)
    if lost == _LEVELS:
        return torch.zeros_like(like)
    words = torch.empty(-(-like.numel() // _A_WORD), dtype=torch.int64, device=like.device).random_(
        _LEAST * 2**48, None, generator=generator
    )
    kept = words.view(torch.int16)[: like.numel()] >= _LEAST + lost
    return kept.view(like.shape).to(like.dtype).mul_(_LEVELS / (_LEVELS - lost))
