"""Laws of derivatives: finite differences, second order, the Jacobian's structure, parameters."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from ..core.errors import ParameterError, ShapeError
from ..core.params import Param
from ..core.status import Outcome
from .harness import CheckFailed, Setting, law, require, require_close, require_raises
from .inputs import draw

N = 5


def smooth_scores(setting: Setting, rows: int = 3) -> Tensor:
    """Scores at which the mapping is smooth over the steps of finite differences: no entry close to entering or
    leaving the support.
    """
    for seed in range(200):
        z = draw("normal", rows, N, seed=seed)
        p = setting(z)
        inside = p[(p > 0) & (p < 1)]
        uneven = p.amax(-1) - torch.where(p > 0, p, torch.inf).amin(-1)
        # Entries just outside the support would enter it under a small push: push every entry and compare supports.
        pushes = [setting(z + sign * 0.02 * torch.eye(N)[i].to(z)) for i in range(N) for sign in (1, -1)]
        stable = all(bool(((q > 0) == (p > 0)).all()) and bool(((q < 1) == (p < 1)).all()) for q in pushes)
        if stable and inside.numel() > rows and bool((inside > 0.01).all()) and bool((uneven > 1e-3).any()):
            return z
    raise CheckFailed("no smooth inputs with a non-trivial support found: a check of gradients would be vacuous")


@law()
def first_derivatives(setting: Setting) -> None:
    """Finite differences confirm the gradient in z and in every parameter, in reverse, forward and batched mode."""
    z = smooth_scores(setting).requires_grad_()
    function, values = setting.with_tensors(z)
    leaves = tuple(v.requires_grad_() for v in values)
    (grad,) = torch.autograd.grad((function(z, *leaves) * torch.arange(N)).sum(), z)
    require(grad.abs().max() > 1e-3, "gradient is zero: the check would be vacuous")
    passed = gradcheck(
        function,
        (z, *leaves),
        raise_exception=False,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )
    require(passed, "gradcheck failed")


@law()
def second_derivatives(setting: Setting) -> None:
    """Finite differences of the gradient confirm the second derivative, mixed ones included."""
    z = smooth_scores(setting, rows=2).requires_grad_()
    function, values = setting.with_tensors(z)
    leaves = tuple(v.requires_grad_() for v in values)
    require(gradgradcheck(function, (z, *leaves), raise_exception=False), "gradgradcheck failed")


@law(every_setting=False)
def second_derivatives_at_zeros(setting: Setting) -> None:
    """Differentiating the gradient gives finite numbers (zeros where the mapping is linear) also where p has zeros."""
    z = draw("peaked", 4, N).requires_grad_()
    for loss in (setting(z).square().sum(), (setting(z) * torch.arange(N)).sum()):
        (grad,) = torch.autograd.grad(loss, z, create_graph=True)
        require(
            grad.requires_grad, "the gradient of a linear function of p has no graph: differentiating it again raises"
        )
        (second,) = torch.autograd.grad(grad.square().sum(), z)
        require(second.isfinite(), "second derivative is not finite")


@law()
def jacobian(setting: Setting) -> None:
    """J = dp/dz is symmetric and positive semi-definite; its rows sum to zero where the domain fixes the sum; both
    modes agree.
    """
    z = smooth_scores(setting, rows=1)[0]
    J = torch.func.jacrev(setting)(z)
    require_close(torch.func.jacfwd(setting)(z), J, 1e-12, "forward against reverse mode")
    require_close(J, J.T, 1e-12, "J against its transpose")
    require(torch.linalg.eigvalsh((J + J.T) / 2) >= -1e-12, "J has a negative eigenvalue")
    require(J.abs().max() > 1e-3, "J is zero: the check would be vacuous")
    if setting.mapping.domain.fixed_sum:
        require_close(J.sum(-1), torch.zeros(N, dtype=J.dtype), 1e-12, "row sums of J")


def _outside(param: Param) -> list[float]:
    below = [param.low - 0.5] if param.low > float("-inf") else []
    return [*below, *([param.low] if param.low_open else []), float("nan"), float("inf")]


@law(every_setting=False)
def parameters(setting: Setting) -> None:
    """Each parameter may be a tensor per row with its own gradient; values out of range raise if Python numbers, else
    spoil only their row.
    """
    z = smooth_scores(setting)
    for param in setting.mapping.params:
        first = setting.values[param.name]
        column = torch.tensor([[first], [first + (1 if param.role == "selection" else 0.25)], [first]], dtype=z.dtype)
        _check_rows(setting, param, z, column)
        for value in _outside(param):
            require_raises(lambda v=value, p=param: setting.at(z, p.name, v), ParameterError, f"{param.name}={value}")
            spoilt = column.clone()
            spoilt[1] = value
            p = setting.at(z, param.name, spoilt)
            require(p[1].isnan(), f"{param.name}={value} in one row: not NaN")
            require_close(
                p[[0, 2]],
                setting.at(z, param.name, column)[[0, 2]],
                0.0,
                f"{param.name}={value} in one row: other rows",
            )
            codes = setting.mapping.solution(z, **{**setting.values, param.name: spoilt}).result.codes
            require(
                codes[1] == Outcome.PARAMETER_NOT_ADMISSIBLE,
                f"{param.name}={value}: the outcome does not name the reason",
            )
        require_raises(
            lambda p=param: setting.at(z, p.name, torch.ones(2, 2)),
            ShapeError,
            f"{param.name} of a shape that does not fit",
        )
        require_raises(lambda p=param: setting.at(z, p.name, "1.5"), ParameterError, f"{param.name} as text")


def _check_rows(setting: Setting, param: Param, z: Tensor, column: Tensor) -> None:
    together = setting.at(z, param.name, column)
    apart = torch.stack([setting.at(row, param.name, float(value)) for row, value in zip(z, column, strict=True)])
    require_close(together, apart, 1e-12, f"{param.name} per row")
    moved = setting.at(z.T, param.name, column.T, dim=0)
    require_close(moved.T, together, 1e-14, f"{param.name} per row with dim=0")
    narrow = setting.at(z.float(), param.name, column)
    require(narrow.dtype == torch.float32, f"a float64 {param.name} turned float32 scores into {narrow.dtype}")
    if param.role == "selection":
        require_raises(
            lambda: setting.at(z, param.name, column.clone().requires_grad_()),
            ParameterError,
            f"{param.name} with a gradient",
        )
        return
    for value in (column, column[:1], torch.tensor(setting.values[param.name]), column.float()):
        leaf = value.detach().clone().requires_grad_()
        # Weights whose differences are not the same: exchanges between entries must not cancel over rows.
        (grad,) = torch.autograd.grad((setting.at(z, param.name, leaf) * torch.arange(N).square()).sum(), leaf)
        require(
            grad.shape == leaf.shape and grad.dtype == leaf.dtype, f"{param.name}: gradient of another shape or dtype"
        )
        require(grad.abs().max() > 1e-6, f"{param.name} gets no gradient")
