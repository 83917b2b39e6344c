"""Laws of what is derived from a mapping: its Fenchel-Young loss and its keywords."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import losses
from ..core.errors import BackendError, ParameterError
from ..core.fenchel_young import conjugate
from .gradients import smooth_scores
from .harness import Setting, law, require, require_close, require_raises
from .inputs import FAMILIES, draw

ROWS, N = 4, 6


def _loss(setting: Setting, z: Tensor, t: Tensor, **keywords: object) -> Tensor:
    return losses.fenchel_young_loss(setting.mapping, z, t, reduction="none", **{**setting.values, **keywords})


@law()
def loss_bounds(setting: Setting) -> None:
    """The Fenchel-Young loss is never negative, zero at t = p(z), positive at other feasible points, and finite with
    -inf scores.
    """
    generator = torch.Generator().manual_seed(4)
    for name in FAMILIES:
        for dtype in (torch.float64, torch.float32):
            z = draw(name, ROWS, N, dtype=dtype)
            p = setting(z)
            columns = {k: v.reshape(1, 1) for k, v in setting.tensors(z).items()}
            t = setting.mapping.domain.sample(z, generator, **columns)
            loss, zero = _loss(setting, z, t), _loss(setting, z, p)
            tolerance = 64 * torch.finfo(dtype).eps * (1 + z.abs().amax(-1))
            require(loss >= 0, f"{name}, {dtype}: negative loss")
            require((zero >= 0) & (zero <= tolerance), f"{name}, {dtype}: loss {float(zero.max()):.3g} at t = p(z)")
            far = (t - p).abs().amax(-1) > 0.05
            require(loss[far] > tolerance[far], f"{name}, {dtype}: zero loss although t differs from p(z)")
    z = draw("normal", ROWS, N + 1)
    t = setting(z[:, 1:])
    z[:, 0] = float("-inf")
    loss = _loss(setting, z, torch.cat([torch.zeros(ROWS, 1, dtype=z.dtype), t], -1))
    require(loss.isfinite() & (loss <= 1e-12), "a score of -inf without target mass must not enter the loss")


@law()
def loss_derivatives(setting: Setting) -> None:
    """The loss has gradient p - t and Hessian J, exactly; finite differences confirm both, and the derivatives in
    parameters and t.
    """
    z = smooth_scores(setting, rows=2)
    t = setting(draw("normal", 2, z.shape[-1], seed=9)).detach()
    leaf = z.clone().requires_grad_()
    (grad,) = torch.autograd.grad(_loss(setting, leaf, t).sum(), leaf, create_graph=True)
    require_close(grad.detach(), setting(z) - t, 1e-12, "gradient against p - t")
    hessian = torch.func.hessian(lambda row: _loss(setting, row, t[0]))(z[0])
    require_close(hessian, torch.func.jacrev(setting)(z[0]), 1e-10, "Hessian against J")
    # The conjugate has the mapping's parameters as variables without a target that would have to stay feasible as they
    # move.
    mapping = setting.mapping
    values = tuple(
        v.requires_grad_(p.role != "selection")
        for p, v in zip(mapping.params, setting.tensors(z).values(), strict=True)
    )

    def smooth(z: Tensor, *values: Tensor) -> Tensor:
        return conjugate(mapping, z, values)

    require(
        torch.autograd.gradcheck(
            smooth, (leaf, *values), raise_exception=False, check_forward_ad=True, check_batched_grad=True
        ),
        "gradcheck of the conjugate failed",
    )
    require(
        torch.autograd.gradgradcheck(smooth, (leaf, *values), raise_exception=False),
        "gradgradcheck of the conjugate failed",
    )


@law(every_setting=False, slow=True)
def loss_compiles(setting: Setting) -> None:
    """The loss is one graph for torch.compile, with its eager value and gradient."""
    z = draw("normal", ROWS, N).requires_grad_()
    t = setting(draw("normal", ROWS, N, seed=5)).detach()
    values = {
        name: value.requires_grad_(name in setting.differentiable()) for name, value in setting.tensors(z).items()
    }
    leaves = (z, *(v for v in values.values() if v.requires_grad))

    def work(z: Tensor) -> Tensor:
        return _loss(setting, z, t, **values).sum()

    torch.compiler.reset()
    compiled = torch.compile(work, fullgraph=True, backend="aot_eager")(z)
    expected = work(z)
    require_close(compiled.detach(), expected.detach(), 1e-12, "compiled loss")
    for a, b in zip(torch.autograd.grad(compiled, leaves), torch.autograd.grad(expected, leaves), strict=True):
        require_close(a, b, 1e-12, "compiled gradient of the loss")
    torch.compiler.reset()
    with torch.no_grad():
        constant = torch.compile(work, fullgraph=True, backend="aot_eager")(z)
    require_close(constant, expected.detach(), 1e-12, "compiled loss without gradients")
    torch.compiler.reset()


@law(every_setting=False, slow=True)
def loss_exports(setting: Setting) -> None:
    """torch.export accepts the loss, with gradients on or off, and the exported program has its value and gradients."""
    names = setting.differentiable()

    class Module(torch.nn.Module):
        def forward(self, z: Tensor, t: Tensor, *values: Tensor) -> Tensor:
            return _loss(setting, z, t, **dict(zip(names, values, strict=True))).sum()

    z = draw("normal", ROWS, N).requires_grad_()
    start = setting.tensors(z)
    leaves = (z, *(start[name].requires_grad_() for name in names))
    arguments = (z, setting(draw("normal", ROWS, N, seed=5)).detach(), *leaves[1:])
    expected = Module()(*arguments)
    gradients = torch.autograd.grad(expected, leaves)
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            program = torch.export.export(Module(), arguments).module()
        got = program(*arguments)
        require_close(got, expected, 1e-12, "exported loss")
        if enabled:
            for a, b in zip(torch.autograd.grad(got, leaves), gradients, strict=True):
                require_close(a, b, 1e-12, "gradient of the exported loss")


@law(every_setting=False)
def keywords(setting: Setting) -> None:
    """Each keyword changes the output or raises: dim, mask, backend, every parameter, and unknown ones."""
    z = draw("normal", N, N)
    p = setting(z)
    if setting.mapping.domain.fixed_sum:  # without a constraint that couples entries, every dim is the same
        require((setting(z, 0) - p).abs().max() > 1e-3, "dim is ignored")
    mask = torch.ones(N, N, dtype=torch.bool)
    mask[:, 0] = False
    require((setting(z, mask=mask) - p).abs().max() > 1e-3, "mask is ignored")
    require_raises(lambda: setting(z, backend="nowhere"), BackendError, "backend")
    require_raises(lambda: setting(z, no_such_keyword=1), ParameterError, "an unknown keyword")
    for param in setting.mapping.params:
        other = setting.values[param.name] + (1 if param.role == "selection" else 0.3)
        moved = [setting.at(x, param.name, other) - setting(x) for x in (draw("flat", N, N), z)]
        require(torch.stack(moved).abs().max() > 1e-4, f"{param.name} is ignored")
        if param.default is None:
            rest = {k: v for k, v in setting.values.items() if k != param.name}
            require_raises(lambda r=rest: setting.mapping(z, **r), ParameterError, f"{param.name} left out")
