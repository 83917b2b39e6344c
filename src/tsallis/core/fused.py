"""The short way of an eager call: straight to a fused kernel and its backward pass.

What `implicit` makes possible (forward mode, `torch.func`, tracing, derivatives of higher order) costs more per call
than a small softmax takes altogether. A call that needs none of it comes here; where a backward pass turns out to need
it after all, it uses the formula of `implicit`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active as are_transforms_active
from torch._C import _len_torch_dispatch_stack as dispatch_modes
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad

from . import implicit
from .dispatch import FusedKernel

if TYPE_CHECKING:
    from .mapping import Mapping

Number = float | Tensor
_PLAIN = (Tensor, torch.nn.Parameter)


def is_plain(x: Tensor) -> bool:
    """Whether this is a tensor with memory of its own, outside everything that traces or transforms."""
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        and type(x) in _PLAIN
        and not are_transforms_active()
        and dispatch_modes() == 0
        and forward_ad._current_level < 0
        and not x.is_neg()
        and not x._is_zerotensor()
        and not is_legacy_batchedtensor(x)
    )


class Fused(torch.autograd.Function):
    """(mapping, kernel, z, dim, mask, *params) -> p."""

    @staticmethod
    def forward(
        ctx: Any, mapping: Mapping, kernel: FusedKernel, z: Tensor, dim: int, mask: Tensor | None, *params: Number
    ) -> Tensor:
        p, saved, kept = kernel.forward(z, dim, mask, params, True)
        ctx.call = (mapping, kernel, dim, tuple(None if isinstance(x, Tensor) else x for x in params))
        ctx.save_for_backward(saved, kept, mask, *[x for x in params if isinstance(x, Tensor)])
        return p

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        g, p, kept, mask, *tensors = *grads, *ctx.saved_tensors
        mapping, kernel, dim, params = ctx.call
        plain = not torch.is_grad_enabled() and is_plain(g)
        if plain and not params:
            dz = kernel.backward(p, g, dim, (), kept, ())[0]
            return None, None, _kept_only(dz, mask, dz), None, None
        rest = iter(tensors)
        params = tuple(next(rest) if x is None else x for x in params)
        wanted = ctx.needs_input_grad[5:]
        if not plain:
            dz, shares = _by_formula(mapping, p, g, dim, params, wanted)
            dz = _kept_only(dz, mask)
        else:
            dz, slopes = kernel.backward(p, g, dim, params, kept, wanted)
            dz = _kept_only(dz, mask, dz)
            shares = [
                implicit.sum_to(slope, x) if want and slope is not None and isinstance(x, Tensor) else None
                for want, slope, x in zip(wanted, slopes, params, strict=True)
            ]
        return None, None, dz, None, None, *shares


def _kept_only(dz: Tensor, mask: Tensor | None, out: Tensor | None = None) -> Tensor:
    """Zero under the mask, also in rows that are NaN."""
    return dz if mask is None else torch.where(mask, dz, dz.new_zeros(()), out=out)


def _by_formula(
    mapping: Mapping, p: Tensor, g: Tensor, dim: int, params: Sequence[Number], wanted: tuple[bool, ...]
) -> tuple[Tensor, list[Tensor | None]]:
    values = tuple(x if isinstance(x, Tensor) else p.new_full((), x, dtype=torch.float64) for x in params)
    dz, grads = implicit.vjp(mapping, p.movedim(dim, -1), values, (), g.movedim(dim, -1), wanted)
    return dz.movedim(-1, dim), grads


def call(
    mapping: Mapping, kernel: FusedKernel, z: Tensor, dim: int, mask: Tensor | None, params: Sequence[Number]
) -> Tensor:
    """p of plain scores."""
    if torch.is_grad_enabled():
        wanted = z.requires_grad
        for x in params:
            wanted = wanted or (isinstance(x, Tensor) and x.requires_grad)
        if wanted:
            return Fused.apply(mapping, kernel, z, dim, mask, *params)  # pyright: ignore[reportReturnType]
    return kernel.forward(z, dim, mask, params, False)[0]


def through_formula(
    formula: Callable[..., Tensor], g: Tensor, inputs: Sequence[Number | None], wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The wanted gradients of a backward pass through autograd, differentiable if the pass is to be. The formula is a
    function of the inputs.
    """
    again = torch.is_grad_enabled()
    # The forward pass left autocast, too.
    with torch.enable_grad(), torch.autocast(g.device.type, enabled=False):
        # Inputs may be one tensor, or made of each other: each gets a place of its own to end at.
        own = [x.view_as(x) if want and isinstance(x, Tensor) else x for x, want in zip(inputs, wanted, strict=True)]
        found = formula(*own)
        moving = [x for x, want in zip(own, wanted, strict=True) if want and isinstance(x, Tensor)]
        grads = iter(torch.autograd.grad(found, moving, g, create_graph=again))
    return tuple(next(grads) if want else None for want in wanted)
