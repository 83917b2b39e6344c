"""The convex sets C over which mappings optimise, with what derivation and tests need to know of each."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .numerics import from_heaviest, vanishing_times


class Domain(ABC):
    """A set C of vectors along the last dimension.

    ``latex`` is shown in the documentation. ``fixed_sum`` says that every member has the same sum: then the mapping is
    invariant to adding a constant to its scores, and its threshold (the multiplier of that constraint) is reported.
    """

    latex: str
    fixed_sum: bool

    @abstractmethod
    def project_tangent(self, w: Tensor, share: Tensor, v: Tensor) -> Tensor:
        """J v of a separable mapping: ``w`` is the reciprocal curvature of Omega on free coordinates, else 0, and
        ``share`` is w over its sum. w may be inf, share is finite.
        """

    @abstractmethod
    def violation(self, p: Tensor, **params: Tensor) -> Tensor:
        """How far each row of p is from C (largest violated constraint), shape (...)."""

    @abstractmethod
    def sample(self, like: Tensor, generator: torch.Generator, **params: Tensor) -> Tensor:
        """Random members of C, one per row of `like`, some of them on the boundary."""

    @abstractmethod
    def support_function(self, g: Tensor, **params: Tensor) -> Tensor:
        """max over q in C of `<g, q>`, shape (...): what the optimality check needs."""

    def total(self, like: Tensor, **params: Tensor) -> Tensor:
        """The fixed sum of a member, shape (..., 1)."""
        return like.new_ones(())


class SumConstrained(Domain):
    """Shared by all sets of vectors with a given sum."""

    fixed_sum = True

    def project_tangent(self, w: Tensor, share: Tensor, v: Tensor) -> Tensor:
        # J annihilates constants, so v may be measured from its value at the heaviest coordinate. That one then enters
        # only through what the others exchange with it, however large its own weight is: J v is right if it can be
        # represented. Rows without a free coordinate (fully masked, or all at a bound) have J = 0.
        x = from_heaviest(v, share)
        moved = vanishing_times(w, x)
        total = moved.sum(-1, keepdim=True)
        fits = total.isfinite()
        # Otherwise some entries of J v are beyond the range of the dtype: these become +-inf.
        beyond = vanishing_times(torch.where(fits, 0.0, w), x - (share * x).sum(-1, keepdim=True))
        return torch.where(fits, moved - share * total, beyond)

    def violation(self, p: Tensor, **params: Tensor) -> Tensor:
        excess = (p.sum(-1, keepdim=True) - self.total(p, **params)).abs().squeeze(-1)
        return torch.maximum(excess, (-p).amax(-1))


class Simplex(SumConstrained):
    """Probability vectors."""

    latex = r"\triangle = \{p \ge 0 : \sum_i p_i = 1\}"

    def sample(self, like: Tensor, generator: torch.Generator, **params: Tensor) -> Tensor:
        return dirichlet(like, generator)

    def support_function(self, g: Tensor, **params: Tensor) -> Tensor:
        return g.amax(-1)


class SparseSimplex(SumConstrained):
    """Members of the simplex with at most k non-zeros. Not convex: its optimum is still a projection, but has no gap
    certificate.
    """

    latex = r"\{p \in \triangle : \|p\|_0 \le k\}"

    def sample(self, like: Tensor, generator: torch.Generator, **params: Tensor) -> Tensor:
        p = dirichlet(like, generator)
        rank = p.argsort(-1, descending=True).argsort(-1)
        p = torch.where(rank < params["k"], p, 0.0)
        return p / p.sum(-1, keepdim=True)

    def support_function(self, g: Tensor, **params: Tensor) -> Tensor:
        return g.amax(-1)

    def violation(self, p: Tensor, **params: Tensor) -> Tensor:
        extra = (p > 0).sum(-1, keepdim=True) - params["k"]
        return torch.maximum(super().violation(p, **params), extra.clamp_min(0).to(p.dtype).squeeze(-1))


class CappedSimplex(SumConstrained):
    """Vectors in the unit box with sum k."""

    latex = r"\{0 \le p \le 1 : \sum_i p_i = k\}"

    def total(self, like: Tensor, **params: Tensor) -> Tensor:
        return params["k"].to(like.dtype)

    def violation(self, p: Tensor, **params: Tensor) -> Tensor:
        return torch.maximum(super().violation(p, **params), (p - 1).amax(-1))

    def sample(self, like: Tensor, generator: torch.Generator, **params: Tensor) -> Tensor:
        # A convex combination of vertices: k ones at random places, the last of them fractional.
        k = self.total(like, **params)
        weights = dirichlet(like.new_zeros((3, *like.shape[:-1])).movedim(0, -1), generator)
        total = torch.zeros_like(like)
        for weight in weights.unbind(-1):
            noise = torch.rand(like.shape, generator=generator, dtype=like.dtype)
            rank = noise.argsort(-1).argsort(-1).to(like.dtype)
            total = total + weight.unsqueeze(-1) * (k - rank).clamp(0, 1)
        return total

    def support_function(self, g: Tensor, **params: Tensor) -> Tensor:
        ordered = g.sort(-1, descending=True).values
        place = torch.arange(g.shape[-1], dtype=g.dtype, device=g.device)
        return (ordered * (self.total(g, **params) - place).clamp(0, 1)).sum(-1)


class Box(Domain):
    """The unit box, without a constraint that couples coordinates."""

    latex = r"[0, 1]^n"
    fixed_sum = False

    def project_tangent(self, w: Tensor, share: Tensor, v: Tensor) -> Tensor:
        return w * v

    def violation(self, p: Tensor, **params: Tensor) -> Tensor:
        return torch.maximum((-p).amax(-1), (p - 1).amax(-1)).clamp_min(0)

    def sample(self, like: Tensor, generator: torch.Generator, **params: Tensor) -> Tensor:
        return (torch.rand(like.shape, generator=generator, dtype=like.dtype) * 1.5 - 0.25).clamp(0, 1)

    def support_function(self, g: Tensor, **params: Tensor) -> Tensor:
        return g.clamp_min(0).sum(-1)


def dirichlet(like: Tensor, generator: torch.Generator) -> Tensor:
    """Rows drawn uniformly from the simplex, about a third of the coordinates then set to zero."""
    e = -torch.rand(like.shape, generator=generator, dtype=like.dtype).clamp_min(1e-12).log()
    e = e * (torch.rand(like.shape, generator=generator, dtype=like.dtype) > 0.3)
    e[..., :1] += 1e-3
    return e / e.sum(-1, keepdim=True)
