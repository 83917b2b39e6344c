"""Fusedmax: sparsemax with a penalty on steps between neighbours."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float, Num
from torch import Tensor

from ..core.domains import Simplex
from ..core.mapping import Mapping, Solved
from ..core.params import Param
from ..core.registry import register
from ..kernels.reference.variation import Fused, chain, group_means, held
from .sparsemax import SPARSEMAX


class Grouped(Mapping):
    """A mapping that is sparsemax of scores x averaged over groups, x = G (z - lam pull), where groups stay."""

    domain = Simplex()
    residuals = ("back", "pull")
    reference = "niculae2017regularized"

    @abstractmethod
    def grouped(self, z: Tensor, lam: Tensor) -> Fused:
        """x, and the groups and pulls that it is made of."""

    def solve(self, z: Tensor, **params: Tensor) -> Solved:
        x, group, pull = held(self.grouped(z, params["lam"]), params["lam"])
        p, threshold = SPARSEMAX.solve(x)[:2]
        # How far back, not where: smaller numbers, exact in every dtype.
        return Solved(p, threshold, (torch.arange(z.shape[-1], device=z.device) - group.to(z.dtype), pull))

    def solve_tangent(self, p: Tensor, v: Tensor, **saved: Tensor) -> Tensor:
        group = torch.arange(p.shape[-1], device=p.device) - saved["back"].nan_to_num(0.0).long()
        return SPARSEMAX.solve_tangent(p, group_means(v, group))

    def grad_omega_param(self, p: Tensor, **saved: Tensor) -> dict[str, Tensor]:
        return {"lam": saved["pull"]}

    def tau(self, threshold: Tensor, **params: Tensor) -> Tensor | None:
        return SPARSEMAX.tau(threshold)


class Fusedmax(Grouped):
    name = "fusedmax"
    summary = "Sparsemax that prefers neighbours of equal probability: whole segments are selected."
    latex = r"\tfrac12 (\|p\|_2^2 - 1) + \lambda \sum_i |p_{i+1} - p_i|"
    params = (
        Param("lam", 1.0, low=0.0, tried=(0.2,), meaning="the price of a step; 0 is sparsemax, large is uniform"),
    )
    exempt = {
        "ties": "what is near an entry counts, not its score alone",
        "permutation": "the same: order matters",
        "duality_gap": "Omega has no gradient where neighbours are equal; the tests certify p by the dual instead",
        "low_scores": "a low score pulls its neighbours down, a masked one does not",
        "large_parameters_gradients": "a large lam makes the whole row one segment: all derivatives are zero",
    }

    def omega(self, p: Tensor, **params: Tensor) -> Tensor:
        return self.omega_among(p, torch.ones_like(p, dtype=torch.bool), **params)

    def omega_among(self, p: Tensor, kept: Tensor, **params: Tensor) -> Tensor:
        place = torch.arange(p.shape[-1], device=p.device).expand(p.shape)
        before = torch.where(kept, place, -1)[..., :-1].cummax(-1).values
        step = torch.where(kept[..., 1:] & (before >= 0), p[..., 1:] - p.gather(-1, before.clamp_min(0)), 0.0)
        return SPARSEMAX.omega(p) + (params["lam"] * step.abs().sum(-1, keepdim=True)).squeeze(-1)

    def grouped(self, z: Tensor, lam: Tensor) -> Fused:
        return chain(z, lam)


FUSEDMAX = register(Fusedmax())


def fusedmax(
    z: Num[Tensor, "*shape"],
    lam: float | Num[Tensor, ...] = 1.0,
    dim: int = -1,
    *,
    mask: Tensor | None = None,
    backend: str | None = None,
) -> Float[Tensor, "*shape"]:
    r"""Sparsemax that selects segments: neighbours prefer to have equal probability.

    $$p = \arg\max_{p \in \triangle} \langle p, z \rangle - \tfrac12 (\|p\|_2^2 - 1) - \lambda \sum_i |p_{i+1} - p_i|$$

    which is sparsemax of the scores denoised by total variation, $\arg\min_x \tfrac12 \|x - z\|^2 + \lambda \sum_i
    |x_{i+1} - x_i|$.

    Args:
        z: scores, (..., n) with n at `dim`, neighbours beside each other. Integers are promoted to the default dtype.
        lam: in [0, inf). A number, or a tensor that broadcasts to z with size 1 at `dim`, with gradient. 0 is
            sparsemax; when it is large all kept entries are equal.
        dim: the dimension that sums to one.
        mask: boolean, broadcastable to z, True = keep. Other entries are never read and get probability 0; they are
            removed, and what is kept on both sides of a gap become neighbours. A row without a kept entry is all zero.
        backend: name of the backend to use; None chooses (`ts.explain_backend`).

    Returns:
        p, with the shape and dtype of z. A row with a NaN, a +inf or an inadmissible lam is NaN; other rows are
        untouched.

    Raises:
        ParameterError: a Python lam < 0 or not finite.
        ShapeError: z without dimensions, `dim` out of range, or lam or mask that do not broadcast.

    Differentiability:
        any order in z and lam, forward and reverse mode; the second derivative is zero almost everywhere. Where
        neighbours have equal values by coincidence, that of the joined group; at lam = 0 in z that of sparsemax, in lam
        that from above.

    Complexity:
        O(n log n) per row and round, in which all segments are split at once; about log n rounds, n at most. Memory:
        three saved tensors.

    Example:
        >>> import torch, tsallis as ts
        >>> ts.fusedmax(torch.tensor([1.2, 1.0, 0.1, -0.3, 0.9, 0.85, -0.5]), lam=0.25)
        tensor([0.4250, 0.4250, 0.0000, 0.0000, 0.0750, 0.0750, 0.0000])

    References:
        niculae2017regularized
    """
    return FUSEDMAX(z, dim, mask=mask, backend=backend, lam=lam)
