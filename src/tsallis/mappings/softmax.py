"""Softmax: alpha-entmax at alpha = 1.0."""

from __future__ import annotations

from jaxtyping import Float, Num
from torch import Tensor

from ..core.domains import Simplex
from ..core.mapping import Special
from ..core.registry import register
from .entmax import ENTMAX


class Softmax(Special):
    name = "softmax"
    summary = "The dense end of the family, with masks and the row policy of the others."
    latex = r"\sum_i p_i \log p_i"
    domain = Simplex()
    base = ENTMAX
    constants = {"alpha": 1.0}
    reference = "martins2016softmax"


SOFTMAX = register(Softmax())


def softmax(
    z: Num[Tensor, "*shape"], dim: int = -1, *, mask: Tensor | None = None, backend: str | None = None
) -> Float[Tensor, "*shape"]:
    r"""Softmax with a boolean mask: the member of the entmax family that never says no.

    $$p = \arg\max_{p \in \triangle} \langle p, z \rangle - \sum_i p_i \log p_i$$

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
        any order in z, forward and reverse mode.

    Complexity:
        O(n) per row and sweep. Memory: one saved tensor.

    Example:
        >>> import torch, tsallis as ts
        >>> ts.softmax(torch.tensor([1.0, 2.0, 2.5]))
        tensor([0.1220, 0.3315, 0.5465])

    References:
        martins2016softmax
    """
    return SOFTMAX(z, dim, mask=mask, backend=backend)
