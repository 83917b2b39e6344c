"""Attention that reads the pages of keys that may have probability, and proves that no other has.

The threshold of entmax over some keys is never above that over more. While the bound of a page that was not read lies
above the threshold over those that were, some of it may have probability: such pages are read, the most promising
first, until there are none. What is read then holds the whole support.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.numerics import compute_dtype
from ..core.registry import get
from .blocks import CACHED, ELSEWHERE, scaled_products
from .inputs import Number
from .page_bounds import Summary, bounds, bounds_of_keys, slack

# Pages that a query reads at first: this many, or this share of all, four times as many after a look at cells; each
# round twice as many.
FEWEST, FIRST = 4, 1 / 64
# The share of pages whose keys' cells a query looks at before it has read any.
LOOKED = 1 / 8
# Where this share of pages will be read, all are, in one pass.
DENSE = 0.5


@dataclass(frozen=True)
class Pages:
    """The pages of B H heads of keys, as the search sees them.

    Attributes:
        keys, values: (BH pages_held, page_size, d), (BH pages_held, page_size, dv), in the dtype of the cache.
        held: how many pages of each head there is room for.
        summary: of pages (BH, P).
        keep: (BH, P, page_size) whether a key takes part.
    """

    keys: Tensor
    values: Tensor
    held: int
    summary: Summary
    keep: Tensor


class Found(NamedTuple):
    """The average (BH, R, dv), and what it took: pages (BH) whose keys, values and cells were read, rounds, and the
    residual (BH, R).
    """

    out: Tensor
    keys: Tensor
    values: Tensor
    cells: Tensor
    rounds: int
    residual: Tensor


class Search:
    """One call: queries (BH, R, d) in compute precision, the last key (R) each of them sees, their alphas, a number or
    (BH, R, 1), and the scale.
    """

    def __init__(
        self, pages: Pages, query: Tensor, last: Tensor, alpha: Number, scale: float, backend: str | None
    ) -> None:
        self.pages, self.query, self.last, self.alpha = pages, query, last, alpha
        self.scale, self.backend = scale, backend
        self.scaled = query * scale
        rows, (heads, count, self.page_size) = query.shape[1], pages.keep.shape
        first = torch.arange(count, device=query.device) * self.page_size
        seen = (first <= last[:, None]) & pages.keep.any(-1).unsqueeze(1)
        self.in_sight = seen.any(1).sum(-1, keepdim=True)
        self.bounds = torch.where(seen, bounds(self.scaled, pages.summary), -torch.inf)
        self.slack = slack(self.scaled, pages.summary.size)
        self.read = torch.zeros(heads, count, dtype=torch.bool, device=query.device)
        self.looked = torch.zeros_like(self.read)
        # No score up to it has probability.
        self.floor = query.new_full(query.shape[:2], -torch.inf, dtype=compute_dtype(query))
        self.scores = query.new_empty(heads, rows, 0)
        # Head, page, and place among the scores of each page that was read.
        self.places = torch.empty(3, 0, dtype=torch.int64, device=query.device)

    def run(self) -> Found:
        """Read what has to be read."""
        if not bool(self.alpha.gt(1).any()) if isinstance(self.alpha, Tensor) else self.alpha <= 1:
            return self._all(1)
        count, cells = self.read.shape[1], self.pages.summary.cells is not None
        # Looks tell how far to go; without them the first reads do.
        size, blind, rounds = max(FEWEST, int((4 if cells else 1) * FIRST * count)), 1 if cells else 2, 0
        p = self.scores
        while True:
            if cells:
                if rounds == 0:
                    self._look(self._best(self._open(), max(FEWEST, int(LOOKED * count))))
                self._look(self._open().any(1))
            wanted = self._open()
            each = wanted.any(1)
            if not bool(each.any()):
                break
            if rounds >= blind and float((each | self.read).float().mean()) >= DENSE:
                return self._all(rounds + 1)
            best = self._best(wanted, size)
            many = each.sum(-1, keepdim=True) > DENSE * self.in_sight
            self._read(torch.where(many, each, best) if rounds >= blind else best)
            p = self._solve(self.scores)
            self.floor = torch.maximum(self.floor, lowest_of_support(self.scores, p, self.alpha))
            size, rounds = 2 * size, rounds + 1
        out, values = self._average(p)
        return Found(out, self.read.sum(-1), values, self.looked.sum(-1), rounds, self._residual(self.scores, p))

    def _open(self) -> Tensor:
        """(BH, R, P): pages not read whose bounds do not rule them out. A row that is NaN stays so whatever is read."""
        above = (self.bounds > self.floor.unsqueeze(-1)) & ~self.floor.isnan().unsqueeze(-1)
        return above & ~self.read.unsqueeze(1)

    def _best(self, wanted: Tensor, size: int) -> Tensor:
        """(BH, P): of each row the wanted pages with the largest bounds."""
        if size >= wanted.shape[-1]:
            return wanted.any(1)
        ranked = torch.where(wanted, self.bounds, -torch.inf)
        best = ranked.topk(size, -1, sorted=False).indices
        return (torch.zeros_like(wanted).scatter_(-1, best, True) & wanted).any(1)

    def _seen(self, head: Tensor, page: Tensor) -> Tensor:
        """(G, R, page_size): which keys of pages rows see."""
        place = page[:, None] * self.page_size + torch.arange(self.page_size, device=page.device)
        return self.pages.keep[head, page].unsqueeze(1) & (place.unsqueeze(1) <= self.last[:, None])

    def _look(self, chosen: Tensor) -> None:
        """Narrow the bounds of pages (BH, P) by their keys' cells, and raise the threshold."""
        head, page = (chosen & ~self.looked).nonzero(as_tuple=True)
        if not len(head):
            return
        parts = [
            bounds_of_keys(self.scaled[h], self.pages.summary.changed(lambda x, at=(h, g): x[at]))
            for h, g in self._parts(head, page)
        ]
        above, width = (torch.cat(x) for x in zip(*parts, strict=True))
        slack = self.slack[head].unsqueeze(-1)
        seen = self._seen(head, page)
        highest = torch.where(seen, above + slack, -torch.inf).amax(-1)
        before = self.bounds[head, :, page]
        # Where a number is not finite, nothing is learned.
        self.bounds[head, :, page] = torch.where(highest.isnan(), before, torch.minimum(before, highest))
        self.looked |= chosen
        # Scores are not below these, nor is the threshold below theirs.
        lowest = above - width - slack
        z = self._by_row(head, torch.where(seen & lowest.isfinite(), lowest, -torch.inf))[0]
        found = lowest_of_support(z, self._solve(z), self.alpha)
        # Rows that are NaN for their alpha have to be read to become so.
        self.floor = torch.maximum(self.floor, found.nan_to_num(-torch.inf, -torch.inf, -torch.inf))

    def _read(self, chosen: Tensor) -> None:
        """Scores of the keys of pages (BH, P)."""
        head, page = chosen.nonzero(as_tuple=True)
        products = [
            scaled_products(self.query[h], self._gathered(self.pages.keys, h, g), self.scale)
            for h, g in self._parts(head, page)
        ]
        z = torch.cat(products).masked_fill_(~self._seen(head, page), -torch.inf)
        rows, slot = self._by_row(head, z)
        self.places = torch.cat(
            [self.places, torch.stack([head, page, slot + self.scores.shape[-1] // self.page_size])], 1
        )
        self.scores = torch.cat([self.scores, rows], -1)
        self.read |= chosen

    def _gathered(self, x: Tensor, head: Tensor, page: Tensor) -> Tensor:
        """(G, page_size, d or dv) of keys or values, in compute precision."""
        return x.index_select(0, head * self.pages.held + page).to(self.query.dtype)

    def _parts(self, *of_pages: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """As many pages (G) at a time as leave what is made of their keys in the cache."""
        room = (CACHED if self.query.is_cpu else ELSEWHERE) // self.query.element_size()
        step = max(1, room // (self.page_size * max(self.pages.keys.shape[-1], self.pages.values.shape[-1])))
        # Of nothing, `split` would make one part.
        return zip(*(x.split(step) if len(x) else () for x in of_pages), strict=True)

    def _by_row(self, head: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """(BH, R, most pages of a head x page_size) of scores (G, R, page_size) whose heads ascend, with -inf where a
        head has fewer pages; and the place (G) of each page in its row.
        """
        count = torch.bincount(head, minlength=len(self.query))
        slot = torch.arange(len(head), device=head.device) - (count.cumsum(0) - count)[head]
        block = z.new_full((len(count), int(count.max()), *z.shape[1:]), -torch.inf)
        block[head, slot] = z
        return block.transpose(1, 2).flatten(2), slot

    def _solve(self, z: Tensor) -> Tensor:
        return get("entmax")(z, alpha=self.alpha, backend=self.backend)

    def _residual(self, z: Tensor, p: Tensor) -> Tensor:
        empty = (z == -torch.inf).all(-1)
        return torch.where(empty, 0.0, (p.sum(-1) - 1).abs())

    def _average(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """(BH, R, dv), and how many pages (BH) of values it took: those with probability."""
        head, page, slot = self.places
        p = p.unflatten(-1, (p.shape[-1] // self.page_size, self.page_size))[head, :, slot]
        # NaN is not 0.
        used = (p != 0).flatten(1).any(-1)
        head, page, slot, p = head[used], page[used], slot[used], p[used]
        count = torch.bincount(head, minlength=len(self.query))
        out = p.new_zeros(*self.query.shape[:2], self.pages.values.shape[-1])
        for h, g, s, own in self._parts(head, page, slot, p):
            # One place per page: sums have the same order on every device.
            products = p.new_zeros(len(out), 1 + int(s.max()), *out.shape[1:])
            products[h, s] = own @ self._gathered(self.pages.values, h, g)
            out += products.sum(1)
        return out, count

    def _all(self, rounds: int) -> Found:
        """All pages in one pass, without gathering."""
        heads, count = self.read.shape
        k, v = (
            x.unflatten(0, (heads, self.pages.held))[:, :count].flatten(1, 2).to(self.query.dtype)
            for x in (self.pages.keys, self.pages.values)
        )
        place = torch.arange(k.shape[1], device=k.device)
        seen = self.pages.keep.flatten(1).unsqueeze(1) & (place <= self.last[:, None])
        z = scaled_products(self.query, k, self.scale).masked_fill_(~seen, -torch.inf)
        p = self._solve(z)
        full = torch.full_like(self.read.sum(-1), count)
        return Found(p @ v, full, full, self.looked.sum(-1), rounds, self._residual(z, p))


def lowest_of_support(z: Tensor, p: Tensor, alpha: Number) -> Tensor:
    """A t for each row of scores (..., n) so that no score up to t has probability, whatever scores are added: proven
    by the sum of [a (z - t)]_+^(1/a), a = alpha - 1, which is not below 1.

    -inf where alpha is at most 1 or nothing is kept; NaN where the row is.
    """
    wide = compute_dtype(z)
    eps = torch.finfo(wide).eps
    a = alpha.to(wide) - 1 if isinstance(alpha, Tensor) else z.new_full((1, 1, 1), alpha - 1.0, dtype=wide)
    sparse = a > 0
    a = torch.where(sparse, a, 1.0)
    z, top = z.to(wide), z.amax(-1, keepdim=True).to(wide)
    known = sparse & top.isfinite() & ~p.isnan().any(-1, keepdim=True)
    below = p.amax(-1, keepdim=True).to(wide) ** a / a
    z, top, below = torch.where(known, z, 0.0), torch.where(known, top, 0.0), torch.where(known, below, 1.0)
    step = 4 * torch.finfo(p.dtype).eps * (below + top.abs())
    t = top - below
    proven = torch.zeros_like(known)
    for _ in range(64):
        # The powers round by up to eps / a of themselves.
        proven = (a * (z - t)).clamp_min(0).pow(1 / a).sum(-1, keepdim=True) >= 1 + 8 * eps * (1 + 1 / a)
        if bool((proven | ~known).all()):
            break
        t, step = torch.where(proven, t, t - step), 2 * step
    else:
        t = torch.where(proven, t, -torch.inf)
    t = torch.where(known, t, -torch.inf)
    return torch.where(p.isnan().any(-1, keepdim=True), torch.nan, t).squeeze(-1)
