"""Laws of composition: vmap, compile, export, operator checks, backends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from ..core import dispatch
from ..core.errors import BackendError
from ..core.implicit import operator
from .harness import Setting, law, require, require_close, require_raises
from .inputs import FAMILIES, draw

N = 5


def _named(names: list[str], values: tuple[Tensor, ...]) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))


@law()
def vmap(setting: Setting) -> None:
    """vmap over rows, over other dimensions and over parameters equals the batched call; so do its Jacobians."""
    z = draw("normal", 4, N)
    function, values = setting.with_tensors(z)
    expected = function(z, *values)
    none = (None,) * len(values)
    require_close(torch.vmap(function, (0, *none))(z, *values), expected, 1e-14, "over rows")
    require_close(torch.vmap(function, (1, *none))(z.T, *values), expected, 1e-14, "over the second dimension")
    nested = torch.vmap(torch.vmap(function, (0, *none)), (0, *none))
    require_close(nested(z.reshape(2, 2, N), *values), expected.reshape(2, 2, N), 1e-14, "nested")
    for i in range(len(values)):
        per_row = tuple(v.expand(4) if i == j else v for j, v in enumerate(values))
        axes = tuple(0 if i == j else None for j in range(len(values)))
        require_close(
            torch.vmap(function, (0, *axes))(z, *per_row), expected, 1e-14, "over a parameter beside the rows"
        )
        require_close(
            torch.vmap(function, (None, *axes))(z[0], *per_row),
            expected[:1].expand(4, N),
            1e-14,
            "over a parameter alone",
        )
    whole = torch.func.jacrev(function)(z, *values)
    rows = torch.vmap(torch.func.jacrev(function), (0, *none))(z, *values)
    require_close(torch.stack([whole[i, :, i] for i in range(4)]), rows, 1e-14, "Jacobians per row")


@contextmanager
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    try:
        yield
    finally:
        torch.compiler.reset()


class _Count:
    """A compiler backend that counts the graphs it is given and runs them as they are."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, module: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        self.graphs += 1
        return module.forward


@law(every_setting=False, slow=True)
def compiles(setting: Setting) -> None:
    """torch.compile makes one graph with the eager values and gradients, and other parameter values do not compile it
    again.
    """
    z = draw("normal", 4, N).requires_grad_()
    function, values = setting.with_tensors(z)
    leaves = tuple(v.requires_grad_() for v in values)
    mask = torch.ones(N, dtype=torch.bool)
    mask[0] = False
    names = setting.differentiable()

    def work(z: Tensor, *values: Tensor) -> Tensor:
        masked = setting(z, mask=mask, **_named(names, values))
        return (function(z, *values) + masked) * torch.arange(N)

    expected = work(z, *leaves)
    gradients = torch.autograd.grad(expected.square().sum(), (z, *leaves))
    with _fresh_compiler():
        compiled = torch.compile(work, fullgraph=True, backend="aot_eager")
        got = compiled(z, *leaves)
        require_close(got.detach(), expected.detach(), 1e-14, "compiled value")
        for a, b in zip(torch.autograd.grad(got.square().sum(), (z, *leaves)), gradients, strict=True):
            require_close(a, b, 1e-12, "compiled gradient")
    with _fresh_compiler():
        count = _Count()
        compiled = torch.compile(work, fullgraph=True, backend=count)
        for step in (0.0, 0.1, 0.2):
            compiled(*((x + step).detach().requires_grad_() for x in (z, *leaves)))
        require(count.graphs == 1, f"{count.graphs} compilations for one signature")


@law(every_setting=False, slow=True)
def exports(setting: Setting) -> None:
    """torch.export sees one operator, and the exported program gives the same values."""

    class Module(torch.nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return setting(z)

    z = draw("normal", 4, N)
    program = torch.export.export(Module(), (z,))
    ours = [node for node in program.graph.nodes if str(node.target).startswith("tsallis.")]
    require(len(ours) == 1, f"{len(ours)} tsallis operators in the exported graph")
    require_close(program.module()(z), setting(z), 0.0, "exported program")


@law(slow=True)
def operator_contract(setting: Setting) -> None:
    """`torch.library.opcheck` accepts the operator: schema, fake implementation, autograd, AOT dispatch."""
    for dtype in (torch.float32, torch.float64):
        z = draw("normal", 3, N, dtype=dtype).requires_grad_()
        values = [
            v.requires_grad_(p.role != "selection")
            for p, v in zip(setting.mapping.params, setting.tensors(z).values(), strict=True)
        ]
        torch.library.opcheck(operator(setting.mapping.name), (z, *values), {})


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Make `torch.empty` and its kin return NaN, so that a kernel which forgets to write shows."""

    def poison(make: object) -> object:
        def filled(*args: object, **keywords: object) -> Tensor:
            tensor = make(*args, **keywords)  # type: ignore[operator]
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return filled

    with (
        mock.patch.object(torch, "empty", poison(torch.empty)),
        mock.patch.object(torch, "empty_like", poison(torch.empty_like)),
        mock.patch.object(Tensor, "new_empty", poison(Tensor.new_empty)),
    ):
        yield


# Rounding that a float32 kernel may do to the distances of scores from the largest, in units of epsilon.
ROUNDING = 2.0
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-6}


@law()
def backends_agree(setting: Setting) -> None:
    """Every backend that supports a call equals the reference in float64, in value and gradient, at sizes 1 to 1000,
    with memory poisoned: up to 1e-12 in float64; in float32 up to 1e-6, and to what rounding the scores moves the
    result where it depends on them steeply.
    """
    for backend in dispatch.backends(setting.mapping.name):
        device = device_of(setting, backend)
        for name, n, (dtype, tolerance) in product(FAMILIES, (1, 63, 64, 65, 1000), TOLERANCES.items()):
            if device is not None:
                compare_backend(setting, backend, draw(name, 3, n, dtype=dtype), tolerance, device, name)
    require_raises(lambda: setting(torch.zeros(3), backend="no such backend"), BackendError, "an unknown backend")


def device_of(setting: Setting, backend: str) -> str | None:
    """Where this machine can run a backend, if it can."""
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        signature = dispatch.Signature.of(torch.zeros(3, 5, device=device))
        if any(k.backend == backend for k in dispatch.fitting(setting.mapping.name, signature)):
            return device
    return None


def compare_backend(
    setting: Setting, backend: str, z: Tensor, tolerance: float, device: str = "cpu", family: str = ""
) -> None:
    """Raise unless the backend equals the reference in float64 on these rows, in value and gradient."""
    if any(p.at_most_kept for p in setting.mapping.params) and setting.values.get("k", 1) > z.shape[-1]:
        return
    where = f"{backend} on {device}, {family}, n={z.shape[-1]}, {z.dtype}"
    with poisoned_memory():
        results = _value_and_gradients(setting, backend, z.to(device))
    exact = _value_and_gradients(setting, "reference", z.double())
    moved = [torch.zeros_like(x) for x in exact]
    if z.dtype == torch.float32:
        distance = z.double() - z.double().amax(-1, keepdim=True)
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            noise = torch.rand(z.shape, generator=generator, dtype=torch.float64) * 2 - 1
            near = z.double() + noise * ROUNDING * torch.finfo(z.dtype).eps * (1 + distance.abs())
            rounded = _value_and_gradients(setting, "reference", near)
            moved = [torch.maximum(m, (a - b).abs()) for m, a, b in zip(moved, exact, rounded, strict=True)]
    for got, expected, slack in zip(results, exact, moved, strict=True):
        require(got.isfinite(), f"{where}: not finite, or memory left unwritten")
        scale = tolerance * max(1.0, float(expected.abs().max()))
        require_close(got.cpu(), expected, scale + 4 * float(slack.max()), where)


def _value_and_gradients(setting: Setting, backend: str, z: Tensor) -> list[Tensor]:
    z = z.clone().requires_grad_()
    _, values = setting.with_tensors(z)
    names, leaves = setting.differentiable(), tuple(v.detach().clone().requires_grad_() for v in values)
    p = setting(z, backend=backend, **_named(names, leaves))
    weights = torch.arange(z.shape[-1], dtype=z.dtype, device=z.device).cos()
    return [p.detach(), *torch.autograd.grad((p * weights).sum(), (z, *leaves))]
