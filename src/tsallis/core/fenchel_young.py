"""Conjugates and Fenchel-Young losses of any mapping: value and gradient, derived once.

Omega*(z) = <p, z> - Omega(p) with p = p(z). By the envelope theorem its gradient is p itself, and for a parameter of
Omega the partial derivative at fixed p. Differentiating through p instead would add terms that cancel in theory and
round in practice; so the gradient is declared, and p stays attached in it, which makes the second derivative J.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import implicit
from .mapping import Mapping


class _Traced(torch.autograd.Function):
    """value (...) with declared gradients: (value, x1, ..., xm, g1, ..., gm), g_i (..., n or 1) being d value/d x_i."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, *rest: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        half = len(ctx.saved_tensors) // 2
        xs, slopes = ctx.saved_tensors[:half], ctx.saved_tensors[half:]
        g = grads[0].unsqueeze(-1)
        pulled = [(g * slope).sum_to_size(x.shape).to(x.dtype) for x, slope in zip(xs, slopes, strict=True)]
        return (None, *pulled, *(None for _ in slopes))


class _Declared(_Traced):
    """The same with forward mode, which Dynamo cannot trace."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        half = len(ctx.saved_tensors) // 2
        slopes = ctx.saved_tensors[half:]
        moved = [
            (slope * t.to(slope.dtype)).sum(-1)
            for slope, t in zip(slopes, tangents[1 : half + 1], strict=True)
            if t is not None
        ]
        return torch.stack(torch.broadcast_tensors(*moved)).sum(0) if moved else torch.zeros_like(slopes[0][..., 0])


def _declare(value: Tensor, slopes: list[tuple[Tensor, Tensor]]) -> Tensor:
    function = _Traced if torch.compiler.is_compiling() else _Declared
    return function.apply(value, *(x for x, _ in slopes), *(s for _, s in slopes))


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
    return z - torch.where(top.isfinite(), top, 0.0)


def conjugate(mapping: Mapping, z: Tensor, params: tuple[Tensor, ...], backend: str | None = None) -> Tensor:
    """Omega*(z) of each row (last dimension), differentiable in z and in the parameters."""
    p = implicit.call(mapping, z, params, backend)[0]
    values = tuple(v.to(p.dtype) for v in params)
    with torch.no_grad():
        value = inner(p, z) - mapping.omega(p, **mapping.named(values))
    slopes = [(z, p)]
    # A 0-d float64 constant made by the door has no derivative to declare; every tensor of the caller may have one.
    if params and torch.is_grad_enabled():
        rows = tuple(v.expand(*p.shape[:-1], 1) for v in values)
        slopes += zip(values, _parameter_slopes(mapping, z, p, rows), strict=True)
    return _declare(value, slopes)


def _parameter_slopes(mapping: Mapping, z: Tensor, p: Tensor, rows: tuple[Tensor, ...]) -> list[Tensor]:
    def omega(p: Tensor, *values: Tensor) -> Tensor:
        return mapping.omega(p, **mapping.named(values))

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
    loss = conjugate(mapping, z, params, backend) - inner(t, z) + mapping.omega(t, **values)
    return non_negative(loss)
