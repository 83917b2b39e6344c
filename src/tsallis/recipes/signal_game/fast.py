"""What a training would otherwise spend its time in; each stands beside its plain form in the tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Numbers of a chunk: as many as stay in a core's cache between the passes over them.
_CACHED = 1 << 17


def mixture_of_sigmoids(h: Tensor, w: Tensor, v: Tensor) -> Tensor:
    r"""The function $\sum_f v_f\, \sigma(w_f h)$ of every number in h; w and v are (f,).

    In chunks that stay in the cache, and once more in the backward pass, instead of f times the memory of h.
    Differentiable once, in all arguments.
    """
    return _Mixture.apply(h, w, v)  # pyright: ignore[reportReturnType]


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, w: Tensor, v: Tensor) -> Tensor:
        with torch.autocast(h.device.type, enabled=False):
            flat, w, v = h.to(w.dtype).flatten(), w.contiguous(), v.to(w.dtype)
            chunks = flat.split(_rows(w))
            out = torch.cat([torch.mv(s, v) for s in _sigmoids(chunks, w)])
        ctx.save_for_backward(flat, w, v)
        return out.view(h.shape).to(h.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grads
        h, w, v = ctx.saved_tensors
        rows = _rows(w)
        d = grad.to(w.dtype).flatten()
        chunks, vw, dh = h.split(rows), v * w, []
        dv, dw = torch.zeros_like(v), torch.zeros_like(w)
        for s, x, g in zip(_sigmoids(chunks, w), chunks, d.split(rows), strict=True):
            dv.addmv_(s.T, g)
            slope = s.addcmul_(s, s, value=-1)  # s (1 - s)
            dh.append(torch.mv(slope, vw).mul_(g))
            dw.addmv_(slope.T, g * x)
        return torch.cat(dh).view(grad.shape).to(grad.dtype), dw.mul_(v), dv


def _rows(w: Tensor) -> int:
    return max(1, _CACHED // max(1, len(w)))


def _sigmoids(chunks: tuple[Tensor, ...], w: Tensor) -> Any:
    """sigma(w_f h) for each chunk of h, (rows, f), in the same memory."""
    whole = w.new_empty(max(len(x) for x in chunks), len(w))
    for x in chunks:
        part = whole[: len(x)]
        torch.mul(x[:, None], w, out=part)
        yield torch.sigmoid(part, out=part)


def row_products(x: Tensor, q: Tensor, index: Tensor, place: Tensor) -> Tensor:
    """(R, n): scalar products of the vector q[place[r]] with the n vectors x[index[r]], where x is (B, n, d), q is
    (U, d), and index ascends.

    Nothing of size R d is made. Differentiable once, in q alone.
    """
    # One product of all with all, twice the work at most, is faster than many small ones.
    form = _AllProducts if 2 * len(place) > len(x) * len(q) else _RowProducts
    return form.apply(q.to(x.dtype), x, index, place)  # pyright: ignore[reportReturnType]


class _RowProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, x: Tensor, index: Tensor, place: Tensor) -> Tensor:
        ctx.counts = torch.bincount(index, minlength=len(x)).tolist()
        ctx.save_for_backward(x, place)
        ctx.rows = q.shape
        parts = zip(place.split(ctx.counts), x, strict=True)
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat([q.index_select(0, p) @ own.T for p, own in parts])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grads
        x, place = ctx.saved_tensors
        dq = x.new_zeros(ctx.rows)
        for p, own, g in zip(place.split(ctx.counts), x, grad.split(ctx.counts), strict=True):
            dq.index_add_(0, p, g @ own)
        return dq, None, None, None


class _AllProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, x: Tensor, index: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(x, index, place)
        ctx.rows = q.shape
        with torch.autocast(x.device.type, enabled=False):
            return (x @ q.T).transpose(1, 2)[index, place]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grads
        x, index, place = ctx.saved_tensors
        of_all = grad.new_zeros(ctx.rows[0], *x.shape[:2])
        # Adds: a pair may come twice.
        of_all.index_put_((place, index), grad, accumulate=True)
        return of_all.flatten(1) @ x.flatten(0, 1), None, None, None
