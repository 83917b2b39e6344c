"""What tests of the paged cache have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import tsallis as ts
from tsallis.attention import PagedCache


def draw(seed: int, lead: tuple[int, int], n: int, d: int, factor: float = 1.0) -> Tensor:
    return factor * torch.randn(*lead, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def full(q: Tensor, k: Tensor, v: Tensor, alpha: Any, keep: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Attention to all keys, aligned at the end."""
    n, m = q.shape[2], k.shape[2]
    seen = torch.ones(n, m, dtype=torch.bool).tril(m - n)
    if keep is not None:
        seen = seen & keep[:, None, None]
    return ts.entmax_attention(q, k, v, seen, alpha=alpha, enable_gqa=True, scale=scale)


def summary_is_fresh(cache: PagedCache) -> None:
    """What was kept while the cache changed is what all its tokens at once give."""
    fresh = PagedCache(cache.page_size, cells=cache.cells)
    fresh.append(cache.keys, cache.values, cache.keep)
    pages = (x._filled().pages(None).summary.each() for x in (cache, fresh))
    for a, b in zip(*pages, strict=True):
        assert torch.equal(a, b)
