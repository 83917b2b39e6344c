"""Top-k sparsemax: sparsemax of the k largest scores."""

from __future__ import annotations

import torch
from jaxtyping import Float, Num
from torch import Tensor

from ..core.domains import SparseSimplex
from ..core.mapping import SeparableMapping, Solved
from ..core.params import Param
from ..core.registry import register
from ..kernels.reference import rows
from .sparsemax import SPARSEMAX


class TopkSparsemax(SeparableMapping):
    name = "topk_sparsemax"
    summary = "Sparsemax restricted to the k largest scores, with a certificate of when that changes nothing."
    latex = r"\tfrac12 (\|p\|_2^2 - 1)"
    domain = SparseSimplex()
    params = (Param("k", None, role="selection", low=1.0, meaning="how many scores take part; above n all do"),)
    exempt = {
        "ties": "at a tie across the cut the lowest index stays",
        "permutation": "the same tie is broken by position",
        "duality_gap": "vectors with at most k non-zeros are not a convex set",
    }
    reference = "correia2020efficient"

    def omega(self, p: Tensor, **params: Tensor) -> Tensor:
        return SPARSEMAX.omega(p)

    def solve(self, z: Tensor, **params: Tensor) -> Solved:
        return SPARSEMAX.solve(rows.topk(z, params["k"]))

    def weight(self, p: Tensor, **params: Tensor) -> Tensor:
        return SPARSEMAX.weight(p)

    def tau(self, threshold: Tensor, **params: Tensor) -> Tensor | None:
        return SPARSEMAX.tau(threshold)

    def certify(self, z: Tensor, solution: Tensor, threshold: Tensor, **params: Tensor) -> Tensor:
        # Sparsemax gives 0 to every score at or below tau = lambda - 1: if the largest one left out is there, nothing
        # was cut off.
        left_out = z.masked_fill(rows.topk(z, params["k"]) > -torch.inf, -torch.inf)
        return left_out.amax(-1) <= threshold - 1 if z.shape[-1] else torch.ones_like(threshold, dtype=torch.bool)


TOPK_SPARSEMAX = register(TopkSparsemax())


def topk_sparsemax(
    z: Num[Tensor, "*shape"],
    k: int | Num[Tensor, ...],
    dim: int = -1,
    *,
    mask: Tensor | None = None,
    backend: str | None = None,
) -> Float[Tensor, "*shape"]:
    r"""Sparsemax of the k largest scores.

    $$p = \arg\max_{p \in \triangle,\ \|p\|_0 \le k} \langle p, z \rangle - \tfrac12 (\|p\|_2^2 - 1)$$

    Equal to sparsemax iff the (k+1)-th largest score is at most tau: `ts.solve("topk_sparsemax", z, k=k).exact` says so
    for every row.

    Args:
        z: scores, (..., n) with n at `dim`. Integers are promoted to the default dtype.
        k: how many scores take part, at least 1; above n all do. A number, or a tensor that broadcasts to z with size 1
            at `dim`. No gradient.
        dim: the dimension that sums to one.
        mask: boolean, broadcastable to z, True = keep. Other entries are never read and get probability 0; a row
            without a kept entry is all zero.
        backend: name of the backend to use; None chooses (`ts.explain_backend`).

    Returns:
        p, with the shape and dtype of z. A row with a NaN, a +inf or an inadmissible k is NaN; other rows are
        untouched.

    Raises:
        ParameterError: a Python k < 1, or a tensor k that requires a gradient.
        ShapeError: z without dimensions, `dim` out of range, or k or mask that do not broadcast.

    Differentiability:
        any order in z with the selection fixed; second derivatives are zero almost everywhere.

    Complexity:
        O(n log n) per row, one sort. Memory: one saved tensor.

    Example:
        >>> import torch, tsallis as ts
        >>> ts.topk_sparsemax(torch.tensor([0.0, 0.1, 0.2, 0.2]), k=2)
        tensor([0.0000, 0.0000, 0.5000, 0.5000])

    References:
        correia2020efficient
    """
    return TOPK_SPARSEMAX(z, dim, mask=mask, backend=backend, k=k)
