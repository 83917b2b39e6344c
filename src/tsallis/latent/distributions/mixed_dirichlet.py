"""A Dirichlet distribution on each face of the simplex."""

from __future__ import annotations

from typing import Self

import torch
from torch import Size, Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl

from ...core.errors import ParameterError, ShapeError
from ...core.inputs import check_scores
from ...core.numerics import compute_dtype
from ..latents import shannon
from .base import All, SparseDistribution, alike, common_batch, log_or_never, sparse_simplex
from .categorical import divergence, draw

MOST = 12


def faces(size: int, device: torch.device | None = None) -> Tensor:
    """(2^K - 1, K) which vertices each face has: the bits of 1, 2, ..., the first vertex the lowest."""
    numbers = torch.arange(1, 2**size, device=device)
    return (numbers.unsqueeze(-1) >> torch.arange(size, device=device)) & 1 == 1


class MixedDirichlet(SparseDistribution):
    r"""$p(y) = P(f)\, \text{Dir}(y_f; \alpha_f)$: a face f of the simplex is drawn, then a point inside it.

    Args:
        concentration: (..., K) positive; $\alpha_f$ are those of the vertices of f.
        scores: (..., K) of vertices: $P(f) \propto \exp \sum_{i \in f} s_i$ over the faces that are not empty.
        face_probs: (..., 2^K - 1) instead of scores: P(f), the m-th, from 1, is of the vertices that are bits of m.
        validate_args: as in torch.

    Raises:
        ParameterError: K above 12; scores and face_probs, or neither.
        ShapeError: shapes that do not fit.
        FormulaError: rsample, since the choice of a face is not differentiable.

    Differentiability:
        log_prob, entropy and KL: any order in all parameters, and in y on its face.

    Complexity:
        O(K 2^K) per row; log_prob O(2^K).

    Example:
        >>> import torch, tsallis as ts
        >>> d = ts.latent.MixedDirichlet(torch.tensor([1.0, 1.0, 2.0]), scores=torch.zeros(3))
        >>> d.log_prob(torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])).exp()
        tensor([0.1429, 0.1429])
        >>> d.size_probs
        tensor([0.4286, 0.4286, 0.1429])

    References:
        farinhas2022sparse
    """

    arg_constraints = {
        "concentration": All(constraints.positive),
        "face_probs": sparse_simplex,
    }
    tensors = {"concentration": 1, "log_faces": 1}
    support = sparse_simplex
    values = "rows that are not negative, with sum 1"

    def __init__(
        self,
        concentration: Tensor,
        scores: Tensor | None = None,
        *,
        face_probs: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        concentration = check_scores(concentration, "concentration")
        size = concentration.shape[-1]
        _check_count(size)
        if (scores is None) == (face_probs is None):
            given = "neither scores nor face_probs" if scores is None else "both scores and face_probs"
            raise ParameterError(f"MixedDirichlet with {given}", "one of them", "Pass scores=, or face_probs=")
        if scores is not None:
            scores = check_scores(scores)
            _check_last(scores, size, "scores")
            wide = scores.to(compute_dtype(scores))
            log_faces = (wide @ faces(size, scores.device).to(wide.dtype).T).log_softmax(-1)
        else:
            face_probs = check_scores(face_probs, "face_probs")
            _check_last(face_probs, 2**size - 1, "face_probs")
            log_faces = log_or_never(face_probs.to(compute_dtype(face_probs)))
        batch = common_batch(concentration.shape[:-1], log_faces.shape[:-1])
        self.concentration = concentration.expand(*batch, -1)
        # More digits than the dtype has: their exponentials are to sum to one.
        self.log_faces = log_faces.expand(*batch, -1)
        super().__init__(batch, Size([size]), validate_args)

    @classmethod
    def maximum_entropy(cls, concentration: Tensor, size_probs: Tensor, validate_args: bool | None = None) -> Self:
        """Faces as uncertain as they can be with these probabilities (..., K) of having 1, 2, ..., K vertices: all of a
        size alike.
        """
        size_probs = check_scores(size_probs, "size_probs")
        size = check_scores(concentration, "concentration").shape[-1]
        _check_count(size)
        _check_last(size_probs, size, "size_probs")
        index = faces(size, size_probs.device).sum(-1) - 1
        many = torch.bincount(index, minlength=size).to(size_probs.dtype)
        return cls(concentration, face_probs=(size_probs / many)[..., index], validate_args=validate_args)

    @property
    def face_probs(self) -> Tensor:
        """(..., 2^K - 1) P(f)."""
        return self.log_faces.exp().to(self.dtype)

    @property
    def size_probs(self) -> Tensor:
        """(..., K) the probabilities of faces with 1, 2, ..., K vertices."""
        index = self._faces.sum(-1) - 1
        return self.face_probs @ torch.nn.functional.one_hot(index, self.event_shape[0]).to(self.dtype)

    @property
    def _faces(self) -> Tensor:
        return faces(self.event_shape[0], self.log_faces.device)

    def log_density(self, value: Tensor) -> Tensor:
        alpha, log_faces = self.wide("concentration", "log_faces")
        y, alpha = torch.broadcast_tensors(value.to(alpha.dtype), alpha)
        face = y > 0
        number = (face.long() << torch.arange(y.shape[-1], device=y.device)).sum(-1) - 1
        log_face = log_faces.expand(*number.shape, -1).gather(-1, number.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        inner = torch.where(face, (alpha - 1) * torch.where(face, y, 1.0).log() - torch.lgamma(alpha), 0.0).sum(-1)
        total = torch.where(face, alpha, 0.0).sum(-1)
        bad = y.isnan().any(-1) | ~face.any(-1)
        return torch.where(bad, torch.nan, log_face + inner + torch.lgamma(torch.where(bad, 1.0, total)))

    def cross_inside(self, other: MixedDirichlet) -> Tensor:
        """(..., 2^K - 1) the cross-entropy between the Dirichlet distributions of each face."""
        (alpha,), (beta,) = self.wide("concentration"), other.wide("concentration")
        on = self._faces.to(alpha.dtype).T
        total, more = alpha @ on, beta - 1
        powers = (more * torch.digamma(alpha)) @ on - (more @ on) * torch.digamma(total)
        return torch.lgamma(beta) @ on - torch.lgamma(beta @ on) - powers

    def cross_entropy(self, other: MixedDirichlet) -> Tensor:
        """-E log q(y) for y of this distribution and q the density of the other; infinite where it lacks a face."""
        return torch.distributions.kl_divergence(self, other) + self.entropy()

    def entropy(self) -> Tensor:
        """-E log p(y) with respect to the measures of the faces: that of the face, and of the point given the face."""
        p = self.wide("log_faces")[0].exp()
        return (shannon(p) + (p * self.cross_inside(self)).sum(-1)).to(self.dtype)

    @property
    def mean(self) -> Tensor:
        given = torch.where(self._faces, self.concentration.unsqueeze(-2), 0.0)
        return (self.face_probs.unsqueeze(-2) @ (given / given.sum(-1, keepdim=True))).squeeze(-2)

    def draw(self, sample_shape: Size) -> Tensor:
        (alpha,) = self.wide("concentration")
        face = self._faces[draw(self.log_faces.exp(), sample_shape)]
        alpha = alpha.expand(face.shape)
        # G(alpha) = G(alpha + 1) U^(1/alpha) in logarithms: for small alpha the gamma variables would all be 0.
        gamma = torch.distributions.Gamma(alpha + 1, torch.ones_like(alpha), validate_args=False).sample()
        log_gamma = gamma.log() - torch.empty_like(gamma).exponential_() / alpha
        y = torch.where(face, log_gamma, -torch.inf).softmax(-1).to(self.dtype)
        # A coordinate that rounds to 0 would be one of another face.
        return torch.where(face, y.clamp_min(torch.finfo(self.dtype).tiny), 0.0)


def _check_count(size: int) -> None:
    if not 1 <= size <= MOST:
        raise ParameterError(
            f"MixedDirichlet with K = {size}",
            f"1 to {MOST}: there are 2^K - 1 faces",
            "Use GaussianSparsemax, which does not list them",
        )


def _check_last(x: Tensor, size: int, what: str) -> None:
    if x.shape[-1] != size:
        raise ShapeError(f"{what} of shape {tuple(x.shape)}", f"(..., {size})", "Give each its own")


@register_kl(MixedDirichlet, MixedDirichlet)
def _kl(p: MixedDirichlet, q: MixedDirichlet) -> Tensor:
    p, q = alike(p, q)
    (log_p,), (log_q,) = p.wide("log_faces"), q.wide("log_faces")
    weights = log_p.exp()
    inside = weights * (p.cross_inside(q) - p.cross_inside(p))
    return (divergence(weights, log_q) + inside.sum(-1)).to(p.dtype)
