"""What is kept of pages of keys so that no key of a page has to be read to know how large its scores may be.

Of each page: the middle and the half widths of the box around its keys, the radius of the ball around that middle, and
the norm of the box's farthest corner. Of each key, if wanted: in which sixteenth of the box it lies along every
coordinate, two coordinates to a byte. Box, ball and cells bound the product with any query from above, the cells 16
times as closely as the box. Derivation and the share of rounding: docs/theory/attention.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# Cells along each coordinate of a box: what half a byte counts.
CELLS = 16


class Summary(NamedTuple):
    """Of pages (..., P): middle and half widths (..., P, d), radius and farthest corner (..., P), and the keys' cells
    (..., P, page_size, (d + 1) // 2), or None.
    """

    middle: Tensor
    half: Tensor
    radius: Tensor
    size: Tensor
    cells: Tensor | None

    @classmethod
    def empty(cls, lead: tuple[int, ...], width: int, page_size: int, cells: bool, like: Tensor) -> Summary:
        """Of pages without keys; in the dtype of `like`."""
        own = like.new_zeros(*lead, page_size, -(-width // 2), dtype=torch.uint8) if cells else None
        wide = (*lead, width)
        return cls(like.new_zeros(wide), like.new_zeros(wide), like.new_zeros(lead), like.new_zeros(lead), own)

    def changed(self, change: Callable[[Tensor], Tensor]) -> Summary:
        """With each tensor changed."""
        cells = None if self.cells is None else change(self.cells)
        return Summary(change(self.middle), change(self.half), change(self.radius), change(self.size), cells)

    def each(self) -> list[Tensor]:
        """What is there."""
        return [x for x in self if x is not None]


def summarise(keys: Tensor, keep: Tensor, cells: bool) -> Summary:
    """Of pages (..., P, page_size, d), of the keys (..., P, page_size) that are kept only."""
    kept, some = keep.unsqueeze(-1), keep.any(-1)
    low = torch.where(kept, keys, torch.inf).amin(-2)
    high = torch.where(kept, keys, -torch.inf).amax(-2)
    # Halves first: their sum stays in the range of the dtype.
    middle = torch.where(some.unsqueeze(-1), 0.5 * low + 0.5 * high, 0.0)
    away = torch.where(kept, keys - middle.unsqueeze(-2), 0.0)
    half = away.abs().amax(-2)
    corner = torch.where(some.unsqueeze(-1), torch.maximum(low.abs(), high.abs()), 0.0)
    return Summary(
        middle, half, length(away).amax(-1), length(corner), _pack(away, half.unsqueeze(-2)) if cells else None
    )


def length(x: Tensor) -> Tensor:
    """An upper bound of the norms of vectors in the last dimension, also where squares underflow."""
    return x.norm(dim=-1) + (x.shape[-1] * torch.finfo(x.dtype).tiny) ** 0.5


def _pack(away: Tensor, half: Tensor) -> Tensor:
    """The cell of each key along each coordinate; the first half of the coordinates in the lower bits."""
    place = ((away + half) / (half * (2 / CELLS))).nan_to_num(0.0, 0.0, 0.0).floor().clamp(0, CELLS - 1)
    place = place.to(torch.uint8)
    middle = -(-place.shape[-1] // 2)
    upper = torch.nn.functional.pad(place[..., middle:], (0, place.shape[-1] % 2))
    return place[..., :middle] | (upper << 4)


def slack(query: Tensor, size: Tensor) -> Tensor:
    """(BH, R): what rounding may take from bounds of scaled queries (BH, R, d), and add to scores and thresholds; the
    sizes of pages are (BH, P).
    """
    d, dtype = query.shape[-1], query.dtype
    unit = (6 * d + 32) * torch.finfo(dtype).eps
    if dtype == torch.float32:
        precision = torch.get_float32_matmul_precision()
        if precision == "highest" and query.is_cuda and torch.backends.cuda.matmul.allow_tf32:
            precision = "high"
        # Of factors that are rounded before they are multiplied.
        unit += {"highest": 0.0, "high": 16 * 2.0**-10, "medium": 16 * 2.0**-7}[precision]
    return unit * length(query) * size.amax(-1, keepdim=True) + d * torch.finfo(dtype).tiny


def bounds(query: Tensor, pages: Summary) -> Tensor:
    """(BH, R, P): upper bounds of the products of scaled queries (BH, R, d) with the keys of pages (BH, P). All of a
    head are infinite where a key is not finite, or so long that nothing is known of rounding.
    """
    at = query @ pages.middle.mT
    box = at + query.abs() @ pages.half.mT
    ball = at + length(query).unsqueeze(-1) * pages.radius.unsqueeze(-2)
    found = torch.minimum(box, ball) + slack(query, pages.size).unsqueeze(-1)
    return torch.where(found.isfinite(), found, torch.inf)


def bounds_of_keys(query: Tensor, pages: Summary) -> tuple[Tensor, Tensor]:
    """Upper bounds (G, R, page_size), from cells, of the products of scaled queries (G, R, d) with the keys of one page
    each, and how far these may lie below, (G, R, 1); both without what rounding takes.
    """
    assert pages.cells is not None
    step = pages.half * (2 / CELLS)
    weight = query * step.unsqueeze(-2)
    # The corner of the first cell, and one cell up along coordinates whose weight is positive.
    start = query @ (pages.middle - pages.half).unsqueeze(-1) + weight.clamp_min(0).sum(-1, keepdim=True)
    middle = pages.cells.shape[-1]
    upper = torch.nn.functional.pad(weight[..., middle:], (0, query.shape[-1] % 2))
    lower, above = (pages.cells & 15).to(query.dtype), (pages.cells >> 4).to(query.dtype)
    found = start + weight[..., :middle] @ lower.mT + upper @ above.mT
    return found, weight.abs().sum(-1, keepdim=True)
