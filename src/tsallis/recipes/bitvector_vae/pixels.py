"""The loss of an image whose pixels are categorical: a small linear layer and cross-entropy, scores never kept.

An image of 784 pixels with 256 levels has 200,704 scores, and a training step has hundreds of rows. They are made in
chunks that stay in the cache, and used up there: the gradients are computed beside the losses.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ...core.fused import through_formula

# Bytes of scores at once: what a core's cache holds, or enough to keep another device busy.
CHUNK, CHUNK_ELSEWHERE = 2**21, 2**28


def pixel_loss(features: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
    r"""Cross-entropy of linear scores, summed over the pixels of a row:

    $$\ell_r = \sum_i \log \sum_l \exp(w_l^\top a_{ri} + c_l) - (w_{x_{ri}}^\top a_{ri} + c_{x_{ri}})$$

    Args:
        features: a, (R, P, K).
        weight: w, (L, K).
        bias: c, (L).
        target: x, (R, P) long, in [0, L).

    Returns:
        (R,), at least in float32, also under autocast.

    Differentiability:
        any order in features, weight and bias; from the second on all scores are held.

    Complexity:
        R P L exponentials, whether gradients are wanted or not. Memory: R (P + L) K for gradients.
    """
    dtype = torch.promote_types(torch.float32, torch.promote_types(features.dtype, weight.dtype))
    with torch.autocast(features.device.type, enabled=False):
        # Inside a Function's forward pass PyTorch does not say whether gradients may be asked for.
        return _PixelLoss.apply(features.to(dtype), weight.to(dtype), bias.to(dtype), target, torch.is_grad_enabled())  # pyright: ignore[reportReturnType]


class _PixelLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, w: Tensor, c: Tensor, target: Tensor, recorded: bool) -> Tensor:
        wanted = recorded and any(ctx.needs_input_grad)
        rows, pixels, size = a.shape
        levels = len(w)
        ones = a.new_ones(rows, pixels, 1)
        inputs = torch.cat([a, ones], -1)
        # Scores to base 2, whose powers are much cheaper than those to base e.
        layer = torch.cat([w, c[:, None]], 1) * math.log2(math.e)
        # Beside weights, ones: their product with the exponentials is the sum.
        summing = torch.cat([w, w.new_ones(levels, 1)], 1).t()
        losses = a.new_empty(rows)
        da, dw = (a.new_empty(rows, pixels, size), a.new_empty(rows, size + 1, levels)) if wanted else (None, None)
        bytes_of_row = pixels * levels * a.element_size()
        step = max(1, (CHUNK if a.device.type == "cpu" else CHUNK_ELSEWHERE) // max(bytes_of_row, 1))
        for begin in range(0, rows, step):
            chosen = slice(begin, begin + step)
            h, x = inputs[chosen].flatten(0, 1), target[chosen].reshape(1, -1)
            # Levels first: sums and maxima over them run along whole vectors of pixels.
            z = layer @ h.t()
            own = z.gather(0, x)[0]
            top = z.amax(0)
            z.sub_(top).exp2_()
            if da is None or dw is None:
                total = z.sum(0)
            else:
                sums = summing @ z
                total = sums[-1]
                da[chosen] = (sums[:-1] / total).t().reshape(-1, pixels, size)
                shares = (h.t() / total).reshape(size + 1, -1, pixels).transpose(0, 1)
                torch.bmm(shares, z.reshape(levels, -1, pixels).permute(1, 2, 0), out=dw[chosen])
            losses[chosen] = ((top - own) * math.log(2) + total.log()).reshape(-1, pixels).sum(1)
        if da is not None and dw is not None:
            da -= w[target]
            # One more level for each row: (rows, levels) as one dimension.
            place = target + levels * torch.arange(rows, device=a.device)[:, None]
            seen = a.new_zeros(rows * levels, size + 1).index_add_(0, place.flatten(), inputs.flatten(0, 1))
            dw -= seen.reshape(rows, levels, size + 1).transpose(1, 2)
            ctx.save_for_backward(da, dw, a, w, c, target)
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (da, dw, *inputs) = grads, ctx.saved_tensors
        if torch.is_grad_enabled():
            return *through_formula(_formula, g, inputs, ctx.needs_input_grad[:4]), None
        both = torch.tensordot(g, dw, 1)
        return g[:, None, None] * da, both[:-1].t(), both[-1], None, None


def _formula(a: Tensor, w: Tensor, c: Tensor, target: Tensor) -> Tensor:
    scores = functional.linear(a, w, c).flatten(0, 1)
    return functional.cross_entropy(scores, target.flatten(), reduction="none").reshape(target.shape).sum(1)
