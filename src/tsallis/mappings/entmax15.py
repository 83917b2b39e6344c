"""Entmax15: alpha-entmax at alpha = 1.5."""

from __future__ import annotations

from jaxtyping import Float, Num
from torch import Tensor

from ..core.domains import Simplex
from ..core.mapping import Special
from ..core.registry import register
from .entmax import ENTMAX


class Entmax15(Special):
    name = "entmax15"
    summary = "Between softmax and sparsemax; smooth at the edge of the support."
    latex = r"\tfrac43 \sum_i (p_i^{3/2} - p_i)"
    domain = Simplex()
    base = ENTMAX
    constants = {"alpha": 1.5}
    reference = "peters2019sparse"


ENTMAX15 = register(Entmax15())


def entmax15(
    z: Num[Tensor, "*shape"], dim: int = -1, *, mask: Tensor | None = None, backend: str | None = None
) -> Float[Tensor, "*shape"]:
    r"""alpha-entmax at alpha = 1.5: sparse, and smooth where entries enter the support.

    $$p = \arg\max_{p \in \triangle} \langle p, z \rangle - \tfrac43 \sum_i (p_i^{3/2} - p_i)$$

    Args:
        z: scores, (..., n) with n at `dim`. Integers are promoted to the default dtype.
        dim: the dimension that sums to one.
        mask: boolean, broadcastable to z, True = keep. Other entries are never read and get probability 0; a row
            without a kept entry is all zero.
        backend: name of the backend to use; None chooses (`ts.explain_backend`).

    Returns:
        p, with the shape and dtype of z. A row with a NaN or a +inf is NaN; other rows are untouched.

    Raises:
        ShapeError: z without dimensions, `dim` out of range, or a mask that does not broadcast.

    Differentiability:
        any order in z; the gradient is continuous.

    Complexity:
        O(n) per row and sweep; at most 9 sweeps, with an exact finish. Memory: one saved tensor.

    Example:
        >>> import torch, tsallis as ts
        >>> ts.entmax15(torch.tensor([1.0, 2.0, 2.5]))
        tensor([0.0048, 0.3240, 0.6712])

    References:
        peters2019sparse
    """
    return ENTMAX15(z, dim, mask=mask, backend=backend)
