"""How good a model is, measured in the same way whatever trained it: a bound on log p(x) by importance sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol as Structural

import torch
from torch import Tensor

import tsallis as ts


class Model(Structural):
    """What is measured."""

    def losses(self, x: Tensor) -> Callable[[Tensor, Tensor], Tensor]: ...


@dataclass(frozen=True)
class Protocol:
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
        return self.vertices[torch.arange(len(self.p)), self.p.argmax(-1)]

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

    with marginals mu at least `clip` away from 0 and 1: z that the sparse p rules out still have probability. a is 0
    where q consists of independent bits. Of n samples exactly a n come from p: a is rounded so that this is possible.
    """

    posterior: Posterior
    share: float
    clip: float

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Samples (B, n, D) and the log of their density (B, n)."""
        q = self.posterior
        of_p = 0 if q.p is None else round(self.share * n)
        mu = q.marginals.double().clamp(self.clip, 1 - self.clip)
        z = _bits(mu, n - of_p, generator).to(q.marginals.dtype)
        if q.p is None or q.vertices is None or not of_p:
            return z, _log_bits(mu, z)
        chosen = torch.multinomial(q.p.double().cpu(), of_p, replacement=True, generator=generator).to(z.device)
        z = torch.cat([q.vertices[torch.arange(len(z))[:, None], chosen], z], 1)
        a = of_p / n
        sparse = q.log_sparse(z) + math.log(a)
        return z, sparse if of_p == n else torch.logaddexp(sparse, _log_bits(mu, z) + math.log1p(-a))


def _bits(mu: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """(B, n, D) independent bits with probabilities mu (B, D); drawn on the CPU, the same on every device."""
    noise = torch.rand(len(mu), n, mu.shape[1], dtype=torch.float64, generator=generator)
    return noise.to(mu.device) < mu[:, None]


def _log_bits(mu: Tensor, z: Tensor) -> Tensor:
    """log of the probability (B, n) of independent bits z (B, n, D), in float64."""
    return (z.double() @ (mu.log() - (-mu).log1p())[..., None])[..., 0] + (-mu).log1p().sum(-1, keepdim=True)


@dataclass(frozen=True)
class Findings:
    """Of each image, (B,): the bound on log p(x); the estimate of the released code; E_q[-log p(x|z)] from samples, of
    independent bits; -log p(x|z) of the most probable z.
    """

    log_evidence: Tensor
    released: Tensor
    sampled_distortion: Tensor
    map_distortion: Tensor


@torch.no_grad()
def examine(model: Model, x: Tensor, q: Posterior, protocol: Protocol, generator: torch.Generator) -> Findings:
    """Measure a model on images x with the posteriors q."""
    # Bits are equally likely, and independent.
    prior = -q.marginals.shape[1] * math.log(2)

    def log_p(z: Tensor) -> Tensor:
        return log_likelihoods(model, x, z, protocol.rows)

    z, density = Proposal(q, protocol.sparse_share, protocol.clip).draw(protocol.samples, generator)
    log_evidence = log_mean(log_p(z) + prior - density)
    if q.p is None or q.vertices is None:
        z = _bits(q.marginals.double(), protocol.samples, generator).to(q.marginals.dtype)
        given = log_p(z)
        # In float64 probabilities of float32 are 0 or 1 only where that bit cannot be drawn otherwise.
        released = log_mean(given + prior - _log_certain(q.marginals.double(), z))
        distortion = -given.mean(1)
    else:
        # As published: the sum over the support, and beside it, counted twice, the mean over the prior.
        inside = torch.where(q.p > 0, log_p(q.vertices) + prior, -torch.inf).logsumexp(-1)
        uniform = _bits(torch.full_like(q.marginals, 0.5, dtype=torch.float64), protocol.samples, generator)
        released = torch.logaddexp(inside, log_mean(log_p(uniform.to(q.marginals.dtype))))
        distortion = torch.full_like(inside, torch.nan)
    at_best = -log_p(q.most_probable()[:, None])[:, 0]
    return Findings(log_evidence, released, distortion, at_best)


def _log_certain(mu: Tensor, z: Tensor) -> Tensor:
    """As `_log_bits`, with probabilities that may be 0 or 1."""
    return torch.where(z > 0.5, mu[:, None], 1 - mu[:, None]).log().sum(-1)


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
