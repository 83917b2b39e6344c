"""Conjugates and Fenchel-Young losses of any mapping: value and gradient, derived once.

Omega*(z) = <p, z> - Omega(p) with p = p(z). By the envelope theorem its gradient is p itself, and for a parameter of
Omega the partial derivative at fixed p. Differentiating through p instead would add terms that cancel in theory and
round in practice; so the gradient is declared, and p stays attached in it, which makes the second derivative J.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active as are_transforms_active
from torch.autograd import forward_ad
from torch.autograd.forward_ad import _set_fwd_grad_enabled

from . import implicit
from .guard import debugging, row_outcomes
from .implicit import tangent_copies
from .mapping import Mapping
from .status import Result


class _Declared(torch.autograd.Function):
    """value (...) with declared gradients: (value, x1, ..., xm, g1, ..., gm), each g_i (..., n or 1)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, *rest: Tensor) -> Any:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
        half = len(inputs) // 2
        ctx.kinds = [(x.shape, x.dtype) for x in inputs[1 : half + 1]]
        ctx.save_for_backward(*inputs[half + 1 :])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *_pull(ctx, grads[0]), *(None for _ in ctx.kinds))


class _DeclaredForward(_Declared):
    """The same for function transforms and forward mode, at the price of a copy of each gradient.

    The copies are outputs: as in `implicit.Implicit`, only outputs are free of the present derivative level and still
    attached to all outer ones.
    """

    @staticmethod
    def forward(value: Tensor, *rest: Tensor) -> Any:
        return (value.clone(), *(slope.clone() for slope in rest[len(rest) // 2 :]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
        ctx.kinds = [(x.shape, x.dtype) for x in inputs[1 : len(inputs) // 2 + 1]]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output[1:])
        ctx.save_for_forward(*output[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        pulled = [None] * len(ctx.kinds) if grads[0] is None else _pull(ctx, grads[0])
        return (None, *pulled, *grads[1:])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        slopes = ctx.saved_tensors
        half = len(slopes)
        with _set_fwd_grad_enabled(True):
            moved = torch.zeros_like(slopes[0][..., 0])
            for slope, tangent in zip(slopes, tangents[1 : half + 1], strict=True):
                moved = moved if tangent is None else moved + (slope * tangent.to(slope.dtype)).sum(-1)
            return (moved, *tangent_copies(slopes, tangents[half + 1 :]))


def _pull(ctx: Any, g: Tensor) -> list[Tensor]:
    column = g.unsqueeze(-1)
    return [
        (column * slope).sum_to_size(shape).to(dtype)
        for slope, (shape, dtype) in zip(ctx.saved_tensors, ctx.kinds, strict=True)
    ]


def _declare(value: Tensor, slopes: list[tuple[Tensor, Tensor]]) -> Tensor:
    arguments = (value, *(x for x, _ in slopes), *(s for _, s in slopes))
    if _constant(arguments):
        return value
    # Dynamo cannot trace a Function with a jvp.
    if not torch.compiler.is_compiling() and (are_transforms_active() or forward_ad._current_level >= 0):
        return _DeclaredForward.apply(*arguments)[0]
    return _Declared.apply(*arguments)


def _constant(tensors: tuple[Tensor, ...]) -> bool:
    """Whether compiled code can know that none of these has a derivative; Dynamo does not trace a Function then."""
    recorded = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    return torch.compiler.is_compiling() and not recorded


def inner(p: Tensor, z: Tensor) -> Tensor:
    """<p, z> over the last dimension, where p = 0 meets z = -inf counting as 0."""
    return (p * torch.where((p == 0) & (z == -torch.inf), 0.0, z)).sum(-1)


def centred(mapping: Mapping, z: Tensor) -> Tensor:
    """z minus its row maximum where that changes no loss (it keeps digits), else z.

    It changes Omega* by the maximum times the domain's sum. Against a target of the same sum that cancels, but not in
    the derivative with respect to a parameter which sets that sum.
    """
    movable = any(param.role == "domain" for param in mapping.params)
    if movable or not mapping.domain.fixed_sum or z.shape[-1] == 0:
        return z
    top = z.detach().amax(-1, keepdim=True)
    return z - top.nan_to_num(0.0, 0.0, 0.0)


def conjugate(mapping: Mapping, z: Tensor, params: tuple[Tensor, ...], backend: str | None = None) -> Tensor:
    """Omega*(z) of each row (last dimension), differentiable in z and in the parameters."""
    known = tuple(param.for_losses() for param in mapping.params)
    if debugging(z):
        Result(row_outcomes(known, z, params).squeeze(-1)).raise_if_failed()
    # Where Omega is not finite there is no loss: a parameter that makes it so spoils its row like any other.
    params = tuple(
        v if param.low_in_losses else v * torch.where(v > param.low, torch.ones_like(v), torch.nan)
        for param, v in zip(known, params, strict=True)
    )
    p = implicit.call(mapping, z, params, backend)[0]
    values = tuple(v.to(p.dtype) for v in params)
    if torch.compiler.is_exporting():
        p = _fixed(mapping, p, values)
        return inner(p, z) - mapping.omega_among(p, z > -torch.inf, **mapping.named(values))
    with torch.no_grad():
        value = inner(p, z) - mapping.omega_among(p, z > -torch.inf, **mapping.named(values))
    slopes = [(z, p)]
    # A 0-d float64 constant made by the door has no derivative to declare; every tensor of the caller may have one.
    if params and torch.is_grad_enabled() and not _constant(params):
        rows = tuple(v.expand(*p.shape[:-1], 1) for v in values)
        slopes += zip(values, _parameter_slopes(mapping, z, p, rows), strict=True)
    return _declare(value, slopes)


def _fixed(mapping: Mapping, p: Tensor, values: tuple[Tensor, ...]) -> Tensor:
    """p, moved only by parameters of the domain: then plain autograd of <p, z> - Omega(p) gives the declared gradients.

    For exported programs, which keep no autograd.Function. Their second derivatives lack what p contributes.
    """
    held = p.detach()
    tangents = mapping.domain_tangent(held, **mapping.named(values))
    for param, value in zip(mapping.params, values, strict=True):
        if param.role == "domain":
            held = held + tangents[param.name].detach() * (value - value.detach())
    return held


def _parameter_slopes(mapping: Mapping, z: Tensor, p: Tensor, rows: tuple[Tensor, ...]) -> list[Tensor]:
    def omega(p: Tensor, *values: Tensor) -> Tensor:
        return mapping.omega_among(p, z > -torch.inf, **mapping.named(values))

    pull = torch.func.vjp(omega, p, *rows)[1]
    grad_p, *partials = pull(torch.ones_like(p[..., 0]))
    tangents = mapping.domain_tangent(p, **mapping.named(rows))
    slopes = []
    for param, partial in zip(mapping.params, partials, strict=True):
        if param.role == "omega":
            slopes.append(-partial)
        elif param.role == "domain":
            slopes.append((inner(tangents[param.name], z) - inner(tangents[param.name], grad_p)).unsqueeze(-1))
        else:
            slopes.append(torch.zeros_like(partial))
    return slopes


def non_negative(loss: Tensor) -> Tensor:
    """Lift rounding below zero to zero without touching gradients of any order (a clamp would zero them there)."""
    return torch.where(loss.detach() < 0, loss - loss.detach(), loss)


def fenchel_young(
    mapping: Mapping, z: Tensor, t: Tensor, params: tuple[Tensor, ...], backend: str | None = None
) -> Tensor:
    """Omega*(z) + Omega(t) - <t, z> of each row; t in the domain."""
    z = centred(mapping, z)
    values = mapping.named(tuple(v.to(z.dtype) for v in params))
    loss = conjugate(mapping, z, params, backend) - inner(t, z) + mapping.omega_among(t, z > -torch.inf, **values)
    return non_negative(loss)
