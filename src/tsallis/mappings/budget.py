"""Budget: choose k entries, softly, with no entry above one."""

from __future__ import annotations

import torch
from jaxtyping import Float, Num
from torch import Tensor

from ..core.domains import CappedSimplex
from ..core.mapping import SeparableMapping, Solved
from ..core.numerics import power_shares, safe_pow, tsallis_log_slope, tsallis_negentropy
from ..core.params import Param
from ..core.registry import register
from ..kernels.reference import rows


class Budget(SeparableMapping):
    name = "budget"
    summary = "At most one unit per entry, k units in all: soft selection of k entries."
    latex = r"\frac{1}{\alpha(\alpha-1)} \sum_i (p_i^\alpha - p_i)"
    domain = CappedSimplex()
    params = (
        Param(
            "k", None, role="domain", low=0.0, low_open=True, at_most_kept=True, meaning="the sum of p; any real number"
        ),
        Param("alpha", 2.0, low=0.0, low_in_losses=False, meaning="as in entmax"),
    )
    reference = "martins2017learning"

    def omega(self, p: Tensor, **params: Tensor) -> Tensor:
        return tsallis_negentropy(p, params["alpha"]).sum(-1)

    def solve(self, z: Tensor, **params: Tensor) -> Solved:
        return Solved(*rows.budget(z, params["k"], params["alpha"]))

    def weight(self, p: Tensor, **params: Tensor) -> Tensor:
        return safe_pow(_free(p), 2 - params["alpha"])

    def share(self, p: Tensor, **params: Tensor) -> Tensor:
        return power_shares(_free(p), 2 - params["alpha"])

    def grad_omega_param(self, p: Tensor, **saved: Tensor) -> dict[str, Tensor]:
        return {"alpha": tsallis_log_slope(p, saved["alpha"])}

    def domain_tangent(self, p: Tensor, **saved: Tensor) -> dict[str, Tensor]:
        # A larger budget lowers the threshold, and free entries rise in proportion to their weight. At a kink (none is
        # free): 0.
        return {"k": self.share(p, alpha=saved["alpha"])}

    def tau(self, threshold: Tensor, **params: Tensor) -> Tensor:
        return (params["alpha"] - 1) * threshold - 1


def _free(p: Tensor) -> Tensor:
    return torch.where(p < 1, p, 0.0)


BUDGET = register(Budget())


def budget(
    z: Num[Tensor, "*shape"],
    k: float | Num[Tensor, ...],
    alpha: float | Num[Tensor, ...] = 2.0,
    dim: int = -1,
    *,
    mask: Tensor | None = None,
    backend: str | None = None,
) -> Float[Tensor, "*shape"]:
    r"""Spend a budget of k on the entries, at most one unit on each.

    $$p = \arg\max_{0 \le p \le 1,\ \sum_i p_i = k} \langle p, z \rangle - \frac{1}{\alpha(\alpha-1)} \sum_i (p_i^\alpha
    - p_i)$$

    whose solution is $p_i = \min(1, [1 + (\alpha-1)(z_i - \lambda)]_+^{1/(\alpha-1)})$; entmax for k = 1.

    Args:
        z: scores, (..., n) with n at `dim`. Integers are promoted to the default dtype.
        k: in (0, n], real. A number, or a tensor that broadcasts to z with size 1 at `dim`, with gradient. k = number
            of kept entries gives ones.
        alpha: in [0, inf), like k; 2 gives clip(z - tau, 0, 1).
        dim: the dimension that sums to k.
        mask: boolean, broadcastable to z, True = keep. Other entries are never read and get 0; a row without a kept
            entry is all zero.
        backend: name of the backend to use; None chooses (`ts.explain_backend`).

    Returns:
        p, with the shape and dtype of z. A row with a NaN, a +inf, or k or alpha out of range (k above its kept
        entries) is NaN; others are untouched.

    Raises:
        ParameterError: a Python k <= 0, k > n, alpha < 0, or one that is not finite.
        ShapeError: z without dimensions, `dim` out of range, or k, alpha or mask that do not broadcast.

    Differentiability:
        any order in z, k and alpha, forward and reverse mode. Where no entry lies strictly between 0 and 1 the
        derivative is 0 by convention. For large alpha it may be beyond the range of the dtype: then it is infinite.

    Complexity:
        O(n log n) per row, one sort, then O(n) per sweep. Memory: one saved tensor.

    Example:
        >>> import torch, tsallis as ts
        >>> ts.budget(torch.tensor([-1.0, 0.0, 0.5, 1.2]), 2)
        tensor([0.0000, 0.2500, 0.7500, 1.0000])

    References:
        martins2017learning
    """
    return BUDGET(z, dim, mask=mask, backend=backend, k=k, alpha=alpha)
