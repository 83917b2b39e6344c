"""What comes through the public door of attention, checked once and brought into one shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.dispatch import AttentionInputs
from ..core.errors import ParameterError, ShapeError
from ..core.inputs import HALF, check_tensor, is_number

Number = float | Tensor


class Heads(AttentionInputs):
    """What all ways of attention start from."""

    @property
    def group(self) -> int:
        """Heads of queries per head of keys."""
        return max(1, self.q.shape[1] // max(1, self.k.shape[1]))

    def widened(self) -> Heads:
        """The same, to be computed with operations of torch: in at least float32."""
        if self.q.dtype not in HALF:
            return self
        return replace(self, q=self.q.float(), k=self.k.float(), v=self.v.float())


@dataclass(frozen=True)
class Settings:
    """What of a call are no tensors: those would be kept alive beside what autograd keeps."""

    scale: float
    causal: bool
    ends: tuple[tuple[int, ...], tuple[int, ...]]
    backend: str | None

    def heads(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, alpha: Number) -> Heads:
        """The call's, of its tensors."""
        return Heads(q, k, v, alpha, mask, bias, self.scale, self.causal, self.ends)


def checked(
    query: object, key: object, value: object, attn_mask: object, dropout_p: object, is_causal: bool, scale: object,
    enable_gqa: bool, alpha: object, ends_q: object, ends_k: object,
) -> Heads:  # fmt: skip
    """The heads of a call, or an error that says what is wrong with it."""
    q, k, v = check_tensor(query, "query"), check_tensor(key, "key"), check_tensor(value, "value")
    check_shapes(q, k, v, enable_gqa)
    if not is_number(dropout_p) or not 0 <= dropout_p <= 1:
        raise ParameterError(f"dropout_p={dropout_p!r}", "a probability", "Choose one in [0, 1]")
    if scale is not None and not is_number(scale):
        raise ParameterError(f"scale={scale!r}", "a number, or None for 1/sqrt(d)", "Pass one")
    lead = q.shape[:-2]
    mask, bias = _masks(attn_mask, q, (*lead, q.shape[-2], k.shape[-2]))
    return Heads(
        _four(q), _four(k), _four(v), alpha_of_heads(alpha, q), None if mask is None else _four(mask),
        None if bias is None else _four(bias.to(torch.float32 if q.dtype in HALF else q.dtype)),
        q.shape[-1] ** -0.5 if scale is None else float(scale), bool(is_causal),
        _ends(ends_q, ends_k, q.shape[-2], k.shape[-2]),
    )  # fmt: skip


def check_shapes(q: Tensor, k: Tensor, v: Tensor, grouped: bool) -> None:
    """Raise unless queries, keys and values fit."""
    got = f"query {tuple(q.shape)}, key {tuple(k.shape)}, value {tuple(v.shape)}"
    if min(q.dim(), k.dim(), v.dim()) < 2 or not q.dim() == k.dim() == v.dim():
        raise ShapeError(got, "(..., H, N, d) each, of as many dimensions", "Give them the same leading dimensions")
    if q.shape[-1] != k.shape[-1] or q.shape[-1] == 0:
        raise ShapeError(got, "queries and keys of one width d > 0", "Check the last dimensions")
    if k.shape[-2] != v.shape[-2]:
        raise ShapeError(got, "as many values as keys", "Check the dimensions before the last")
    if k.shape[:-2] != v.shape[:-2]:
        raise ShapeError(got, "values with the leading dimensions of keys", "Check the leading dimensions")
    if q.shape[:-3] != k.shape[:-3]:
        raise ShapeError(got, "one batch", "Expand what is shared: leading dimensions are not broadcast")
    if q.dim() > 2 and q.shape[-3] != k.shape[-3]:
        fits = k.shape[-3] > 0 and q.shape[-3] > 0 and q.shape[-3] % k.shape[-3] == 0
        if not grouped:
            raise ShapeError(got, "as many heads of keys as of queries", "Pass enable_gqa=True to share heads of keys")
        if not fits:
            raise ShapeError(got, "heads of queries that are a multiple of those of keys", "Check the head dimension")
    if not (q.is_floating_point() and q.dtype == k.dtype == v.dtype):
        raise ShapeError(f"query {q.dtype}, key {k.dtype}, value {v.dtype}", "one floating dtype", "Convert them")
    if not q.device == k.device == v.device:
        raise ShapeError(f"query on {q.device}, key on {k.device}, value on {v.device}", "one device", "Move them")


def _masks(attn_mask: object, q: Tensor, shape: Sequence[int]) -> tuple[Tensor | None, Tensor | None]:
    """(what may be attended to, what is added)."""
    if attn_mask is None:
        return None, None
    mask = check_tensor(attn_mask, "attn_mask")
    try:
        fits = torch.broadcast_shapes(mask.shape, tuple(shape)) == torch.Size(shape)
    except RuntimeError:
        fits = False
    if not fits:
        raise ShapeError(
            f"attn_mask of shape {tuple(mask.shape)}", f"one that broadcasts to {tuple(shape)}", "Reshape it"
        )
    if mask.device != q.device:
        raise ShapeError(f"attn_mask on {mask.device}, query on {q.device}", "one device", "Move the mask with .to()")
    # Of full rank, with the sizes it has: nothing is expanded yet.
    mask = mask.reshape(*(1,) * (len(shape) - mask.dim()), *mask.shape)
    if mask.dim() > 4 and any(n != m for n, m in zip(mask.shape[:-3], shape[:-3], strict=True)):
        mask = mask.expand(*shape[:-3], *mask.shape[-3:])
    if mask.dtype == torch.bool:
        return mask, None
    if not mask.is_floating_point():
        raise ShapeError(
            f"attn_mask of dtype {mask.dtype}", "torch.bool (True = take part) or a floating dtype", "Convert it"
        )
    # Libraries that cannot bear rows of -inf use the lowest number there is: it means the same.
    return None, torch.where(mask <= torch.finfo(mask.dtype).min, -torch.inf, mask)


def alpha_of_heads(alpha: object, q: Tensor) -> Number:
    """A number, or a tensor as `Heads` has it."""
    if not isinstance(alpha, Tensor):
        if not is_number(alpha) or not 0 <= alpha < float("inf"):
            raise ParameterError(f"alpha={alpha!r}", "a number in [0, inf), or a tensor", "Choose one inside")
        return float(alpha)
    lead = q.shape[:-2]
    try:
        fits = torch.broadcast_shapes(alpha.shape, lead) == lead
    except RuntimeError:
        fits = False
    if not fits or not alpha.is_floating_point():
        raise ShapeError(
            f"alpha of shape {tuple(alpha.shape)}, {alpha.dtype}",
            f"a floating scalar, one number per head {tuple(lead[-1:])}, or per batch and head {tuple(lead)}",
            "Reshape it",
        )
    if alpha.dim() == 0:
        return alpha
    if alpha.device != q.device:
        raise ShapeError(f"alpha on {alpha.device}, query on {q.device}", "one device", "Move alpha with .to()")
    if alpha.dim() > 1:
        alpha = alpha.expand(lead)
    return alpha.reshape(-1, alpha.shape[-1], 1, 1)


def _ends(ends_q: object, ends_k: object, n: int, m: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where packed sequences end."""
    if ends_q is None and ends_k is None:
        return (n,), (m,)
    found = []
    for given, length, name in ((ends_q, n, "cu_seqlens_q"), (ends_k, m, "cu_seqlens_k")):
        if given is None:
            raise ShapeError(f"no {name}", "cu_seqlens_q and cu_seqlens_k", "Pass both, also where they are equal")
        places = check_tensor(given, name)
        if places.dim() != 1 or places.is_floating_point():
            raise ShapeError(f"{name} of shape {tuple(places.shape)}, {places.dtype}", "(S + 1) integers", "Reshape it")
        steps = [int(i) for i in places.tolist()]
        if not steps or steps[0] != 0 or steps[-1] != length or steps != sorted(steps):
            raise ShapeError(f"{name}={steps[:8]}", f"places that ascend from 0 to {length}", "Correct them")
        found.append(tuple(steps[1:]))
    if len(found[0]) != len(found[1]):
        raise ShapeError(
            f"{len(found[0])} sequences of queries, {len(found[1])} of keys", "as many of both", "Correct cu_seqlens"
        )
    return found[0], found[1]


def _four(x: Tensor) -> Tensor:
    """(B, H, N, M) of (..., H, N, M)."""
    if x.dim() < 4:
        return x.reshape(*(1,) * (4 - x.dim()), *x.shape)
    return x if x.dim() == 4 else x.reshape(-1, *x.shape[-3:])
