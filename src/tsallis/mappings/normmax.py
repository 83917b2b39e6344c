"""alpha-normmax: the simplex with the alpha-norm."""

from __future__ import annotations

import torch
from jaxtyping import Float, Num
from torch import Tensor

from ..core.domains import Simplex
from ..core.mapping import Mapping, Solved
from ..core.numerics import from_heaviest, row_extreme, safe_log, safe_pow
from ..core.params import Param
from ..core.registry import register
from ..kernels.reference import rows


class Normmax(Mapping):
    name = "normmax"
    summary = "Nearly uniform on the selected entries as alpha grows; argmax as alpha tends to 1."
    latex = r"\|p\|_\alpha - 1"
    domain = Simplex()
    params = (Param("alpha", 2.0, low=1.0, low_open=True, meaning="near 1 is argmax, large is uniform on the support"),)
    reference = "blondel2020learning"

    def omega(self, p: Tensor, **params: Tensor) -> Tensor:
        top, relative = _log_norm(p, params["alpha"])
        return (top * relative.exp() - 1).squeeze(-1)

    def solve(self, z: Tensor, **params: Tensor) -> Solved:
        return Solved(*rows.normmax(z, params["alpha"]))

    def solve_tangent(self, p: Tensor, v: Tensor, **saved: Tensor) -> Tensor:
        # J = [diag(b) - b p' - p b' + (sum b) p p']/(alpha-1) with b = p r^(1-alpha) on the support, r = p/|p|.
        a = saved["alpha"] - 1
        b = p * torch.where(p > 0, (-a * _log_r(p, saved["alpha"])).exp(), 0.0)
        x = from_heaviest(v, p)  # J annihilates constants, here exactly
        moved = b * torch.where(p > 0, x - (p * x).sum(-1, keepdim=True), 0.0)
        return (moved - p * moved.sum(-1, keepdim=True)) / a

    def grad_omega_param(self, p: Tensor, **saved: Tensor) -> dict[str, Tensor]:
        # grad Omega = r^a. At fixed p, d log|p| = (sum r^alpha log r)/alpha, where the r^alpha sum to one.
        alpha = saved["alpha"]
        log_r = _log_r(p, alpha)
        power = torch.where(p > 0, ((alpha - 1) * log_r).exp(), 0.0)
        slope = (power * log_r.exp() * log_r).sum(-1, keepdim=True) / alpha
        return {"alpha": power * (log_r - (alpha - 1) * slope)}

    def tau(self, threshold: Tensor, **params: Tensor) -> Tensor:
        return threshold


def _log_norm(p: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """(P, log |p/P|) with P = max p factored out: p^alpha underflows for large alpha, (p/P)^alpha sums to 1 or more."""
    top = row_extreme(p)
    top = torch.where(top > 0, top, 1.0)
    return top, safe_log(safe_pow(p / top, alpha).sum(-1, keepdim=True)) / alpha


def _log_r(p: Tensor, alpha: Tensor) -> Tensor:
    """log of r = p/|p| on the support, else 0."""
    top, relative = _log_norm(p, alpha)
    return torch.where(p > 0, safe_log(p / top) - relative, 0.0)


NORMMAX = register(Normmax())


def normmax(
    z: Num[Tensor, "*shape"],
    alpha: float | Num[Tensor, ...] = 2.0,
    dim: int = -1,
    *,
    mask: Tensor | None = None,
    backend: str | None = None,
) -> Float[Tensor, "*shape"]:
    r"""Select entries, and weigh the selected ones more evenly the larger alpha is.

    $$p = \arg\max_{p \in \triangle} \langle p, z \rangle - \|p\|_\alpha$$

    With $y_i = [z_i - \tau]_+^{1/(\alpha-1)}$ and $\sum_i y_i^\alpha = 1$ the solution is $p = y / \sum_i y_i$.

    Args:
        z: scores, (..., n) with n at `dim`. Integers are promoted to the default dtype.
        alpha: in (1, inf). A number, or a tensor that broadcasts to z with size 1 at `dim`, with gradient.
        dim: the dimension that sums to one.
        mask: boolean, broadcastable to z, True = keep. Other entries are never read and get probability 0; a row
            without a kept entry is all zero.
        backend: name of the backend to use; None chooses (`ts.explain_backend`).

    Returns:
        p, with the shape and dtype of z. A row with a NaN, a +inf or an inadmissible alpha is NaN; other rows are
        untouched.

    Raises:
        ParameterError: a Python alpha <= 1 or not finite.
        ShapeError: z without dimensions, `dim` out of range, or alpha or mask that do not broadcast.

    Differentiability:
        any order in z and alpha, forward and reverse mode; a one-hot result has derivative 0.

    Complexity:
        O(n) per row and sweep of a monotone Newton method. Memory: one saved tensor.

    Example:
        >>> import torch, tsallis as ts
        >>> ts.normmax(torch.tensor([-2.0, 0.0, 0.5]))
        tensor([0.0000, 0.3110, 0.6890])

    References:
        blondel2020learning
    """
    return NORMMAX(z, dim, mask=mask, backend=backend, alpha=alpha)
