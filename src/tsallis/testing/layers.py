"""Output layers whose scores have a wanted sparsity."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.registry import get


def draw_layer(
    tokens: int, width: int, words: int, support: float | None, alpha: float = 1.5, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """(hidden, weight, target): normal scores scaled so that the mean support of entmax is about ``support``; nearly
    equal ones if that is None. Targets are among the larger scores.

    Example:
        >>> hidden, weight, target = draw_layer(8, 16, 1000, support=5)
        >>> hidden.shape, weight.shape, target.shape
        (torch.Size([8, 16]), torch.Size([1000, 16]), torch.Size([8]))
    """
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=generator)
    weight = torch.randn(words, width, generator=generator) / width**0.5
    sample = hidden[:64] @ weight.t()
    target = torch.randint(words, (tokens,), generator=generator)
    target[: len(sample)] = sample.argmax(1)
    if support is None:
        return 1e-3 * hidden, weight, target
    low, high = 1e-3, 100.0
    for _ in range(30):
        scale = (low * high) ** 0.5
        mean = float((get("entmax")(scale * sample, alpha=alpha) > 0).sum(1).double().mean())
        low, high = (scale, high) if mean > support else (low, scale)
    return high * hidden, weight, target
