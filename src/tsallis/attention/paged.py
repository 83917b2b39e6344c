"""Keys and values of past tokens in pages, and attention that reads the pages it has to."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..core.errors import ParameterError, ShapeError, TsallisError
from ..core.inputs import HALF, check_tensor, checked_mask, is_integer, is_number
from .blocks import folded
from .inputs import alpha_of_heads, check_shapes
from .page_search import Search
from .page_store import PageStore


class PagedStats(NamedTuple):
    """What a call of `PagedCache.attend` read.

    Attributes:
        pages: how many pages each head of keys has.
        keys_read: (B, H) pages whose keys were read: by any query of any head that shares them.
        values_read: (B, H) pages whose values were read.
        cells_read: (B, H) pages whose keys' cells were read.
        rounds: how often bounds, keys read and a threshold followed each other.
        residual: (B, Hq, n) |sum p - 1|, 0 where a query may attend to nothing.
        exact: whether the result is proven to be that of attention to all keys: always.
    """

    pages: int
    keys_read: Tensor
    values_read: Tensor
    cells_read: Tensor
    rounds: int
    residual: Tensor
    exact: bool = True

    @property
    def share(self) -> float:
        """Of all pages, those whose keys were read."""
        return float(self.keys_read.float().mean()) / max(1, self.pages)


class PagedCache:
    r"""Keys and values of past tokens, for decoding with `entmax_attention` that reads few of them.

    A query attends to the keys whose scores lie above a threshold, and the threshold over some keys is never above that
    over all. Each page of keys has an upper bound of its scores. Once no page that was not read has a bound above the
    threshold, the result is proven to be that over all keys; until then, more pages are read, in the end all.
    [Theory](../theory/attention.md#pages).

    For inference: under `torch.no_grad()`, or with tensors that require no gradient.

    Args:
        page_size: keys per page.
        cells: whether four bits per coordinate of each key are kept, too: an eighth of the memory of keys in float32,
            for bounds 16 times as close.

    Raises:
        ParameterError: a page_size below 1.

    Complexity:
        a token costs what its page has, d page_size, and now and then, where room is doubled, a copy: O(d) on average.
        A query reads the bounds of all pages, d / page_size numbers per key, and the pages named by them.

    Example:
        >>> import torch, tsallis as ts
        >>> cache = ts.attention.PagedCache(page_size=2)
        >>> key = torch.tensor([[9.0, 0.0], [8.0, 1.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]).repeat(1, 1, 4, 1)
        >>> cache.append(key, key)
        >>> out, stats = cache.attend(torch.tensor([[[[2.0, 0.0]]]]), alpha=2.0)
        >>> out, stats.keys_read, stats.pages
        (tensor([[[[9., 0.]]]]), tensor([[4]]), 10)

    References:
        peters2019sparse
    """

    def __init__(self, page_size: int = 16, *, cells: bool = True) -> None:
        if not is_integer(page_size) or page_size < 1:
            raise ParameterError(f"page_size={page_size!r}", "a number of keys, 1 or more", "Choose 8, 16 or 32")
        self.page_size, self.cells = int(page_size), bool(cells)
        self._store: PageStore | None = None
        self._read: Tensor | int = 0
        self._there = 0

    def __len__(self) -> int:
        return 0 if self._store is None else self._store.length

    @property
    def keys(self) -> Tensor:
        """(B, H, N, d), a view: valid until the next `append`, `reorder` or `crop`."""
        return self._filled().keys[:, :, : len(self)]

    @property
    def values(self) -> Tensor:
        """(B, H, N, dv), a view: valid until the next `append`, `reorder` or `crop`."""
        return self._filled().values[:, :, : len(self)]

    @property
    def keep(self) -> Tensor | None:
        """(B, N) which keys take part, as told to `append`; None if all do."""
        keep = self._filled().keep
        return None if keep is None else keep[:, : len(self)]

    def _filled(self) -> PageStore:
        if self._store is None:
            raise TsallisError("An empty cache", "tokens in it", "Append keys and values first")
        return self._store

    def append(self, key: Tensor, value: Tensor, keep: Tensor | None = None) -> None:
        """Add new tokens behind those that are there.

        Args:
            key: (B, H, n, d), any n; B, H, d, dtype and device as before.
            value: (B, H, n, dv).
            keep: boolean (B, n), False for padding: zeros are kept in the place of such tokens, and no query sees them.

        Raises:
            ShapeError: shapes, dtypes or devices that do not fit each other or what is there.
            TsallisError: tensors that require gradients, while gradients are recorded.
        """
        key, value = check_tensor(key, "key"), check_tensor(value, "value")
        _without_gradient(key=key, value=value)
        if key.dim() != 4:
            raise ShapeError(f"key of shape {tuple(key.shape)}", "(B, H, n, d)", "Add the missing dimensions")
        check_shapes(key, key, value, False)
        if self._store is not None:
            _like_before("key", key, self.keys)
            _like_before("value", value, self.values)
        if keep is not None:
            keep = checked_mask(key.new_empty(len(key), key.shape[2]), keep).expand(len(key), key.shape[2])
        if self._store is None:
            self._store = PageStore(self.page_size, self.cells, key, value)
        self._store.append(key, value, keep)

    def attend(
        self,
        query: Tensor,
        *,
        alpha: float | Tensor = 1.5,
        scale: float | None = None,
        keep: Tensor | None = None,
        backend: str | None = None,
    ) -> tuple[Tensor, PagedStats]:
        r"""Attention of the newest tokens' queries: what `entmax_attention` over all keys gives, from few pages.

        Args:
            query: (B, Hq, n, d) of the n newest tokens; Hq a multiple of H. Each sees the keys up to its own.
            alpha: as in `entmax_attention`. Where it is not above 1, all keys have probability and are read.
            scale: of the scores; None for 1/sqrt(d).
            keep: boolean (B, N), which keys take part in this call, besides what `append` was told.
            backend: as in `entmax`.

        Returns:
            ((B, Hq, n, dv) in the dtype of the query, `PagedStats`). Half precision is computed in float32. Queries
            that see no key get zeros. A NaN in a key makes NaN of the queries that see it, one in a value may.

        Raises:
            ShapeError: a query that does not fit the cache; more queries than tokens.
            ParameterError: a Python alpha or scale that cannot be.
            TsallisError: tensors that require gradients, while gradients are recorded.

        Complexity:
            (bounds of all pages) + (keys read) x d + (keys of pages with probability) x dv. Memory: scores of what is
            read; where that is half of all, the n x N scores of each head.
        """
        query = check_tensor(query, "query")
        self._check_query(query)
        if scale is not None and not is_number(scale):
            raise ParameterError(f"scale={scale!r}", "a number, or None for 1/sqrt(d)", "Pass one")
        found_alpha = alpha_of_heads(alpha, query)
        _without_gradient(query=query, alpha=found_alpha)
        B, Hq, n, d = query.shape
        if keep is not None:
            keep = checked_mask(query.new_empty(B, len(self)), keep).expand(B, -1)
        compute = torch.float32 if query.dtype in HALF else query.dtype
        if query.numel() == 0:
            none, count = torch.zeros(self.keys.shape[:2], dtype=torch.int64), -(-len(self) // self.page_size)
            out, residual = query.new_zeros(B, Hq, n, self.values.shape[3]), query.new_zeros(B, Hq, n, dtype=compute)
            return out, PagedStats(count, none, none, none, 0, residual)
        with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
            pages = self._filled().pages(keep)
            heads, group = len(pages.keep), Hq // self.keys.shape[1]
            last = torch.arange(len(self) - n, len(self), device=query.device).repeat(group)
            if isinstance(found_alpha, Tensor) and found_alpha.dim():
                found_alpha = found_alpha.expand(B, Hq, n, 1).reshape(heads, group * n, 1)
            # Together the queries of the heads that share keys.
            rows = folded(query.to(compute), group).contiguous()
            found = Search(
                pages, rows, last, found_alpha, d**-0.5 if scale is None else float(scale), backend
            ).run()  # fmt: skip
        keys_read, values_read, cells_read = (
            x.reshape(self.keys.shape[:2]) for x in (found.keys, found.values, found.cells)
        )
        count = pages.keep.shape[1]
        self._read, self._there = self._read + keys_read.sum(), self._there + count * heads
        return found.out.reshape(B, Hq, n, found.out.shape[-1]).to(query.dtype), PagedStats(
            count, keys_read, values_read, cells_read, found.rounds, found.residual.reshape(B, Hq, n)
        )

    def reorder(self, index: Tensor) -> None:
        """Replace the batch by its entries at `index` (B'), as beam search does; B' may differ from B."""
        index = check_tensor(index, "index")
        if index.dim() != 1 or index.is_floating_point() or index.dtype == torch.bool:
            raise ShapeError(f"index of shape {tuple(index.shape)}, {index.dtype}", "(B') integers", "Reshape it")
        store = self._filled()
        batch = len(store.keys)
        # Of a GPU this would have to be waited for; there it is for `index_select` to say.
        if index.is_cpu and len(index) and not 0 <= int(index.min()) <= int(index.max()) < batch:
            raise ParameterError(
                f"index from {int(index.min())} to {int(index.max())}", f"places of {batch} entries", "Correct them"
            )
        store.select(index.to(store.keys.device))

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        if not is_integer(length) or not 0 <= length <= len(self):
            raise ParameterError(f"length={length!r}", f"a number from 0 to {len(self)}", "Choose one inside")
        if self._store is not None and length < len(self):
            self._store.crop(int(length))

    def reset(self) -> None:
        """Forget all tokens, for how many heads there was room and of which dtype."""
        self._store, self._read, self._there = None, 0, 0

    def pages_read(self) -> tuple[int, int]:
        """(pages whose keys were read, pages there were), of all heads, in all calls of `attend` so far."""
        return int(self._read), self._there

    def _check_query(self, query: Tensor) -> None:
        self._filled()
        if query.dim() != 4:
            raise ShapeError(f"query of shape {tuple(query.shape)}", "(B, Hq, n, d)", "Add the missing dimensions")
        check_shapes(query, self.keys, self.values, True)
        if query.shape[2] > len(self):
            raise ShapeError(
                f"{query.shape[2]} queries, {len(self)} keys", "the queries of the newest tokens",
                "Append their keys first",
            )  # fmt: skip


def _without_gradient(**inputs: object) -> None:
    for name, x in inputs.items():
        if isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled():
            raise TsallisError(
                f"A {name} that requires gradients", "decoding without them",
                "Call it under torch.no_grad(), or train with ts.entmax_attention",
            )  # fmt: skip


def _like_before(name: str, new: Tensor, old: Tensor) -> None:
    kept = [(x.shape[0], x.shape[1], x.shape[3], x.dtype, x.device) for x in (new, old)]
    if kept[0] != kept[1]:
        raise ShapeError(
            f"{name} of shape {tuple(new.shape)}, {new.dtype}, on {new.device}",
            f"one like those in the cache: {tuple(old.shape)}, {old.dtype}, on {old.device}",
            "Convert it, or call reset() first",
        )
