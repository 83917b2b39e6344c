"""The row policy, once: which rows may be solved, and what the others become."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active as are_transforms_active

from .numerics import compute_dtype
from .settings import DEBUG
from .status import Outcome

if TYPE_CHECKING:
    from .dispatch import KernelFunction
    from .mapping import Mapping
    from .params import Param


def debugging(z: Tensor) -> bool:
    """Whether outcomes are to be read on the host now. Inside compiled code, function transforms and on the meta device
    there is nothing to read.
    """
    if not DEBUG.value or torch.compiler.is_compiling():
        return False
    return not (are_transforms_active() or z.is_meta)


def row_outcomes(params: tuple[Param, ...], z: Tensor, values: tuple[Tensor, ...]) -> Tensor:
    """The `Outcome` code of each row before solving it, shape (..., 1), int8."""
    kept = (z > -torch.inf).sum(-1, keepdim=True)
    code = torch.full_like(kept, Outcome.SUCCESS, dtype=torch.int8)
    for param, value in zip(params, values, strict=True):
        code = torch.where(param.admissible(value, kept), code, Outcome.PARAMETER_NOT_ADMISSIBLE)
    code = torch.where((z == torch.inf).any(-1, keepdim=True), Outcome.INFINITE_SCORE, code)
    code = torch.where(z.isnan().any(-1, keepdim=True), Outcome.NAN_SCORE, code)
    # NaN is not > -inf, so a row of NaN and -inf has kept = 0 too: it is told apart by the code.
    masked = (kept == 0) & (code != Outcome.NAN_SCORE)
    return torch.where(masked, Outcome.FULLY_MASKED, code).to(torch.int8)


def guarded(mapping: Mapping) -> KernelFunction:
    """The reference kernel of a mapping: its `solve` in float64 on the admissible rows, the policy on the others."""

    def kernel(z: Tensor, *params: Tensor) -> tuple[Tensor, ...]:
        if z.shape[-1] == 0:
            return (z.clone(), z.new_zeros(z.shape[:-1]), *(z.clone() for _ in mapping.residuals))
        dtype = compute_dtype(z)
        code = row_outcomes(mapping.params, z, params)
        fine, masked = code == Outcome.SUCCESS, code == Outcome.FULLY_MASKED
        values = {
            param.name: torch.where(fine, value.to(dtype), param.stand_in)
            for param, value in zip(mapping.params, params, strict=True)
        }
        solved = mapping.solve(torch.where(fine, z.to(dtype), 0.0), **values)
        threshold = solved.threshold if solved.threshold is not None else torch.zeros_like(solved.p[..., 0])
        filler = torch.where(masked, 0.0, torch.nan)
        row_filler = torch.where(masked, -torch.inf, torch.nan)
        p = torch.where(fine, solved.p, filler).to(z.dtype)
        threshold = torch.where(fine, threshold.unsqueeze(-1), row_filler).squeeze(-1).to(z.dtype)
        return (p, threshold, *(torch.where(fine, r, filler).to(z.dtype) for r in solved.residuals))

    return kernel
