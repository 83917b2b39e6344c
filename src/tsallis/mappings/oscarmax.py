"""Oscarmax: sparsemax with a penalty on differences of all pairs."""

from __future__ import annotations

import torch
from jaxtyping import Float, Num
from torch import Tensor

from ..core.params import Param
from ..core.registry import register
from ..kernels.reference.isotonic import pairs
from ..kernels.reference.variation import Fused
from .fusedmax import Grouped
from .sparsemax import SPARSEMAX


class Oscarmax(Grouped):
    name = "oscarmax"
    summary = "Sparsemax that prefers equal probabilities, wherever entries are: clusters are selected."
    latex = r"\tfrac12 (\|p\|_2^2 - 1) + \lambda \sum_{i<j} \max(p_i, p_j)"
    params = (Param("lam", None, low=0.0, tried=(0.1,), meaning="price of a difference; large is uniform"),)
    exempt = {
        "duality_gap": "Omega has no gradient where entries are equal; the tests compare with a quadratic program",
        "large_parameters_gradients": "a large lam makes all entries equal: all derivatives are zero",
    }

    def omega(self, p: Tensor, **params: Tensor) -> Tensor:
        smaller = torch.arange(p.shape[-1] - 1, -1, -1, dtype=p.dtype, device=p.device)
        larger = (p.sort(dim=-1, descending=True).values * smaller).sum(-1, keepdim=True)
        return SPARSEMAX.omega(p) + (params["lam"] * larger).squeeze(-1)

    def grouped(self, z: Tensor, lam: Tensor) -> Fused:
        return pairs(z, lam)


OSCARMAX = register(Oscarmax())


def oscarmax(
    z: Num[Tensor, "*shape"],
    lam: float | Num[Tensor, ...],
    dim: int = -1,
    *,
    mask: Tensor | None = None,
    backend: str | None = None,
) -> Float[Tensor, "*shape"]:
    r"""Sparsemax that selects clusters: entries with similar scores get equal probability, wherever they are.

    $$p = \arg\max_{p \in \triangle} \langle p, z \rangle - \tfrac12 (\|p\|_2^2 - 1) - \lambda \sum_{i<j} \max(p_i,
    p_j)$$

    which is sparsemax of the scores, each less lam times the number of smaller ones, and averaged where that puts them
    out of order.

    Args:
        z: scores, (..., n) with n at `dim`. Integers are promoted to the default dtype.
        lam: in [0, inf). A number, or a tensor that broadcasts to z with size 1 at `dim`, with gradient. 0 is
            sparsemax; when it is large all kept entries are equal. It counts for each pair: think of lam times n.
        dim: the dimension that sums to one.
        mask: boolean, broadcastable to z, True = keep. Other entries are never read and get probability 0; a row
            without a kept entry is all zero.
        backend: name of the backend to use; None chooses (`ts.explain_backend`).

    Returns:
        p, with the shape and dtype of z. A row with a NaN, a +inf or an inadmissible lam is NaN; other rows are
        untouched.

    Raises:
        ParameterError: a Python lam < 0 or not finite.
        ShapeError: z without dimensions, `dim` out of range, or lam or mask that do not broadcast.

    Differentiability:
        any order in z and lam, forward and reverse mode; the second derivative is zero almost everywhere. Where two
        groups have equal values by coincidence, that of the joined group; at lam = 0 in z that of sparsemax, in lam
        that from above.

    Complexity:
        O(n log n) per row, one sort, then O(n) per round, in which all segments are split at once; about log n rounds,
        n at most. Memory: three saved tensors.

    Example:
        >>> import torch, tsallis as ts
        >>> ts.oscarmax(torch.tensor([1.0, -0.5, 0.6, 0.95]), lam=0.1)
        tensor([0.4083, 0.0000, 0.1833, 0.4083])

    References:
        niculae2017regularized
    """
    return OSCARMAX(z, dim, mask=mask, backend=backend, lam=lam)
