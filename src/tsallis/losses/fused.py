"""The short way of a plain eager loss: a fused kernel per row, and its gradient. As `core.fused` for mappings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core import dispatch, implicit
from ..core.dispatch import IGNORED, INVALID, FusedLoss
from ..core.fused import is_plain, through_formula
from ..core.mapping import Mapping
from ..core.params import as_number_or_rows
from ..core.settings import DEBUG

Number = float | Tensor
# (rows, targets, which are ignored, parameters by name) -> losses, differentiable as often as one likes
Formula = Callable[[Tensor, Tensor, Tensor, dict[str, object]], Tensor]


class Fused(torch.autograd.Function):
    """(kernel, formula, weights, amount, z, index, *params) -> losses of contiguous rows. The formula is a function of
    (z, index, params).
    """

    @staticmethod
    def forward(
        ctx: Any, kernel: FusedLoss, formula: Callable[..., Tensor], weights: Tensor | None, amount: float, z: Tensor,
        index: Tensor, *params: Number,
    ) -> Tensor:  # fmt: skip
        sloped = any(ctx.needs_input_grad[6:])
        sums = kernel.forward(z, index, weights, params, sloped, amount > 0)
        place = index.clamp_min(0)
        # What multiplies e_y, p and q in the gradient of a row.
        hit = torch.full_like(sums.value, 1 - amount) if weights is None else (1 - amount) * weights[place]
        scale, smooth, loss = hit, None, sums.value
        if sums.far is not None and sums.mass is not None and sums.classes is not None:
            smooth = amount / sums.classes.clamp_min(1)
            scale = hit + smooth * sums.mass
            loss = scale * sums.value - smooth * sums.far
        elif weights is not None:
            loss = scale * sums.value
        else:
            loss = torch.where(loss < 0, 0.0, loss)
        impossible = z.gather(1, place.unsqueeze(1)).squeeze(1) == -torch.inf
        loss = torch.where(impossible & (index >= 0) & (hit > 0) & ~loss.isnan(), torch.inf, loss)
        scale = torch.where(sums.value.isnan(), torch.nan, scale)
        ctx.call = (kernel, formula, weights, tuple(None if isinstance(x, Tensor) else x for x in params))
        tensors = [x for x in params if isinstance(x, Tensor)]
        ctx.save_for_backward(z, index, sums.p, sums.kept, scale, hit, smooth, sums.slope, *tensors)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        kernel, formula, weights, values = ctx.call
        g, (z, index, p, kept, scale, hit, smooth, slope, *tensors) = grads[0], ctx.saved_tensors
        rest = iter(tensors)
        params = [next(rest) if x is None else x for x in values]
        wanted = ctx.needs_input_grad
        if torch.is_grad_enabled() or not is_plain(g):
            return None, None, None, None, *through_formula(
                lambda z, index, *params: formula(z, index, params), g, (z, index, *params), wanted[4:]
            )  # fmt: skip
        dz = None
        if wanted[4]:
            moved = None if smooth is None else g * smooth
            dz = kernel.backward(z, p, kept, index, weights, g * scale, g * hit, moved)
        slopes = [
            implicit.sum_to((g * scale * slope).unsqueeze(1), x) if want and isinstance(x, Tensor) else None
            for want, x in zip(wanted[6:], params, strict=True)
        ]
        return None, None, None, None, dz, None, *slopes


def short_way(
    mapping: Mapping, rows: Tensor, target: Tensor, ignored: Tensor, weights: Tensor | None, amount: float,
    named: dict[str, object], backend: str | None, formula: Formula,
) -> Tensor | None:  # fmt: skip
    """Losses of class indices by a fused kernel; None if that does not serve this call."""
    given = [x for x in (rows, target, weights) if x is not None]
    if DEBUG.value or not rows.numel() or not all(is_plain(x) for x in given):
        return None
    if weights is not None and weights.requires_grad:
        return None
    kernel = dispatch.fused_loss(mapping.name, rows, backend)
    if kernel is None:
        return None
    mapping.check_names(named)
    params = [as_number_or_rows(p.for_losses(), named.get(p.name, p.default), rows, -1) for p in mapping.params]
    n = rows.shape[-1]
    fine = (target >= 0) & (target < n)
    index = torch.where(ignored, IGNORED, torch.where(fine, target.long(), INVALID)).reshape(-1)
    params = [x.reshape(-1, 1) if isinstance(x, Tensor) and x.dim() else x for x in params]
    flat = rows.reshape(-1, n).contiguous()
    weights = None if weights is None else weights.contiguous()

    def again(z: Tensor, index: Tensor, params: Sequence[Number]) -> Tensor:
        values = dict(zip((p.name for p in mapping.params), params, strict=True))
        return formula(z, torch.where(index == INVALID, n, index), index == IGNORED, dict(values))

    loss = Fused.apply(kernel, again, weights, amount, flat, index.contiguous(), *params)
    return loss.reshape(target.shape)  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
