"""Encoder heads that follow fixed patterns of places (Raganato, Scherrer and Tiedemann, 2020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...attention import HeadStatistics, entmax_attention
from ...attention.formula import probabilities
from ...core.dropping import dropped
from ...nn import MultiheadAttention
from ...nn.alpha import AlphaLike, alpha_module

PATTERNS = ("current", "previous", "next", "left", "right", "end", "start", "last")


def patterns(inside: Tensor, count: int) -> Tensor:
    """Weights of the first patterns, for sentences of several lengths.

    With places i and j from 0 to n - 1: all weight on j = i, i - 1 or i + 1; on all j <= i - 2 in proportion to
    (j + 1)^3, and the mirror image of that, on all j >= i + 2; on every j in the same two proportions, which leans to
    the end or to the start of the sentence; all on j = n - 1. Where there is no such place weights are zero.

    Args:
        inside: (B, N) True for the tokens of a sentence, which come before its padding.
        count: how many of `PATTERNS`.

    Returns:
        (B, count, N, N) weights of keys for queries.
    """
    size = inside.shape[1]
    place = torch.arange(size, device=inside.device)
    i, j = place[:, None], place
    n = inside.sum(1)[:, None, None]
    rising = (j + 1.0) ** 3
    falling = (n - j).clamp_min(0).to(rising.dtype) ** 3
    found = [
        j == i, j == i - 1, j == i + 1, rising * (j <= i - 2), falling * (j >= i + 2), rising, falling, j == n - 1,
    ]  # fmt: skip
    weights = rising.new_empty(len(inside), count, size, size)
    for number, pattern in enumerate(found[:count]):
        weights[:, number] = pattern
    weights = weights * (inside[:, None, :, None] & inside[:, None, None, :])
    return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)


class PatternAttention(MultiheadAttention):
    """Self-attention whose first heads follow the first patterns. These have values, and neither queries nor keys.

    Args:
        width: of the states.
        heads: in all; they divide the width.
        fixed: how many of them follow a pattern.
        dropout: share of all weights that training drops.
        alpha: of the others, as in `MultiheadAttention`.
    """

    def __init__(self, width: int, heads: int, fixed: int, dropout: float, alpha: AlphaLike) -> None:
        super().__init__(width, heads, dropout, batch_first=True, alpha=1.0)
        self.fixed, learned = fixed, heads - fixed
        # Rows of queries and keys of learned heads, then of all values.
        self.in_proj_weight = nn.Parameter(torch.empty(2 * learned * self.head_dim + width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(len(self.in_proj_weight)))
        nn.init.xavier_uniform_(self.in_proj_weight)
        self.hold({"alpha": alpha_module(alpha, (learned,)) if learned else 1.0})

    def forward(self, query: Tensor, *others: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
        """As in `MultiheadAttention`, of a sequence that attends to itself, without weights."""
        inside, (q, k, v), mask = self._ready(query, *others, **options)
        dropout = self.dropout if self.training else 0.0
        fixed = dropped(patterns(inside, self.fixed).to(v.dtype), dropout)
        seen = fixed @ v[:, : self.fixed]
        if self.fixed < self.num_heads:
            free = entmax_attention(q, k, v[:, self.fixed :], mask, dropout, alpha=self.held()["alpha"])
            seen = torch.cat([seen, free], 1)
        return self.out_proj(seen.transpose(1, 2).flatten(2)), None

    @torch.no_grad()
    def observe(self, statistics: HeadStatistics, query: Tensor, *others: Any, **options: Any) -> None:
        inside, (q, k, v), mask = self._ready(query, *others, **options)
        weights = patterns(inside, self.fixed)
        if self.fixed < self.num_heads:
            free = probabilities(self._heads(q, k, v[:, self.fixed :], mask, False), None)
            weights = torch.cat([weights.to(free.dtype), free], 1)
        statistics.update(weights, inside[:, None, :, None] & inside[:, None, None, :])

    def _ready(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None, **_: Any
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Which places (B, N) are tokens; queries and keys of learned heads, values of all; and the mask of keys."""
        free = (self.num_heads - self.fixed) * self.head_dim
        parts = functional.linear(query, self.in_proj_weight, self.in_proj_bias).split([free, free, self.embed_dim], -1)
        if key_padding_mask is None:
            inside = torch.ones(query.shape[:2], dtype=torch.bool, device=query.device)
        else:
            # Layers of torch turn boolean masks into numbers that are added to scores.
            inside = ~key_padding_mask if key_padding_mask.dtype == torch.bool else key_padding_mask == 0
        split = [part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) if part.shape[-1] else part for part in parts]
        return inside, split, inside[:, None, None]
