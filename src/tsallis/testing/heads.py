"""Queries and keys whose attention has a wanted sparsity."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.registry import get


def draw_heads(
    lead: tuple[int, ...], queries: int, keys: int, width: int, share: float | None, alpha: float = 1.5, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """(q, k, v) of shape (*lead, n, width): normal, q scaled so that entmax of the scores has about this mean ``share``
    of the keys in its support; by 0.1 if that is None.

    Example:
        >>> q, k, v = draw_heads((1, 2), 64, 64, 16, 0.1)
        >>> q.shape
        torch.Size([1, 2, 64, 16])
    """
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(*lead, n, width, generator=generator) for n in (queries, keys, keys))
    if share is None:
        return 0.1 * q, k, v
    sample = q.reshape(-1, queries, width)[0, :64] @ k.reshape(-1, keys, width)[0].t() / width**0.5
    low, high = 1e-3, 1e3
    for _ in range(30):
        scale = (low * high) ** 0.5
        mean = float((get("entmax")(scale * sample, alpha=alpha) > 0).double().mean())
        low, high = (scale, high) if mean > share else (low, scale)
    return high * q, k, v
