"""alpha-entmax: the simplex with the Tsallis alpha-entropy."""

from __future__ import annotations

from jaxtyping import Float, Num
from torch import Tensor

from ..core.domains import Simplex
from ..core.mapping import SeparableMapping, Solved
from ..core.numerics import power_shares, safe_pow, tsallis_log_slope, tsallis_negentropy
from ..core.params import Param
from ..core.registry import register
from ..kernels.reference import rows


class Entmax(SeparableMapping):
    name = "entmax"
    summary = "Sparse for alpha > 1, softmax at alpha = 1, dense below; alpha may be learned."
    latex = r"\frac{1}{\alpha(\alpha-1)} \sum_i (p_i^\alpha - p_i)"
    domain = Simplex()
    params = (
        Param("alpha", 1.5, low=0.0, low_in_losses=False, meaning="1 is softmax, 2 is sparsemax, larger is sparser"),
    )
    reference = "peters2019sparse"

    def omega(self, p: Tensor, **params: Tensor) -> Tensor:
        return tsallis_negentropy(p, params["alpha"]).sum(-1)

    def solve(self, z: Tensor, **params: Tensor) -> Solved:
        return Solved(*rows.entmax(z, params["alpha"]))

    def weight(self, p: Tensor, **params: Tensor) -> Tensor:
        return safe_pow(p, 2 - params["alpha"])

    def share(self, p: Tensor, **params: Tensor) -> Tensor:
        return power_shares(p, 2 - params["alpha"])

    def grad_omega_param(self, p: Tensor, **saved: Tensor) -> dict[str, Tensor]:
        return {"alpha": tsallis_log_slope(p, saved["alpha"])}

    def tau(self, threshold: Tensor, **params: Tensor) -> Tensor:
        return (params["alpha"] - 1) * threshold - 1


ENTMAX = register(Entmax())


def entmax(
    z: Num[Tensor, "*shape"],
    alpha: float | Num[Tensor, ...] = 1.5,
    dim: int = -1,
    *,
    mask: Tensor | None = None,
    backend: str | None = None,
) -> Float[Tensor, "*shape"]:
    r"""Sparse softmax of learnable sparsity.

    $$p = \arg\max_{p \in \triangle} \langle p, z \rangle - \Omega_\alpha(p), \qquad
    \Omega_\alpha(p) = \frac{1}{\alpha(\alpha-1)} \sum_i (p_i^\alpha - p_i)$$

    whose solution is $p_i = [1 + (\alpha-1)(z_i - \lambda)]_+^{1/(\alpha-1)}$. Exactly softmax at alpha = 1, sparsemax
    at alpha = 2.

    Args:
        z: scores, (..., n) with n at `dim`. Integers are promoted to the default dtype.
        alpha: in [0, inf). A number, or a tensor that broadcasts to z with size 1 at `dim` (one alpha per row, per
            head, ...), with gradient.
        dim: the dimension that sums to one.
        mask: boolean, broadcastable to z, True = keep. Other entries are never read and get probability 0; a row
            without a kept entry is all zero.
        backend: name of the backend to use; None chooses (`ts.explain_backend`).

    Returns:
        p, with the shape and dtype of z. A row with a NaN, a +inf or an inadmissible alpha is NaN; other rows are
        untouched.

    Raises:
        ParameterError: a Python alpha < 0 or not finite.
        ShapeError: z without dimensions, `dim` out of range, or alpha or mask that do not broadcast.

    Differentiability:
        any order in z and alpha, forward and reverse mode. Derivatives of second order are unbounded as p_i -> 0 for
        1.5 < alpha < 2. For large alpha the derivative may be beyond the range of the dtype: then it is infinite.

    Complexity:
        O(n) per row and sweep; at most 9 sweeps for alpha <= 2. Memory: one saved tensor, as softmax.

    Example:
        >>> import torch, tsallis as ts
        >>> ts.entmax(torch.tensor([1.0, 2.0, 3.0]))
        tensor([0.0000, 0.1693, 0.8307])

    References:
        peters2019sparse, correia2019adaptively
    """
    return ENTMAX(z, dim, mask=mask, backend=backend, alpha=alpha)
