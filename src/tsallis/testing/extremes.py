"""Laws of large parameters: nothing overflows, the constraints hold, and the limit is approached."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .harness import Setting, law, require
from .inputs import FAMILIES, draw
from .laws import columns, objective

ROWS = 4
LARGE = (10.0, 100.0, 1000.0)


def large_settings(setting: Setting) -> Iterator[Setting]:
    """The setting with each parameter of Omega that is not bounded above raised far."""
    for param in setting.mapping.params:
        if param.role == "omega" and param.high == float("inf"):
            for value in LARGE:
                yield Setting(setting.mapping, setting.values | {param.name: value})


@law(every_setting=False)
def large_parameters(setting: Setting) -> None:
    """With parameters of 10 to 1000 p is finite and feasible, beats the linear optimum (so it tends to it where Omega
    vanishes), and is constant in directions that shift all scores.
    """
    cases = ((6, 1e-2, torch.float64), (6, 1.0, torch.float32), (65, 1.0, torch.float64), (65, 1e-2, torch.float32))
    for large in large_settings(setting):
        for name in FAMILIES:
            for n, scale, dtype in cases:
                z = draw(name, ROWS, n, dtype=dtype) * scale
                _check_value(large, z, f"{large}, {name} times {scale:g}, n={n}, {dtype}")


def _check_value(setting: Setting, z: Tensor, where: str) -> None:
    p = setting(z)
    require(p.isfinite(), f"{where}: not finite")
    # As in `feasible`: what adding n rounded numbers loses.
    tolerance = 16 * torch.finfo(z.dtype).eps * z.shape[-1] ** 0.5 * max(1.0, float(p.sum(-1).max()))
    excess = setting.mapping.domain.violation(p.double(), **columns(setting, z.double()))
    require(excess <= tolerance, f"{where}: constraint violated by {float(excess.max()):.3g}")
    leaf = z.clone().requires_grad_()
    best = setting.mapping.domain.support_function(leaf, **columns(setting, z))
    (vertex,) = torch.autograd.grad(best.sum(), leaf)
    shortfall = objective(setting, z, vertex) - objective(setting, z, p)
    # Both sums have n terms, of the size of the scores and of Omega.
    size = 1 + (p * z).abs().sum(-1) + setting.mapping.omega(p, **setting.tensors(z)).abs()
    rounding = 16 * torch.finfo(z.dtype).eps * z.shape[-1] ** 0.5 * size
    require(shortfall <= rounding, f"{where}: the linear optimum is better by {float(shortfall.max()):.3g}")


@law(every_setting=False)
def large_parameters_gradients(setting: Setting) -> None:
    """With parameters of 10 to 1000 no derivative is NaN: what is beyond the range of the dtype is infinite, what is
    not is finite, and 0 in directions that shift all scores and for results without freedom.
    """
    seen = 0
    for large in large_settings(setting):
        for name in FAMILIES:
            for scale, dtype in ((1e-2, torch.float64), (1e-2, torch.float32), (1.0, torch.float32)):
                z = (draw(name, ROWS, 6, dtype=dtype) * scale).requires_grad_()
                seen += _check_gradient(large, z, f"{large}, {name} times {scale:g}, {dtype}")
    require(seen > 0 or not list(large_settings(setting)), "no finite gradient but zero: the check would be vacuous")


def _check_gradient(setting: Setting, z: Tensor, where: str) -> int:
    function, values = setting.with_tensors(z)
    leaves = (z, *(v.expand(ROWS, 1).clone().requires_grad_() for v in values))
    p = function(z, *leaves[1:])
    weights = torch.arange(1.0, z.shape[-1] + 1, dtype=z.dtype).cos()
    dz, *rest = torch.autograd.grad((p * weights).sum(), leaves, retain_graph=True)
    require(~dz.isnan(), f"{where}: NaN in the gradient of the scores")
    for name, d in zip(setting.differentiable(), rest, strict=True):
        require(~d.isnan(), f"{where}: NaN in the gradient of {name}")
    if setting.mapping.domain.fixed_sum:
        (still,) = torch.autograd.grad(p.sum(), z)
        require(still == 0, f"{where}: the sum of p has a gradient")
        single = (p > 0).sum(-1) == 1
        require(dz[single] == 0, f"{where}: a result of one entry has a gradient")
    return int(((dz != 0) & dz.isfinite()).sum())
