"""How good a model is, measured in the same way whatever trained it: a bound on log p(x) by importance sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

import tsallis as ts


class Model(Protocol):
    """What is measured."""

    def losses(self, x: Tensor) -> Callable[[Tensor, Tensor], Tensor]: ...


@dataclass(frozen=True)
class Sampling:
    """How many samples an image gets, which share of them from a sparse distribution, how far the probabilities of bits
    stay away from 0 and 1, and how many decoder rows are run at once.
    """

    samples: int
    sparse_share: float
    clip: float
    rows: int


@dataclass(frozen=True)
class Posterior:
    """q(z|x) of each image: marginals (B, D); probabilities p (B, S) of vertices (B, S, D), or bits are independent."""

    marginals: Tensor
    p: Tensor | None = None
    vertices: Tensor | None = None

    @classmethod
    def of(cls, e: ts.latent.Expectation) -> Posterior:
        if e.vertices is None:
            return cls(e.probs)
        return cls(torch.einsum("bs,bsd->bd", e.probs, e.vertices), e.probs, e.vertices)

    def most_probable(self) -> Tensor:
        """(B, D)."""
        if self.p is None or self.vertices is None:
            return (self.marginals > 0.5).to(self.marginals.dtype)
        best = self.p.argmax(-1)[:, None, None].expand(-1, 1, self.vertices.shape[-1])
        return self.vertices.gather(1, best)[:, 0]

    def log_sparse(self, z: Tensor) -> Tensor:
        """log p (B, n) of vectors (B, n, D); -inf for those that are no vertex."""
        assert self.p is not None
        assert self.vertices is not None
        # Vectors of -1 and 1 are the same if their product is D.
        same = (2 * z - 1) @ (2 * self.vertices - 1).transpose(1, 2) > z.shape[-1] - 1
        return torch.where(same, self.p[:, None].double(), 0.0).sum(-1).log()


@dataclass(frozen=True)
class Proposal:
    r"""The mixture that samples are drawn from,

    $$\pi(z) = a\, p(z) + (1 - a) \prod_i \mu_i^{z_i} (1 - \mu_i)^{1 - z_i},$$

    with the marginals mu at least `clip` away from 0 and 1: vectors that the sparse p rules out have probability too.
    Of the samples a share of exactly a is from p, which rounds it; it is 0 where q consists of independent bits.
    """

    posterior: Posterior
    sampling: Sampling

    @property
    def of_p(self) -> int:
        """How many samples are from p."""
        return 0 if self.posterior.p is None else round(self.sampling.sparse_share * self.sampling.samples)

    @property
    def mu(self) -> Tensor:
        return self.posterior.marginals.double().clamp(self.sampling.clip, 1 - self.sampling.clip)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Samples (B, n, D)."""
        q = self.posterior
        z = _bits(self.mu, self.sampling.samples - self.of_p, generator).to(q.marginals.dtype)
        if q.p is None or q.vertices is None or not self.of_p:
            return z
        chosen = torch.multinomial(q.p.double().cpu(), self.of_p, replacement=True, generator=generator).to(z.device)
        return torch.cat([q.vertices.gather(1, chosen[..., None].expand(-1, -1, z.shape[-1])), z], 1)

    def log_density(self, z: Tensor) -> Tensor:
        """(B, n) of vectors (B, n, D), in float64."""
        bits = _log_bits(self.mu, z)
        if not self.of_p:
            return bits
        a = self.of_p / self.sampling.samples
        sparse = self.posterior.log_sparse(z) + math.log(a)
        return sparse if a == 1 else torch.logaddexp(sparse, bits + math.log1p(-a))


def _bits(mu: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """(B, n, D) independent bits with probabilities mu (B, D); drawn on the CPU, the same on every device."""
    noise = torch.rand(len(mu), n, mu.shape[1], dtype=torch.float64, generator=generator)
    return noise.to(mu.device) < mu[:, None]


def _log_bits(mu: Tensor, z: Tensor) -> Tensor:
    """log of the probability (B, n) of independent bits z (B, n, D), their probabilities mu (B, D) in float64."""
    # Not as a product with log mu, which would be 0 times -inf for bits that are certain.
    return torch.where(z > 0.5, mu[:, None], 1 - mu[:, None]).log().sum(-1)


@dataclass(frozen=True)
class Findings:
    """Of each image, (B,): the bound on log p(x); the estimate of the released code; E_q[-log p(x|z)] from samples, of
    independent bits only; -log p(x|z) of the most probable z.
    """

    log_evidence: Tensor
    released: Tensor
    sampled_distortion: Tensor | None
    map_distortion: Tensor


@torch.no_grad()
def examine(model: Model, x: Tensor, q: Posterior, sampling: Sampling, generator: torch.Generator) -> Findings:
    """Measure a model on images x with the posteriors q."""
    # Bits are equally likely, and independent.
    prior = -q.marginals.shape[1] * math.log(2)

    def log_p(z: Tensor) -> Tensor:
        return log_likelihoods(model, x, z, sampling.rows)

    proposal = Proposal(q, sampling)
    z = proposal.draw(generator)
    log_evidence = log_mean(log_p(z) + prior - proposal.log_density(z))
    if q.p is None or q.vertices is None:
        z = _bits(q.marginals.double(), sampling.samples, generator).to(q.marginals.dtype)
        given = log_p(z)
        released = log_mean(given + prior - _log_bits(q.marginals.double(), z))
        distortion = -given.mean(1)
    else:
        # As published: the sum over the support, and beside it, counted twice, the mean over the prior.
        inside = torch.where(q.p > 0, log_p(q.vertices) + prior, -torch.inf).logsumexp(-1)
        uniform = _bits(torch.full_like(q.marginals, 0.5, dtype=torch.float64), sampling.samples, generator)
        released = torch.logaddexp(inside, log_mean(log_p(uniform.to(q.marginals.dtype))))
        distortion = None
    at_best = -log_p(q.most_probable()[:, None])[:, 0]
    return Findings(log_evidence, released, distortion, at_best)


def log_likelihoods(model: Model, x: Tensor, z: Tensor, rows: int) -> Tensor:
    """log p(x|z) (B, n), in float64, for images x (B, pixels) and bits z (B, n, D), so many rows at once."""
    batch, n = z.shape[:2]
    index = torch.arange(batch, device=z.device).repeat_interleave(n)
    loss = model.losses(x)
    flat = z.flatten(0, 1)
    parts = [loss(i, v) for i, v in zip(index.split(rows), flat.split(rows), strict=True)]
    return -torch.cat(parts).double().reshape(batch, n)


def log_mean(log_values: Tensor) -> Tensor:
    """log of the mean of exp over the last dimension."""
    return log_values.logsumexp(-1) - math.log(log_values.shape[-1])
