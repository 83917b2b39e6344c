"""Sparsemax: alpha-entmax at alpha = 2.0."""

from __future__ import annotations

from jaxtyping import Float, Num
from torch import Tensor

from ..core.domains import Simplex
from ..core.mapping import Special
from ..core.registry import register
from .entmax import ENTMAX


class Sparsemax(Special):
    name = "sparsemax"
    summary = "Euclidean projection onto the simplex; piecewise linear."
    latex = r"\tfrac12 (\|p\|_2^2 - 1)"
    domain = Simplex()
    base = ENTMAX
    constants = {"alpha": 2.0}
    reference = "martins2016softmax"


SPARSEMAX = register(Sparsemax())


def sparsemax(
    z: Num[Tensor, "*shape"], dim: int = -1, *, mask: Tensor | None = None, backend: str | None = None
) -> Float[Tensor, "*shape"]:
    r"""The Euclidean projection of the scores onto the simplex: exact zeros, piecewise linear.

    $$p = \arg\max_{p \in \triangle} \langle p, z \rangle - \tfrac12 (\|p\|_2^2 - 1)$$

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
        any order in z; the second derivative is zero almost everywhere.

    Complexity:
        O(n) per row and sweep; at most 9 sweeps. Memory: one saved tensor.

    Example:
        >>> import torch, tsallis as ts
        >>> ts.sparsemax(torch.tensor([1.0, 2.0, 2.5]))
        tensor([0.0000, 0.2500, 0.7500])

    References:
        martins2016softmax
    """
    return SPARSEMAX(z, dim, mask=mask, backend=backend)
