"""Dirichlet distributions on every face of the simplex."""

import math

import pytest
import torch
from scipy import stats
from torch.distributions import Dirichlet, kl_divergence

import tsallis as ts
from tsallis.core.errors import ParameterError, ShapeError
from tsallis.latent.distributions.mixed_dirichlet import faces

from .sampled import agree, face_counts, mean_is

D = torch.float64
ALPHA = torch.tensor([0.7, 1.5, 3.0], dtype=D)
SCORES = torch.tensor([0.5, -0.4, 0.2], dtype=D)


def test_mixed_dirichlet_is_a_dirichlet_on_each_face():
    d = ts.latent.MixedDirichlet(ALPHA, SCORES)
    table = faces(3)
    assert table[0].tolist() == [True, False, False]
    assert table[4].tolist() == [True, False, True]
    weights = torch.stack([SCORES[f].sum().exp() for f in table])
    assert torch.allclose(d.face_probs, weights / weights.sum())
    for m, f in enumerate(table):
        y = torch.zeros(5, 3, dtype=D)
        inside = Dirichlet(ALPHA[f])
        y[:, f] = inside.sample((5,)) if f.sum() > 1 else torch.ones(5, 1, dtype=D)
        expected = d.face_probs[m].log() + (inside.log_prob(y[:, f]) if f.sum() > 1 else 0)
        assert torch.allclose(d.log_prob(y), expected.expand(5), rtol=1e-10)


def test_mixed_dirichlet_samples():
    d = ts.latent.MixedDirichlet(ALPHA, SCORES)
    y = d.sample((30000,))
    assert agree(face_counts(y), d.face_probs)
    on_edge = y[(y[:, 0] > 0) & (y[:, 1] == 0) & (y[:, 2] > 0), 0]
    assert stats.kstest(on_edge, stats.beta(0.7, 3.0).cdf).pvalue > 1e-4
    first = y[(y > 0).all(-1), 0]
    assert stats.kstest(first, stats.beta(0.7, 4.5).cdf).pvalue > 1e-4
    assert mean_is(y, d.mean)
    assert mean_is(-d.log_prob(y), d.entropy())


def test_mixed_dirichlet_divergences():
    p = ts.latent.MixedDirichlet(ALPHA, SCORES)
    q = ts.latent.MixedDirichlet(ALPHA.flip(0) + 0.3, -SCORES)
    expected = (p.face_probs * (p.face_probs / q.face_probs).log()).sum()
    for m, f in enumerate(faces(3)):
        if f.sum() > 1:
            a, b = p.concentration[f], q.concentration[f]
            expected = expected + p.face_probs[m] * kl_divergence(Dirichlet(a), Dirichlet(b))
    assert torch.allclose(kl_divergence(p, q), expected, rtol=1e-12)
    y = p.sample((30000,))
    assert mean_is(p.log_prob(y) - q.log_prob(y), kl_divergence(p, q))
    assert mean_is(-q.log_prob(y), p.cross_entropy(q))
    assert kl_divergence(p, p) == 0
    vertices = ts.latent.MixedDirichlet.maximum_entropy(ALPHA, torch.tensor([1.0, 0, 0], dtype=D))
    assert kl_divergence(p, vertices) == math.inf
    assert kl_divergence(vertices, p).isfinite()
    assert vertices.entropy().item() == pytest.approx(math.log(3))
    assert vertices.log_prob(torch.tensor([0.5, 0.5, 0], dtype=D)) == -math.inf


def test_maximum_entropy_faces():
    sizes = torch.tensor([0.2, 0.5, 0.3, 0.0], dtype=D)
    d = ts.latent.MixedDirichlet.maximum_entropy(torch.ones(4, dtype=D), sizes)
    assert torch.allclose(d.size_probs, sizes)
    for f, p in zip(faces(4), d.face_probs, strict=True):
        assert p.item() == pytest.approx(sizes[f.sum() - 1].item() / math.comb(4, int(f.sum())))
    x = torch.tensor([0.2, 0.5, 0.3], dtype=D, requires_grad=True)
    (slope,) = torch.autograd.grad(ts.latent.MixedDirichlet.maximum_entropy(ALPHA, x).entropy(), x)
    assert slope.isfinite().all()


def test_mixed_dirichlet_derivatives():
    y = ts.latent.MixedDirichlet(ALPHA, SCORES).sample((6, 1))
    x = [t.expand(2, 3).clone().requires_grad_() for t in (ALPHA, SCORES)]
    q = ts.latent.MixedDirichlet(ALPHA.flip(0), -SCORES)
    for f in (
        lambda d: d.log_prob(y),
        lambda d: d.entropy(),
        lambda d: kl_divergence(d, q),
        lambda d: kl_divergence(q, d),
    ):
        assert torch.autograd.gradcheck(lambda *x, f=f: f(ts.latent.MixedDirichlet(*x)), x)
    zero = torch.tensor([0.0, 0.5, 0.0, 0.0, 0.5, 0.0, 0.0], dtype=D, requires_grad=True)
    d = ts.latent.MixedDirichlet(ALPHA, face_probs=zero)
    on_edge = torch.tensor([0.4, 0.0, 0.6], dtype=D)
    for value in (d.entropy(), d.log_prob(on_edge), kl_divergence(d, q)):
        (slope,) = torch.autograd.grad(value, zero, retain_graph=True)
        assert slope.isfinite().all()
        assert slope.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_small_concentrations_stay_on_their_face(dtype):
    full = torch.zeros(7, dtype=dtype)
    full[6] = 1
    for alpha in (1e-3, 1e-2, 1e3, 1e6):
        x = torch.full((3,), alpha, dtype=dtype, requires_grad=True)
        d = ts.latent.MixedDirichlet(x, face_probs=full)
        y = d.sample((500,))
        assert (y > 0).all()
        log_p = d.log_prob(y)
        assert log_p.isfinite().all()
        (slope,) = torch.autograd.grad(log_p.sum() + d.entropy() + kl_divergence(d, d), x)
        assert slope.isfinite().all()


def test_mixed_dirichlet_refusals():
    with pytest.raises(ParameterError, match="2\\^K - 1"):
        ts.latent.MixedDirichlet(torch.ones(13), torch.zeros(13))
    assert ts.latent.MixedDirichlet(torch.ones(12), 20 * torch.randn(50, 12)).sample().shape == (50, 12)
    for wrong in ({}, {"scores": torch.zeros(3), "face_probs": torch.ones(7) / 7}):
        with pytest.raises(ParameterError, match="MixedDirichlet with"):
            ts.latent.MixedDirichlet(torch.ones(3), **wrong)
    with pytest.raises(ShapeError):
        ts.latent.MixedDirichlet(torch.ones(3), torch.zeros(4))
    with pytest.raises(ShapeError, match="Batches"):
        ts.latent.MixedDirichlet(torch.ones(2, 3), torch.zeros(4, 3))
    with pytest.raises(ShapeError):
        ts.latent.MixedDirichlet(torch.ones(3), face_probs=torch.ones(8) / 8)
    with pytest.raises(ValueError, match="face_probs"):
        ts.latent.MixedDirichlet(torch.ones(3), face_probs=torch.ones(7))
    with pytest.raises(ValueError, match="concentration"):
        ts.latent.MixedDirichlet(torch.tensor([1.0, 0.0]), torch.zeros(2))
    d = ts.latent.MixedDirichlet(torch.ones(3), torch.zeros(3))
    assert not d.has_rsample
    with pytest.raises(NotImplementedError, match="rsample"):
        d.rsample()
