"""The distributions as sample sites of Pyro."""

import copy
import math
import pickle

import pytest
import torch
from torch.distributions import kl_divergence

import tsallis as ts
from tsallis.core.errors import TsallisError

from .sampled import mean_is

D = torch.float64
BATCH, SIZE = 4, 5


def test_without_pyro_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr("tsallis.latent.distributions.base.find_spec", lambda name: None)
    with pytest.raises(TsallisError, match="pip install pyro-ppl"):
        ts.latent.SparseCategorical(torch.tensor([1.0])).to_pyro()


@pytest.fixture
def pyro():
    found = pytest.importorskip("pyro", reason="pyro-ppl is not installed: pip install pyro-ppl")
    with found.validation_enabled():
        yield found


def elbo_of(pyro, kind, model, guide, **options):
    import pyro.infer

    return getattr(pyro.infer, kind)(max_plate_nesting=1, **options).differentiable_loss(model, guide)


PARALLEL = {"enumerate": "parallel"}


def test_enumerated_categories_give_the_exact_elbo(pyro):
    scores = (1.5 * torch.randn(BATCH, SIZE, dtype=D)).requires_grad_()
    loss = torch.randn(BATCH, SIZE, dtype=D)
    uniform = torch.full((SIZE,), 1 / SIZE, dtype=D)

    def model():
        with pyro.plate("rows", BATCH):
            z = pyro.sample("z", ts.latent.SparseCategorical(uniform.expand(BATCH, SIZE)).to_pyro(), infer=PARALLEL)
            pyro.factor("loss", loss[torch.arange(BATCH), z])

    def guide():
        with pyro.plate("rows", BATCH):
            pyro.sample("z", ts.latent.SparseCategorical(scores=scores).to_pyro(), infer=PARALLEL)

    q = ts.latent.SparseCategorical(scores=scores)
    assert len(set((q.probs > 0).sum(-1).tolist())) > 1
    exact = -(q.probs * loss).sum() - q.entropy().sum() + BATCH * math.log(SIZE)
    found = elbo_of(pyro, "TraceEnum_ELBO", model, guide)
    assert torch.allclose(found, exact, rtol=1e-12)
    slopes = [torch.autograd.grad(value, scores)[0] for value in (found, exact)]
    assert torch.allclose(*slopes, atol=1e-12)
    assert slopes[0].abs().sum() > 0.1


def test_enumerated_sites_in_a_chain(pyro):
    # The second site's rows are those of the first's values: enumerated dimensions must not depend on each other.
    scores = [torch.randn(SIZE, dtype=D, requires_grad=True), torch.randn(SIZE, SIZE, dtype=D, requires_grad=True)]
    first, step = map(ts.sparsemax, scores)
    assert (first == 0).any()
    assert (step == 0).any()
    emission = torch.randn(SIZE, dtype=D)

    def model():
        z = pyro.sample("z0", ts.latent.SparseCategorical(first).to_pyro(), infer=PARALLEL)
        for t in pyro.markov(range(1, 4)):
            z = pyro.sample(f"z{t}", ts.latent.SparseCategorical(step[z]).to_pyro(), infer=PARALLEL)
            pyro.factor(f"loss{t}", emission[z])

    import pyro.infer

    found = pyro.infer.TraceEnum_ELBO(max_plate_nesting=0).differentiable_loss(model, lambda: None)
    alpha = first
    for _ in range(3):
        alpha = (alpha @ step) * emission.exp()
    exact = -alpha.sum().log()
    assert torch.allclose(found, exact, rtol=1e-12)
    slopes = [torch.autograd.grad(value, scores, retain_graph=True) for value in (found, exact)]
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*slopes, strict=True))


def test_enumerated_bits_give_the_exact_elbo(pyro):
    scores = torch.randn(BATCH, 6, dtype=D, requires_grad=True)
    solution = ts.structured.topk_sparsemax_bits(scores, 6)
    q = ts.latent.SparseBitVector.from_solution(solution)
    weight = torch.randn(6, dtype=D)

    def model():
        with pyro.plate("rows", BATCH):
            half = torch.full((6,), 0.5, dtype=D)
            z = pyro.sample("z", pyro.distributions.Bernoulli(half).to_event(1))
            pyro.factor("loss", (z @ weight).sin())

    def guide():
        with pyro.plate("rows", BATCH):
            pyro.sample("z", q.to_pyro(), infer=PARALLEL)

    loss = (solution.vertices @ weight).sin()
    exact = -(solution.p * loss).sum() - q.entropy().sum() + BATCH * 6 * math.log(2)
    found = elbo_of(pyro, "TraceEnum_ELBO", model, guide)
    assert torch.allclose(found, exact, rtol=1e-12)


def test_mixed_samples_give_the_elbo(pyro):
    loc = torch.tensor([[0.6, 0.1], [-0.2, 0.1]], dtype=D, requires_grad=True)
    prior = ts.latent.GaussianSparsemax(torch.zeros(2, 2, dtype=D), 1.0)
    count = 4000

    def f(y):
        return (3 * y[..., 0]).sin()

    def model():
        with pyro.plate("rows", 2):
            y = pyro.sample("y", prior.to_pyro())
            pyro.factor("loss", f(y))

    def guide():
        with pyro.plate("rows", 2):
            pyro.sample("y", ts.latent.GaussianSparsemax(loc, 0.5).to_pyro())

    q = ts.latent.GaussianSparsemax(loc, 0.5)
    b = q.binary()
    nodes, weights = b.inside()
    mean = (weights * (3 * nodes).sin()).sum(0) + b.log_one.exp() * math.sin(3)
    exact = (kl_divergence(q, prior) - mean).sum()
    found = elbo_of(pyro, "Trace_ELBO", model, guide, num_particles=count, vectorize_particles=True)
    y = q.sample((count,))
    spread = (q.log_prob(y) - prior.log_prob(y) - f(y)).sum(-1).std().item() / count**0.5
    assert abs(found.item() - exact.item()) < 4.5 * spread
    slope = torch.autograd.grad(found, loc)[0]
    assert slope.isfinite().all()


def test_faces_are_sampled_and_scored(pyro):
    d = ts.latent.MixedDirichlet(torch.ones(3, dtype=D), torch.zeros(3, dtype=D)).to_pyro()
    trace = pyro.poutine.trace(lambda: pyro.sample("y", d.expand((2000,)).to_event(1))).get_trace()
    y = trace.nodes["y"]["value"]
    assert mean_is((y > 0).sum(-1).double(), torch.tensor(12 / 7, dtype=D))
    assert torch.allclose(trace.log_prob_sum(), d.log_prob(y).sum())


def test_a_pyro_distribution_stays_one(pyro):
    d = ts.latent.HardConcrete(torch.zeros(3)).to_pyro()
    assert isinstance(d, ts.latent.HardConcrete)
    assert type(d.to_pyro()) is type(d) is type(d.expand((2, 3)))
    assert kl_divergence(d, ts.latent.HardKuma(torch.ones(3), 1.0)).shape == (3,)
    assert d.mask(torch.tensor([True, False, True])).log_prob(torch.zeros(3))[1] == 0
    for again in (pickle.loads(pickle.dumps(d)), copy.deepcopy(d)):
        assert type(again) is type(d)
        assert again.batch_shape == d.batch_shape
        assert torch.equal(again.loc, d.loc)
