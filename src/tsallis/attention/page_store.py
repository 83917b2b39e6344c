"""Room for keys and values in pages, with what is kept of each page; it grows by doubling."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.inputs import HALF
from .page_bounds import Summary, summarise
from .page_search import Pages


class PageStore:
    """Keys (B, H, room, d) and values (B, H, room, dv) of `length` tokens, in whole pages, and their summary.

    Args:
        page_size: keys per page.
        cells: whether keys' cells are kept.
        key, value: (B, H, n, d), (B, H, n, dv): what there will be, but for n.
    """

    def __init__(self, page_size: int, cells: bool, key: Tensor, value: Tensor) -> None:
        self.page_size, self.cells, self.length = page_size, cells, 0
        # Which keys take part, (B, room); None while all do.
        self.keep: Tensor | None = None
        with torch.inference_mode(False):
            self._allocate(key, value, 0)

    def _allocate(self, key: Tensor, value: Tensor, pages: int) -> None:
        (B, H, _, d), size = key.shape, pages * self.page_size
        wide = torch.float32 if key.dtype in HALF else key.dtype
        like = torch.empty(0, dtype=wide, device=key.device)
        # Zeros, not what happens to be there: a page is read as a whole.
        self.keys = torch.zeros(B, H, size, d, dtype=key.dtype, device=key.device)
        self.values = torch.zeros(B, H, size, value.shape[-1], dtype=value.dtype, device=value.device)
        self.summary = Summary.empty((B, H, pages), d, self.page_size, self.cells, like)

    def append(self, key: Tensor, value: Tensor, keep: Tensor | None) -> None:
        """Add tokens; zeros in the place of those that do not take part (B, n)."""
        n = key.shape[2]
        if keep is not None:
            hidden = ~keep[:, None, :, None]
            key, value = key.masked_fill(hidden, 0.0), value.masked_fill(hidden, 0.0)
        self._make_room(self.length + n, keep is not None)
        new = slice(self.length, self.length + n)
        self.keys[:, :, new], self.values[:, :, new] = key, value
        if self.keep is not None:
            self.keep[:, new] = True if keep is None else keep
        first = self.length // self.page_size
        self.length += n
        if n:
            self._summarise(first)

    def _make_room(self, length: int, hides: bool) -> None:
        """Room for tokens up to `length`: twice what there was, if that is not enough."""
        before, held = (self.keys, self.values, self.summary), self.keys.shape[2]
        # Tensors made in inference mode could not be written to outside.
        with torch.inference_mode(False), torch.no_grad():
            if length > held:
                pages = max(-(-length // self.page_size), 2 * held // self.page_size)
                self._allocate(*before[:2], pages)
                self.keys[:, :, :held], self.values[:, :, :held] = before[:2]
                for new, old in zip(self.summary.each(), before[2].each(), strict=True):
                    new[:, :, : old.shape[2]] = old
            room = self.keys.shape[2]
            if (hides or self.keep is not None) and (self.keep is None or self.keep.shape[1] < room):
                keep = torch.ones(len(self.keys), room, dtype=torch.bool, device=self.keys.device)
                if self.keep is not None:
                    keep[:, : self.keep.shape[1]] = self.keep
                self.keep = keep

    def select(self, index: Tensor) -> None:
        """Replace the batch by its entries at `index`."""
        with torch.inference_mode(False), torch.no_grad():
            index = index.clone()
            self.keys, self.values = self.keys.index_select(0, index), self.values.index_select(0, index)
            self.summary = self.summary.changed(lambda x: x.index_select(0, index))
            if self.keep is not None:
                self.keep = self.keep.index_select(0, index)

    def crop(self, length: int) -> None:
        """Forget all but the first tokens."""
        # A NaN must not stay in a page that is read.
        self.keys[:, :, length : self.length] = 0
        self.values[:, :, length : self.length] = 0
        self.length = length
        if length % self.page_size:
            self._summarise(length // self.page_size)

    def _summarise(self, first: int) -> None:
        """The pages from the first on, again."""
        keep = self._keep_of_pages(first)
        part = self.keys[:, :, first * self.page_size : (first + keep.shape[1]) * self.page_size]
        part = part.unflatten(2, (-1, self.page_size)).to(self.summary.middle.dtype)
        found = summarise(part, keep.unsqueeze(1).expand(part.shape[:-1]), self.cells)
        for old, new in zip(self.summary.each(), found.each(), strict=True):
            old[:, :, first : first + keep.shape[1]] = new

    def _keep_of_pages(self, first: int, keep: Tensor | None = None) -> Tensor:
        """(B or 1, pages from the first, page_size): which keys are there and take part."""
        start, end = first * self.page_size, -(-self.length // self.page_size) * self.page_size
        there = (torch.arange(start, end, device=self.keys.device) < self.length).unsqueeze(0)
        if self.keep is not None:
            there = there & self.keep[:, start:end]
        if keep is not None:
            there = there & torch.nn.functional.pad(keep, (0, end - self.length))
        return there.unflatten(1, (-1, self.page_size))

    def pages(self, keep: Tensor | None) -> Pages:
        """All that are in use; of their keys, those that are also kept here (B, N) take part."""
        (B, H, room), size = self.keys.shape[:3], self.page_size
        used = self._keep_of_pages(0, keep)
        count = used.shape[1]
        return Pages(
            self.keys.view(-1, size, self.keys.shape[-1]), self.values.view(-1, size, self.values.shape[-1]),
            room // size, self.summary.changed(lambda x: x[:, :, :count].flatten(0, 1)),
            used.unsqueeze(1).expand(B, H, -1, -1).flatten(0, 1),
        )  # fmt: skip
