"""Keys and values of `generate`, in pages that attention need not read."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin

from ...attention import PagedCache
from ...core.errors import ParameterError

# More queries than this are no decoding step, and read most pages between them.
FEW = 8


class PagedLayer(CacheLayerMixin):
    """One layer of `PagedKeyValues`."""

    is_sliding = False
    is_croppable = True

    def __init__(self, page_size: int = 16, *, cells: bool = True) -> None:
        super().__init__()
        self.pages = PagedCache(page_size, cells=cells)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.pages.append(key_states[:, :, :0], value_states[:, :, :0])
        self.is_initialized = True
        self._show()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.pages.append(key_states, value_states)
        return self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        """Views of all keys and values; the keys know their pages."""
        self.keys, self.values = self.pages.keys, self.pages.values
        self.keys.tsallis_pages = self.pages  # pyright: ignore[reportAttributeAccessIssue]
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return len(self.pages) + query_length, 0

    def get_seq_length(self) -> int:
        return len(self.pages)

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.pages.reset()
        self.keys = self.values = None
        self.is_initialized = False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        if self.is_initialized:
            self.pages.reorder(beam_idx)
            self._show()

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove > 0:
            raise ParameterError(
                f"tokens_to_remove={tokens_to_remove}", "minus the number of tokens to remove", "Pass a negative number"
            )
        if tokens_to_remove and self.is_initialized:
            self.pages.crop(max(0, len(self.pages) + tokens_to_remove))
            self._show()

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.is_initialized:
            batch = torch.arange(len(self.pages.keys), device=self.device)
            self.reorder_cache(batch.repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        self.reorder_cache(indices)


class PagedKeyValues(Cache):
    """A cache for `model.generate(..., past_key_values=PagedKeyValues())` whose layers are `PagedCache`s.

    `update` returns all keys and values as views, so that any attention works with it. Attention that asks
    `paged_attention` first reads the pages that may have probability, and gives what attention to all keys gives.

    Args:
        page_size: keys per page.
        cells: as in `PagedCache`.

    Raises:
        ParameterError: a page_size below 1.

    Example:
        >>> import torch
        >>> from tsallis.integrations.transformers.cache import PagedKeyValues
        >>> cache = PagedKeyValues(page_size=8)
        >>> keys, values = cache.update(torch.randn(1, 2, 20, 4), torch.randn(1, 2, 20, 4), layer_idx=0)
        >>> keys.shape, cache.get_seq_length()
        (torch.Size([1, 2, 20, 4]), 20)
    """

    def __init__(self, page_size: int = 16, *, cells: bool = True) -> None:
        PagedCache(page_size)
        # `Cache` calls it without arguments, as it would a class.
        layer = partial(PagedLayer, page_size, cells=cells)
        super().__init__(layer_class_to_replicate=layer)  # pyright: ignore[reportArgumentType]

    def pages_read(self) -> tuple[int, int]:
        """(pages whose keys `paged_attention` read, pages there were), over all heads, layers and steps."""
        counts = [layer.pages.pages_read() for layer in self.layers if isinstance(layer, PagedLayer)]
        return sum(read for read, _ in counts), sum(there for _, there in counts)


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None,
    alpha: float | Tensor,
) -> Tensor | None:
    """Attention of a decoding step from the pages of a `PagedKeyValues`, for use in an attention function of
    transformers.

    Args:
        module: the attention module; one in training has dropout, which this does not.
        query: (B, Hq, n, d) of the newest tokens, at most 8.
        key: what `PagedKeyValues.update` returned.
        attention_mask: (B or 1, 1, n, N), boolean or additive, or None for one query that sees all keys.
        scaling: of the scores; None for 1/sqrt(d).
        alpha: as in `entmax_attention`.

    Returns:
        (B, n, Hq, dv) contiguous, as attention functions return it; None where all keys have to be read otherwise: keys
        of another cache, more queries, gradients, training, masks that are neither padding nor causal.
    """
    pages = getattr(key, "tsallis_pages", None)
    if not isinstance(pages, PagedCache) or module.training or query.shape[2] > FEW:
        return None
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in (query, alpha)):
        return None
    if key.shape != pages.keys.shape or key.data_ptr() != pages.keys.data_ptr():
        return None
    if attention_mask is None:
        if query.shape[2] > 1:
            return None
        keep = None
    else:
        keep = padding_of(attention_mask, query.shape[2], key.shape[2])
        if keep is None:
            return None
    out, _ = pages.attend(query, alpha=alpha, scale=scaling, keep=keep)
    return out.transpose(1, 2).contiguous()


def padding_of(mask: Tensor, queries: int, keys: int) -> Tensor | None:
    """(B or 1, N) which keys the newest tokens see, where a mask says no more than that and causality; else None."""
    if mask.dim() != 4 or mask.shape[1] != 1 or mask.shape[2:] != (queries, keys):
        return None
    seen = mask
    if mask.dtype != torch.bool:
        seen = mask == 0
        if not bool((seen | (mask <= torch.finfo(mask.dtype).min)).all()):
            return None
    seen = seen[:, 0]
    keep = seen[:, -1]
    if queries > 1:
        causal = torch.ones(queries, keys, dtype=torch.bool, device=mask.device).tril(keys - queries)
        if not torch.equal(seen, keep.unsqueeze(1) & causal):
            return None
    return keep
