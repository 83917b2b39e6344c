"""Implicit differentiation, once for all mappings, and the operator each mapping becomes.

From p = argmax over C of <p, z> - Omega(p; theta), with J = dp/dz symmetric:

    VJP:  dz = J g,   dtheta = -<J g, d_theta grad Omega(p)>   or, if theta shapes the domain,  dtheta = <g, dp/dtheta>
    JVP:  dp = J (dz - sum d_theta grad Omega dtheta) + sum dp/dtheta dtheta

All are differentiable expressions in p and theta, and p is an output of the operator, so derivatives of every order
follow.

Two doors lead to one formula: an ``autograd.Function`` in eager mode (it supports vmap and forward mode, which
    torch.library cannot), and
``torch.ops.tsallis.<name>`` while torch.compile or torch.export is tracing (Dynamo does not trace a Function with a
jvp).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import dispatch

if TYPE_CHECKING:
    from .mapping import Mapping

NAMESPACE = "tsallis"


def _sum_to(total: Tensor, like: Tensor) -> Tensor:
    return total.sum_to_size(like.shape).to(like.dtype) if like.dim() else total.sum().to(like.dtype)


def _cast(params: tuple[Tensor, ...], p: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.to(p.dtype) for t in params)


def _jacobian_times(mapping: Mapping, p: Tensor, v: Tensor, saved: dict[str, Tensor]) -> Tensor:
    product = mapping.solve_tangent(p, v, **saved)
    # A row that is NaN has a NaN derivative, as in torch.softmax; supports would hide it (NaN > 0 is False). And p
    # keeps the product attached where J does not depend on it, so that a second derivative is zero rather than an
    # error.
    return torch.where(p.isnan(), p, product)


def vjp(
    mapping: Mapping,
    p: Tensor,
    params: tuple[Tensor, ...],
    residuals: tuple[Tensor, ...],
    g: Tensor,
    wanted: tuple[bool, ...],
) -> tuple[Tensor, list[Tensor | None]]:
    """Gradients with respect to z and to the wanted parameters."""
    named = mapping.named(_cast(params, p))
    saved = named | dict(zip(mapping.residuals, residuals, strict=True))
    dz = _jacobian_times(mapping, p, g, saved)
    grads: list[Tensor | None] = [None] * len(params)
    if any(wanted):
        slopes, tangents = mapping.grad_omega_param(p, **saved), mapping.domain_tangent(p, **saved)
        for i, (param, value) in enumerate(zip(mapping.params, params, strict=True)):
            if not wanted[i] or param.role == "selection":
                continue
            contribution = -dz * slopes[param.name] if param.role == "omega" else g * tangents[param.name]
            grads[i] = _sum_to(contribution, value)
    return dz, grads


def jvp(
    mapping: Mapping,
    p: Tensor,
    params: tuple[Tensor, ...],
    residuals: tuple[Tensor, ...],
    tangents: tuple[Tensor | None, ...],
) -> Tensor:
    """Directional derivative of p; ``tangents`` are those of z and of the parameters, None for zero."""
    saved = mapping.named(_cast(params, p)) | dict(zip(mapping.residuals, residuals, strict=True))
    v, moved = tangents[0] if tangents[0] is not None else torch.zeros_like(p), torch.zeros_like(p)
    if any(t is not None for t in tangents[1:]):
        slopes, shifts = mapping.grad_omega_param(p, **saved), mapping.domain_tangent(p, **saved)
        for param, tangent in zip(mapping.params, tangents[1:], strict=True):
            if tangent is None or param.role == "selection":
                continue
            if param.role == "omega":
                v = v - slopes[param.name] * tangent.to(p.dtype)
            else:
                moved = moved + shifts[param.name] * tangent.to(p.dtype)
    return _jacobian_times(mapping, p, v, saved) + moved


class Implicit(torch.autograd.Function):
    """The eager door: (mapping, backend, z, *params) -> (p, threshold, *residuals)."""

    @staticmethod
    def forward(mapping: Mapping, backend: str | None, z: Tensor, *params: Tensor) -> tuple[Tensor, ...]:
        return mapping.run(z, params, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        mapping, _, _, *params = inputs
        p, threshold, *residuals = output
        ctx.mapping = mapping
        ctx.mark_non_differentiable(threshold, *residuals)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(p, *params, *residuals)
        ctx.save_for_forward(p, *params, *residuals)

    @staticmethod
    def _saved(ctx: Any) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        p, *rest = ctx.saved_tensors
        count = len(ctx.mapping.params)
        return p, tuple(rest[:count]), tuple(rest[count:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        p, params, residuals = Implicit._saved(ctx)
        if grads[0] is None:
            return (None,) * (3 + len(params))
        dz, dparams = vjp(ctx.mapping, p, params, residuals, grads[0], ctx.needs_input_grad[3:])
        return (None, None, dz if ctx.needs_input_grad[2] else None, *dparams)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        p, params, residuals = Implicit._saved(ctx)
        moved = jvp(ctx.mapping, p, params, residuals, tangents[2:])
        return (moved, None, *(None for _ in residuals))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        mapping, backend, z, *params = args
        z, params = batch_first(info.batch_size, in_dims[2:], z, tuple(params))
        outputs = Implicit.apply(mapping, backend, z, *params)
        return outputs, (0,) * len(outputs)


def batch_first(
    size: int, in_dims: tuple[int | None, ...], z: Tensor, params: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Move vmapped dimensions to the front, keeping parameters aligned with the rows of z."""
    z = z.movedim(in_dims[0], 0) if in_dims[0] is not None else z.expand(size, *z.shape)
    aligned = []
    for value, d in zip(params, in_dims[1:], strict=True):
        if d is None:
            aligned.append(value)
            continue
        value = value.movedim(d, 0)
        aligned.append(value.reshape(value.shape[0], *(1,) * (z.dim() - value.dim()), *value.shape[1:]))
    return z, tuple(aligned)


def define_operator(mapping: Mapping) -> torch.library.Library:
    """Register ``tsallis::<name>(z, *params, backend)`` with its fake, autograd and vmap rules. The library object
    keeps it alive.
    """
    name, count = mapping.name, len(mapping.params)
    inputs = ", ".join(["Tensor z", *(f"Tensor {p.name}" for p in mapping.params), "str? backend=None"])
    outputs = ", ".join(["Tensor p", "Tensor threshold", *(f"Tensor {r}" for r in mapping.residuals)])
    library = torch.library.Library(NAMESPACE, "FRAGMENT")
    library.define(f"{name}({inputs}) -> ({outputs})", tags=(torch.Tag.pt2_compliant_tag,))
    qualified = f"{NAMESPACE}::{name}"

    def compute(z: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        params, backend = _split(rest, count)
        signature = dispatch.Signature.of(z, *params)
        return dispatch.choose(name, signature, backend)(z, *params)

    def fake(z: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        p = torch.empty_like(z, memory_format=torch.contiguous_format)
        return (p, z.new_empty(z.shape[:-1]), *(torch.empty_like(p) for _ in mapping.residuals))

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        p, _, *residuals = output
        params, _ = _split(inputs[1:], count)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(p, *params, *residuals)

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        p, *rest = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1 : 1 + count]
        if grads[0] is None:
            return (None,) * (2 + count)
        dz, dparams = vjp(mapping, p, tuple(rest[:count]), tuple(rest[count:]), grads[0], wanted)
        return (dz, *dparams, None)

    def vmap_rule(
        info: Any, in_dims: tuple[int | None, ...], z: Tensor, *rest: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        params, backend = _split(rest, count)
        z, params = batch_first(info.batch_size, in_dims[: 1 + count], z, params)
        results = operator(name)(z, *params, backend)
        return results, (0,) * len(results)

    torch.library.impl(qualified, "CompositeExplicitAutograd", compute, lib=library)
    torch.library.register_fake(qualified, fake, lib=library)
    torch.library.register_autograd(qualified, backward, setup_context=setup_context, lib=library)
    torch.library.register_vmap(qualified, vmap_rule, lib=library)
    return library


def _split(rest: tuple[Any, ...], count: int) -> tuple[tuple[Tensor, ...], str | None]:
    # A schema default may be left out of the arguments an implementation receives.
    return tuple(rest[:count]), rest[count] if len(rest) > count else None


def operator(name: str) -> Any:
    """The registered operator of a mapping."""
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def call(mapping: Mapping, z: Tensor, params: tuple[Tensor, ...], backend: str | None) -> tuple[Tensor, ...]:
    """(p, threshold, *residuals) on rows in the last dimension, through the door that fits the moment."""
    if torch.compiler.is_compiling():
        return operator(mapping.name)(z, *params, backend)
    return Implicit.apply(mapping, backend, z, *params)
