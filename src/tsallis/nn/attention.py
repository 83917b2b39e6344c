"""Multi-head attention and the layers of `torch.nn.Transformer` with entmax in the place of softmax."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..attention import HeadStatistics, entmax_attention
from ..attention.formula import allowed, average, probabilities
from ..attention.inputs import Heads, checked
from ..core.dropping import dropped
from ..core.errors import ShapeError
from .alpha import AlphaLike, alpha_module
from .dropout import Dropout
from .mapping import ParameterHolder


class MultiheadAttention(nn.MultiheadAttention, ParameterHolder):
    """`torch.nn.MultiheadAttention` with `entmax`: the same arguments, parameters, names in the state dict and masks
    (True = ignore), plus alpha. A query that may attend to nothing gets the output of zeros, not NaN.

    Args:
        embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim, batch_first, device, dtype: as in
            `torch.nn.MultiheadAttention`.
        alpha: a number, a tensor (becomes a buffer), an `nn.Parameter`, a module such as `ts.nn.Alpha`, of one value or
            one per head; or "learn", one learned alpha in (1, 2) per head, from 1.5.

    Example:
        >>> import torch, tsallis as ts
        >>> layer = ts.nn.MultiheadAttention(8, 2, batch_first=True, alpha="learn")
        >>> x = torch.randn(3, 5, 8)
        >>> out, weights = layer(x, x, x)
        >>> out.shape, weights.shape
        (torch.Size([3, 5, 8]), torch.Size([3, 5, 5]))

    References:
        correia2019adaptively
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        alpha: AlphaLike = 1.5,
    ) -> None:
        super().__init__(
            embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim, batch_first, device, dtype
        )
        self.hold({"alpha": alpha_module(alpha, (num_heads,), device, dtype)})

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `torch.nn.MultiheadAttention`; with need_weights all scores are held. is_causal needs no attn_mask here,
        and takes the place of one.
        """
        q, k, v, mask, causal = self._prepared(query, key, value, key_padding_mask, attn_mask, is_causal)
        dropout, batched = self.dropout if self.training else 0.0, query.dim() == 3
        if need_weights:
            with torch.autocast(q.device.type, enabled=False):
                heads = self._heads(q, k, v, mask, causal)
                weights = dropped(probabilities(heads, None), dropout)
                out, weights = average(weights, heads).to(q.dtype), weights.to(q.dtype)
            if average_attn_weights:
                weights = weights.mean(1)
            weights = weights if batched else weights.squeeze(0)
        else:
            out, weights = entmax_attention(q, k, v, mask, dropout, causal, alpha=self.held()["alpha"]), None
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if not batched:
            out = out.squeeze(0)
        elif not self.batch_first:
            out = out.transpose(0, 1)
        return out, weights

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (N, heads, L, E / heads) of a sequence (N, L, E) that attends to itself."""
        q, k, v = self._projected(x, x, x, True)
        return q, k, v

    def projected_query(self, x: Tensor) -> Tensor:
        """Queries alone."""
        return self._split(self._linear(x, 0))

    def projected_memory(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values alone."""
        return self._split(self._linear(x, 1)), self._split(self._linear(x, 2))

    def averages(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """What queries find, (N, L, E) before the output's projection and without dropout, of what was projected; mask
        as in `entmax_attention`. All scores are held: for few queries.
        """
        with torch.autocast(query.device.type, enabled=False):
            heads = self._heads(query, key, value, mask, False)
            out = average(probabilities(heads, None), heads).to(query.dtype)
        return out.transpose(1, 2).flatten(2)

    def _heads(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Heads:
        return checked(q, k, v, mask, 0.0, causal, None, False, self.held()["alpha"], None, None).widened()

    @torch.no_grad()
    def observe(
        self, statistics: HeadStatistics, query: Tensor, key: Tensor, value: Tensor,
        key_padding_mask: Tensor | None = None, need_weights: bool = True, attn_mask: Tensor | None = None,
        average_attn_weights: bool = True, is_causal: bool = False,
    ) -> None:  # fmt: skip
        """Add the weights of a forward pass, before dropout, to statistics; arguments as there. Where a sequence
        attends to itself, its padding is no query.
        """
        q, k, v, mask, causal = self._prepared(query, key, value, key_padding_mask, attn_mask, is_causal)
        with torch.autocast(q.device.type, enabled=False):
            heads = self._heads(q, k, v, mask, causal)
            weights = probabilities(heads, None)
        keep = allowed(heads)
        if key_padding_mask is not None and query is key:
            padding = key_padding_mask if key_padding_mask.dim() == 2 else key_padding_mask.unsqueeze(0)
            padding = padding if padding.dtype == torch.bool else padding == -torch.inf
            inside = ~padding[:, None, :, None]
            keep = inside if keep is None else keep & inside
        statistics.update(weights, keep)

    def _prepared(
        self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, attn_mask: Tensor | None, causal: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, bool]:
        """Queries, keys and values of heads, the mask, and whether they are causal besides."""
        batched = query.dim() == 3
        if not batched and query.dim() != 2:
            raise ShapeError(f"query of shape {tuple(query.shape)}", "(N, L, E), (L, N, E) or (L, E)", "Reshape it")
        q, k, v = (x if batched else x.unsqueeze(0) for x in (query, key, value))
        if batched and not self.batch_first:
            q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        keys = k.shape[1]
        q, k, v = self._projected(q, k, v, query is key and key is value)
        mask = None if causal else attn_mask
        if causal and k.shape[2] > keys:
            # Added keys are for all queries.
            mask = torch.ones(q.shape[2], keys, dtype=torch.bool, device=q.device).triu(1)
            causal = False
        return q, k, v, self._mask(padding, mask, q, keys, k.shape[2]), causal

    def _projected(self, q: Tensor, k: Tensor, v: Tensor, same: bool) -> list[Tensor]:
        """(N, H, L, E/H) each."""
        if self._qkv_same_embed_dim and same:
            found = list(functional.linear(q, self.in_proj_weight, self.in_proj_bias).chunk(3, -1))
        else:
            found = [self._linear(x, i) for i, x in enumerate((q, k, v))]
        for i, extra in ((1, self.bias_k), (2, self.bias_v)):
            if extra is not None:
                found[i] = torch.cat([found[i], extra.to(found[i].dtype).expand(len(found[i]), 1, -1)], 1)
            if self.add_zero_attn:
                found[i] = torch.cat([found[i], found[i].new_zeros(len(found[i]), 1, found[i].shape[2])], 1)
        return [self._split(x) for x in found]

    def _linear(self, x: Tensor, which: int) -> Tensor:
        """Queries (0), keys (1) or values (2), before they are split."""
        if self._qkv_same_embed_dim:
            weight = self.in_proj_weight.chunk(3)[which]
        else:
            weight = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)[which]
        return functional.linear(x, weight, None if self.in_proj_bias is None else self.in_proj_bias.chunk(3)[which])

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _mask(self, padding: Tensor | None, mask: Tensor | None, q: Tensor, keys: int, all_keys: int) -> Tensor | None:
        """What `entmax_attention` wants, from masks of the given keys where True means to ignore."""
        batch, _, queries, _ = q.shape
        more = (0, all_keys - keys)
        if mask is not None:
            shapes = ((queries, keys), (batch * self.num_heads, queries, keys))
            if tuple(mask.shape) not in shapes:
                raise ShapeError(f"attn_mask of shape {tuple(mask.shape)}", f"{shapes[0]} or {shapes[1]}", "Reshape it")
            mask = functional.pad(mask, more)
            mask = mask if mask.dim() == 2 else mask.unflatten(0, (batch, self.num_heads))
        if padding is not None:
            padding = padding if padding.dim() == 2 else padding.unsqueeze(0)
            if tuple(padding.shape) != (batch, keys):
                raise ShapeError(
                    f"key_padding_mask of shape {tuple(padding.shape)}", f"{(batch, keys)}", "Pass one entry per key"
                )
            padding = functional.pad(padding, more)[:, None, None]
        if mask is None or padding is None:
            one = padding if mask is None else mask
            return one if one is None or one.is_floating_point() else ~one
        if mask.dtype == padding.dtype == torch.bool:
            return ~(mask | padding)
        return sum(_added(x, q.dtype) for x in (mask, padding))  # pyright: ignore[reportReturnType]


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores."""
    if mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -torch.inf)


class TransformerEncoderLayer(nn.TransformerEncoderLayer):
    """`torch.nn.TransformerEncoderLayer` whose heads choose their own sparsity: the same arguments, plus alpha as in
    `MultiheadAttention`.

    Example:
        >>> import torch, tsallis as ts
        >>> layer = ts.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, alpha="learn")
        >>> encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        >>> encoder(torch.randn(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, *args: Any, alpha: AlphaLike = 1.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.self_attn = _instead_of(self.self_attn, alpha)
        self.dropout, self.dropout1, self.dropout2 = (Dropout(self.dropout.p) for _ in range(3))
        # PyTorch's own fused layer computes softmax: it has to keep off.
        self.activation_relu_or_gelu = 0


class TransformerDecoderLayer(nn.TransformerDecoderLayer):
    """`torch.nn.TransformerDecoderLayer` whose heads choose their own sparsity: the same arguments, plus alpha as in
    `MultiheadAttention`, for attention to itself and to the memory alike.
    """

    def __init__(self, *args: Any, alpha: AlphaLike = 1.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.self_attn = _instead_of(self.self_attn, alpha)
        self.multihead_attn = _instead_of(self.multihead_attn, alpha)
        self.dropout, self.dropout1, self.dropout2, self.dropout3 = (Dropout(self.dropout.p) for _ in range(4))


def _instead_of(layer: nn.MultiheadAttention, alpha: AlphaLike) -> MultiheadAttention:
    """A layer with the same parameters."""
    weight = layer.out_proj.weight
    made = MultiheadAttention(
        layer.embed_dim, layer.num_heads, layer.dropout, layer.in_proj_bias is not None,
        batch_first=layer.batch_first, device=weight.device, dtype=weight.dtype, alpha=alpha,
    )  # fmt: skip
    made.load_state_dict(layer.state_dict(), strict=False)
    return made
