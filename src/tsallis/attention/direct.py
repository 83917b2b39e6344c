"""Attention by a kernel that makes its scores itself, with its gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import implicit
from ..core.dispatch import FusedAttention
from ..core.fused import is_plain, through_formula
from . import formula
from .inputs import Number, Settings


@dataclass(frozen=True)
class Call(Settings):
    """A call of a kernel for all of it."""

    kernel: FusedAttention

    def whole(self, *tensors: Any) -> Tensor:
        """The result by the formula, differentiable as often as one likes."""
        heads = self.heads(*tensors)
        wide = heads.widened()
        return formula.average(formula.probabilities(wide, self.backend), wide).to(heads.q.dtype)


class Direct(torch.autograd.Function):
    """(call, whether gradients may be asked for, q, k, v, mask, bias, alpha) -> (B, Hq, Nq, dv)."""

    @staticmethod
    def forward(
        ctx: Any, call: Call, recorded: bool, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None,
        bias: Tensor | None, alpha: Number,
    ) -> Tensor:  # fmt: skip
        train = recorded and any(ctx.needs_input_grad)
        out, kept = call.kernel.forward(call.heads(q, k, v, mask, bias, alpha), train)
        if train:
            ctx.call, ctx.number = call, None if isinstance(alpha, Tensor) else alpha
            ctx.save_for_backward(q, k, v, mask, bias, alpha if isinstance(alpha, Tensor) else None, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        g, (q, k, v, mask, bias, alpha, *kept), call = grads[0], ctx.saved_tensors, ctx.call
        alpha = ctx.number if alpha is None else alpha
        wanted = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled() or not is_plain(g):
            return None, None, *through_formula(call.whole, g, (q, k, v, mask, bias, alpha), wanted)
        heads = call.heads(q, k, v, mask, bias, alpha)
        kept = [x.contiguous() for x in kept]
        *found, slopes = call.kernel.backward(heads, kept, g, (*wanted[:3], wanted[5]))
        dalpha = None if slopes is None else implicit.sum_to(slopes, alpha)
        return None, None, *found, None, None, dalpha
