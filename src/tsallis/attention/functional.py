"""The public door of attention."""

from __future__ import annotations

from typing import Literal, NamedTuple, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core import dispatch
from ..core.dropping import dropped
from ..core.errors import TsallisError
from ..core.fused import is_plain
from ..core.registry import get
from ..core.settings import DEBUG
from . import formula
from .blocked import Blocked, Call
from .blocks import blocks, scores_of
from .direct import Call as DirectCall
from .direct import Direct
from .inputs import Heads, Number, checked


class AttentionStats(NamedTuple):
    """What is known of each query's distribution, of shape (..., Hq, Nq).

    Attributes:
        threshold: lambda of p = [1 + (alpha - 1)(z - lambda)]_+^(1/(alpha - 1)).
        support_size: how many keys have probability.
        residual: |sum p - 1|, 0 where a query may attend to nothing.
    """

    threshold: Tensor
    support_size: Tensor
    residual: Tensor


@overload
def entmax_attention(
    query: Float[Tensor, "*heads queries width"], key: Float[Tensor, "*key_heads keys width"],
    value: Float[Tensor, "*key_heads keys depth"], attn_mask: Tensor | None = ..., dropout_p: float = ...,
    is_causal: bool = ..., *, scale: float | None = ..., enable_gqa: bool = ..., alpha: float | Tensor = ...,
    cu_seqlens_q: Int[Tensor, " sequences"] | None = ..., cu_seqlens_k: Int[Tensor, " sequences"] | None = ...,
    return_stats: Literal[False] = ..., backend: str | None = ...,
) -> Float[Tensor, "*heads queries depth"]: ...  # fmt: skip


@overload
def entmax_attention(
    query: Float[Tensor, "*heads queries width"], key: Float[Tensor, "*key_heads keys width"],
    value: Float[Tensor, "*key_heads keys depth"], attn_mask: Tensor | None = ..., dropout_p: float = ...,
    is_causal: bool = ..., *, scale: float | None = ..., enable_gqa: bool = ..., alpha: float | Tensor = ...,
    cu_seqlens_q: Int[Tensor, " sequences"] | None = ..., cu_seqlens_k: Int[Tensor, " sequences"] | None = ...,
    return_stats: Literal[True], backend: str | None = ...,
) -> tuple[Float[Tensor, "*heads queries depth"], AttentionStats]: ...  # fmt: skip


def entmax_attention(
    query: Float[Tensor, "*heads queries width"],
    key: Float[Tensor, "*key_heads keys width"],
    value: Float[Tensor, "*key_heads keys depth"],
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    alpha: float | Tensor = 1.5,
    cu_seqlens_q: Int[Tensor, " sequences"] | None = None,
    cu_seqlens_k: Int[Tensor, " sequences"] | None = None,
    return_stats: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, AttentionStats]:
    r"""Attention with `entmax` in the place of softmax: `torch.nn.functional.scaled_dot_product_attention` with alpha.

    $$\mathrm{out}_i = \sum_j p_{ij} v_j, \qquad p_i = \operatorname{entmax}_\alpha(\mathrm{scale}\, q_i K^\top + m_i)$$

    Scores are made in blocks and never held together; where few keys have probability only those are touched. On CUDA
    devices kernels of attention's own (for alpha in (1, 2], without dropout and gradients of masks, at most 256 numbers
    per head, in half precision or float32) skip blocks of keys without probability.

    Args:
        query: (..., Hq, Nq, d).
        key: (..., H, Nk, d).
        value: (..., H, Nk, dv).
        attn_mask: broadcastable to (..., Hq, Nq, Nk): boolean, True = take part; or floating, added to the scores,
            where -inf and the dtype's lowest number rule a key out.
        dropout_p: share of the probabilities that are dropped, also in evaluation: pass 0 there.
        is_causal: whether query i sees keys 0 to i only, besides what the mask says.
        scale: of the scores; None for 1/sqrt(d).
        enable_gqa: whether heads of queries may be a multiple of those of keys, and share these in groups.
        alpha: in [0, inf): a number, a scalar tensor, one value per head (Hq), or per batch entry and head (B, Hq);
            with gradient. At 1 this is softmax attention.
        cu_seqlens_q: (S + 1) where sequences packed along Nq start, and Nq: each attends to its own keys only.
        cu_seqlens_k: (S + 1) the same for keys.
        return_stats: whether to return (result, `AttentionStats`).
        backend: as in `entmax`.

    Returns:
        (..., Hq, Nq, dv) in the dtype of the query; half precision is computed in float32, but kernels of attention's
        own round probabilities before they multiply them. Queries that may attend to nothing get zeros. A NaN makes NaN
        of the queries that see it, and may of gradients that are summed over them.

    Raises:
        ShapeError: shapes, dtypes or devices that do not fit; places of sequences that do not ascend to their number.
        ParameterError: a Python alpha, dropout_p or scale that cannot be.
        TsallisError: return_stats inside a compiled program or a function transform.

    Differentiability:
        any order in query, key, value, alpha and a floating mask; from the second on all scores are held, as inside
        function transforms and compiled programs.

    Complexity:
        products of Nq x Nk x d; averages and gradients Nq x (support) x d where supports are small. Memory: a block of
        4 MB of scores (64 MB on a GPU), and 8 bytes per key attended to for the backward pass, up to 512 MB; beyond,
        scores are made again. Kernels of attention's own hold no scores, and keep 16 bytes per query and one per block
        of 64 x 64 pairs (32 x 32 in float32).

    Example:
        >>> import torch, tsallis as ts
        >>> q, k = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
        >>> out, stats = ts.entmax_attention(q, k, k, alpha=2.0, return_stats=True)
        >>> out, stats.support_size
        (tensor([[[2., 0.]]]), tensor([[1]]))

    References:
        correia2019adaptively, peters2019sparse
    """
    heads = checked(
        query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, alpha, cu_seqlens_q, cu_seqlens_k
    )
    with torch.autocast(query.device.type, enabled=False):
        out = _attention(heads, float(dropout_p), backend)
        shape = (*query.shape[:-1], value.shape[-1])
        out = out.to(query.dtype).reshape(shape)
        if not return_stats:
            return out
        if not all(is_plain(x) for x in _tensors(heads)):
            raise TsallisError(
                "return_stats inside a compiled program or a function transform", "a plain call", "Leave it out"
            )
        return out, _stats(heads.widened(), backend, shape[:-1])


def _attention(heads: Heads, dropout: float, backend: str | None) -> Tensor:
    plain = (
        all(is_plain(x) for x in _tensors(heads))
        and heads.q.numel()
        and heads.k.numel()
        and heads.v.numel()
        and not DEBUG.value
    )
    direct = dispatch.fused_attention("entmax", heads.q, backend) if plain and not dropout else None
    if direct is not None and direct.refuses(heads) is None and _has_zeros(heads.alpha):
        return Direct.apply(
            DirectCall(heads.scale, heads.causal, heads.ends, backend, direct), torch.is_grad_enabled(), heads.q,
            heads.k, heads.v, heads.mask, heads.bias, heads.alpha,
        )  # fmt: skip
    heads = heads.widened()
    kernel = dispatch.fused("entmax", heads.q, backend) if plain else None
    if kernel is None:
        p = formula.probabilities(heads, backend)
        return formula.average(dropped(p, dropout), heads)
    sparse = None
    # Dropout draws numbers for all keys.
    if not dropout and _has_zeros(heads.alpha):
        sparse = dispatch.sparse_attention("entmax", heads.q, backend)
    seed = int(torch.randint(2**32, (), device="cpu")) if dropout else 0
    call = Call(heads.scale, heads.causal, heads.ends, backend, kernel, sparse, dropout, seed)
    return Blocked.apply(
        call, torch.is_grad_enabled(), heads.q.contiguous(), heads.k.contiguous(), heads.v.contiguous(), heads.mask,
        heads.bias, heads.alpha,
    )  # fmt: skip


def _has_zeros(alpha: Number) -> bool:
    """Whether rows of this alpha have zeros, and slopes that have a bound: lists and skipped keys are for those."""
    if not isinstance(alpha, Tensor):
        return 1 < alpha <= 2
    alpha = alpha.detach()
    return bool((alpha > 1).all() & (alpha <= 2).all())


def _tensors(heads: Heads) -> list[Tensor]:
    return [x for x in (heads.q, heads.k, heads.v, heads.mask, heads.bias, heads.alpha) if isinstance(x, Tensor)]


def _stats(heads: Heads, backend: str | None, shape: tuple[int, ...]) -> AttentionStats:
    rows = heads.q.shape[:3]
    with torch.no_grad():
        threshold = heads.q.new_full(rows, -torch.inf)
        support, residual = torch.zeros(rows, dtype=torch.int64, device=heads.q.device), heads.q.new_zeros(rows)
        for block in blocks(heads):
            z = scores_of(block, heads)
            found = get("entmax").solution(z, alpha=block.alpha(heads.alpha), backend=backend)
            here = (block.batch, block.heads, block.queries)
            assert found.threshold is not None
            threshold[here], support[here] = found.threshold, found.support_size
            residual[here] = torch.where((z > -torch.inf).any(-1), found.residual, 0.0)
    return AttentionStats(*(x.reshape(shape) for x in (threshold, support, residual)))
