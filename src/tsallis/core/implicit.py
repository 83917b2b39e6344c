"""Implicit differentiation, once for all mappings, and the operator each mapping becomes.

From p = argmax over C of <p, z> - Omega(p; theta), with J = dp/dz symmetric:

    VJP:  dz = J g,   dtheta = -<g, J d_theta grad Omega(p)>   or, if theta shapes the domain,  dtheta = <g, dp/dtheta>
    JVP:  dp = J (dz - sum d_theta grad Omega dtheta) + sum dp/dtheta dtheta

All are differentiable expressions in p and theta, and p is an output of the operator, so derivatives of every order
follow.

Two doors lead to one formula, `Implicit`: applied directly in eager mode, and as the autograd rule of the operator
``torch.ops.tsallis.<name>`` while torch.compile or torch.export is tracing (Dynamo does not trace a Function with a
jvp, and an operator costs more per call). `torch.library.register_autograd` would not do: under function transforms it
raises, and in forward mode it gives zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.forward_ad import _set_fwd_grad_enabled

from . import dispatch

if TYPE_CHECKING:
    from .mapping import Mapping

NAMESPACE = "tsallis"


def sum_to(total: Tensor, like: Tensor) -> Tensor:
    """The gradient of a parameter from that of its broadcast form."""
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
            # Not -<J g, slope>, the same number: J may be too large to be represented where J slope is not.
            omega = param.role == "omega"
            moved = -_jacobian_times(mapping, p, slopes[param.name], saved) if omega else tangents[param.name]
            grads[i] = sum_to(g * moved, value)
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
    """(mapping, backend, z, *params) -> (p, threshold, *residuals, *params): the differentiation rules, for both doors.

    Parameters come back as outputs because the rules below need them free of the derivative level they work on and
    still attached to all outer ones. Outputs are that; inputs are not.
    """

    @staticmethod
    def forward(mapping: Mapping, backend: str | None, z: Tensor, *params: Tensor) -> tuple[Tensor, ...]:
        return (*mapping.run(z, params, backend), *(t.clone() for t in params))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mapping = inputs[0]
        first = 2 + len(ctx.mapping.residuals)
        ctx.mark_non_differentiable(*output[1:first])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[0], *output[2:])
        ctx.save_for_forward(output[0], *output[2:])

    @staticmethod
    def _saved(ctx: Any) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        p, *rest = ctx.saved_tensors
        count = len(ctx.mapping.residuals)
        return p, tuple(rest[count:]), tuple(rest[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        p, params, residuals = Implicit._saved(ctx)
        dparams = list(grads[2 + len(residuals) :])
        dz = None
        if grads[0] is not None:
            dz, shares = vjp(ctx.mapping, p, params, residuals, grads[0], ctx.needs_input_grad[3:])
            dparams = [_add(a, b) for a, b in zip(dparams, shares, strict=True)]
        return (None, None, dz, *dparams)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        p, params, residuals = Implicit._saved(ctx)
        # PyTorch calls this with forward mode switched off, which would make an outer jvp silently zero.
        with _set_fwd_grad_enabled(True):
            moved = jvp(ctx.mapping, p, params, residuals, tangents[2:])
            return (moved, None, *(None for _ in residuals), *tangent_copies(params, tangents[3:]))

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *args: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
        mapping, backend, z, *params = args
        z, moved = batch_first(info.batch_size, in_dims[2:], z, tuple(params))
        outputs = Implicit.apply(mapping, backend, z, *moved)[: 2 + len(mapping.residuals)]
        return (*outputs, *(t.clone() for t in params)), ((0,) * len(outputs) + in_dims[3:])


class Recorded(Implicit):
    """The same for the operator's own autograd rule: the forward pass stays visible to whoever traces operators."""

    @staticmethod
    def forward(mapping: Mapping, backend: str | None, z: Tensor, *params: Tensor) -> tuple[Tensor, ...]:
        # Derivatives of outer levels are recorded by the calls below this one, so their modes must be on.
        with torch.enable_grad(), _set_fwd_grad_enabled(True), torch._C._AutoDispatchBelowAutograd():
            return (*operator(mapping.name)(z, *params, backend), *(t.clone() for t in params))

    @classmethod
    def at_this_level(cls, *args: Any) -> tuple[Tensor, ...]:
        """`apply` for code that already runs at one functorch level, inside the dispatcher."""
        plain = cast(Any, super(torch.autograd.Function, cls))  # Function.apply without its functorch branch
        with enable_single_level_autograd_function():
            return plain.apply(*args)


def tangent_copies(outputs: tuple[Tensor, ...], tangents: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
    """Tangents of outputs that copy inputs. A differentiable output must have one, if only zero."""
    return tuple(torch.zeros_like(x) if t is None else t.clone() for x, t in zip(outputs, tangents, strict=True))


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


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

    def differentiable(z: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        params, backend = _split(rest, count)
        return Recorded.at_this_level(mapping, backend, z, *params)[: 2 + len(mapping.residuals)]

    def vmap_rule(
        info: Any, in_dims: tuple[int | None, ...], z: Tensor, *rest: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        params, backend = _split(rest, count)
        z, params = batch_first(info.batch_size, in_dims[: 1 + count], z, params)
        results = operator(name)(z, *params, backend)
        return results, (0,) * len(results)

    torch.library.impl(qualified, "CompositeExplicitAutograd", compute, lib=library)
    torch.library.register_fake(qualified, fake, lib=library)
    library.impl(name, differentiable, "Autograd")
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
    # On the meta device there is nothing to compute: the operator's fake implementation gives the shapes.
    if torch.compiler.is_compiling() or z.is_meta:
        return operator(mapping.name)(z, *params, backend)
    return Implicit.apply(mapping, backend, z, *params)[: 2 + len(mapping.residuals)]
