"""The Fenchel-Young loss of any mapping."""

from __future__ import annotations

import torch
from jaxtyping import Float, Num
from torch import Tensor

from ..core.domains import Simplex
from ..core.errors import ShapeError
from ..core.fenchel_young import fenchel_young
from ..core.inputs import check_tensor
from ..core.mapping import Mapping
from ..core.registry import get
from .targets import Reduction, reduce, some_class
from .terms import existing


def fenchel_young_loss(
    mapping: str | Mapping,
    z: Num[Tensor, "*shape"],
    target: Num[Tensor, ...],
    dim: int = -1,
    *,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    backend: str | None = None,
    **params: float | Tensor,
) -> Float[Tensor, "*loss"]:
    r"""How far a mapping's result is from a target, convex in the scores.

    $$L_\Omega(z; t) = \Omega^*(z) + \Omega(t) - \langle t, z \rangle \ge 0, \qquad \nabla_z L_\Omega = p(z) - t$$

    Zero iff p(z) = t. For one-hot targets of the entmax family it equals `entmax_loss`; for other targets it is smaller
    by their entropy.

    Args:
        mapping: a registered name, or a mapping.
        z: scores, (..., n) with n at `dim`.
        target: a point of the mapping's domain, of the shape of z; or, on the simplex, class indices of the shape of z
            without `dim`.
        dim: the dimension the mapping works along.
        mask: boolean, broadcastable to z, True = keep. Target mass on other entries makes the loss infinite.
        reduction: "mean", "sum" or "none".
        backend: name of the backend to use; None chooses.
        **params: the mapping's parameters, as in its function.

    Returns:
        a scalar, or one loss per row. A class index that does not exist, a NaN or +inf score, and a tensor entry of a
        parameter out of range give NaN for their row, in value and gradient; `ts.debug_checks` raises there.

    Raises:
        RegistryError, ParameterError, ShapeError: unknown mapping, inadmissible parameter (among them alpha = 0, whose
            entropy is not finite), shapes that do not fit, or no class.

    Differentiability:
        any order in z, in the target and in the parameters; the Hessian in z is the mapping's Jacobian. First order in
        a program made by `torch.export`.

    Complexity:
        the mapping's, plus two passes.

    Example:
        >>> import torch, tsallis as ts
        >>> ts.fenchel_young_loss("normmax", torch.tensor([[-1.0, 0.0, 0.5, 1.2]]), torch.tensor([3]))
        tensor(0.0356)

    References:
        blondel2020learning
    """
    found = get(mapping)
    rows, values = found.prepare(z, dim, mask, dict(params), loss=True)
    t = _points(found, check_tensor(target, "Target"), z, dim, some_class(rows)).to(rows.dtype)
    loss = reduce(fenchel_young(found, rows, t, values, backend), reduction)
    return loss.to(z.dtype if z.is_floating_point() else rows.dtype)


def _points(mapping: Mapping, target: Tensor, z: Tensor, dim: int, rows: Tensor) -> Tensor:
    if target.is_floating_point() and target.shape == z.shape:
        return target.movedim(dim, -1)
    batch = list(z.shape)
    n = batch.pop(dim)
    if target.is_floating_point() or list(target.shape) != batch or not isinstance(mapping.domain, Simplex):
        raise ShapeError(
            f"Target of shape {tuple(target.shape)}, {target.dtype}, for scores of shape {tuple(z.shape)}, dim={dim}",
            f"a point of the domain of {mapping.name}, of the scores' shape (or class indices, on the simplex)",
            "Pass floating targets of that shape",
        )
    point = (torch.arange(n, device=target.device) == target.unsqueeze(-1)).to(rows.dtype)
    return torch.where(existing(target, n).unsqueeze(-1), point, torch.nan)
