"""Categorical distributions and distributions over bit vectors with exact zeros."""

import itertools
import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

import tsallis as ts
from tsallis.core.errors import ParameterError, ShapeError

from .sampled import agree

D = torch.float64
P = torch.tensor([[0.5, 0.0, 0.3, 0.2, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0], [0.2, 0.2, 0.2, 0.2, 0.2]], dtype=D)


def test_categories_log_prob_is_never_nan_and_exact_off_the_support():
    p = P.clone().requires_grad_()
    d = ts.latent.SparseCategorical(p)
    values = torch.arange(5)[:, None]
    log_p = d.log_prob(values)
    assert log_p.shape == (5, 3)
    assert torch.equal(log_p.exp(), p.detach().T)
    assert torch.equal(log_p == -math.inf, p.T == 0)
    (slope,) = torch.autograd.grad(torch.where(log_p > -math.inf, log_p, 0.0).sum(), p, retain_graph=True)
    assert torch.equal(slope, torch.where(P > 0, 1 / P, 0.0))
    (whole,) = torch.autograd.grad(log_p.sum(), p)
    assert whole.isfinite().all()


def test_categories_entropy():
    p = P.clone().requires_grad_()
    entropy = ts.latent.SparseCategorical(p).entropy()
    expected = [-sum(x * math.log(x) for x in row if x) for row in P.tolist()]
    assert torch.allclose(entropy, torch.tensor(expected, dtype=D), rtol=1e-14, atol=0)
    (slope,) = torch.autograd.grad(entropy.sum(), p)
    assert torch.allclose(slope, torch.where(P > 0, -P.clamp_min(1e-9).log() - 1, 0.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_categories_samples_are_possible_and_have_their_frequencies(dtype):
    d = ts.latent.SparseCategorical(P.to(dtype))
    z = d.sample((4, 5000))
    assert z.shape == (4, 5000, 3)
    assert z.dtype == torch.long
    for row in range(3):
        expected = d.probs[row].double()
        assert agree(torch.bincount(z[..., row].flatten(), minlength=5), expected / expected.sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_no_impossible_category_among_many(dtype):
    # Many zeros, and entries too small for a sum in this precision.
    scores = torch.zeros(2, 5000)
    scores[:, ::7] = 1.0
    d = ts.latent.SparseCategorical(scores=scores.to(dtype), mapping="entmax15")
    z = d.sample((2000,))
    assert (d.probs == 0).sum() > 8000
    assert (d.probs.expand(2000, -1, -1).gather(-1, z.unsqueeze(-1)) > 0).all()
    lone = torch.zeros(70000, dtype=dtype)
    lone[65536] = 1
    assert (ts.latent.SparseCategorical(lone).sample((50,)) == 65536).all()


def test_a_draw_past_the_end_is_moved_to_a_possible_category(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: torch.ones(*shape, **options))
    d = ts.latent.SparseCategorical(torch.tensor([0.0, 0.75, 0.25, 0.0]))
    assert d.sample().item() == 1


def test_categories_from_scores():
    scores = torch.randn(4, 6, dtype=D, requires_grad=True)
    d = ts.latent.SparseCategorical(scores=scores, mapping="entmax", params={"alpha": 1.7})
    assert torch.equal(d.probs, ts.entmax(scores, 1.7))
    (slope,) = torch.autograd.grad(d.entropy().sum(), scores)
    assert slope.abs().sum() > 0
    assert slope.isfinite().all()
    assert torch.equal(ts.latent.SparseCategorical(scores=scores).probs, ts.sparsemax(scores))


def test_categories_enumerate_the_union_of_supports():
    p = torch.tensor([[0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 1.0]])
    d = ts.latent.SparseCategorical(p)
    assert d.enumerate_support(expand=False).tolist() == [[0], [2], [3]]
    assert d.enumerate_support().tolist() == [[0, 0], [2, 2], [3, 3]]
    assert torch.allclose(d.log_prob(d.enumerate_support()).exp().sum(0), torch.ones(2))
    assert d.log_prob(d.enumerate_support())[2, 0] == -math.inf
    assert ts.latent.SparseCategorical(p[0]).enumerate_support().tolist() == [0, 2]


def test_categories_support_is_of_what_has_probability():
    d = ts.latent.SparseCategorical(P)
    assert d.support.check(torch.tensor([0, 1, 4])).all()
    assert d.support.check(torch.tensor([1, 0, 5])).tolist() == [False, False, False]
    assert d.support.is_discrete
    assert d.support.event_dim == 0
    with pytest.raises(ParameterError, match="whole numbers"):
        d.log_prob(torch.tensor([0, 1, 5]))
    with pytest.raises(ParameterError, match="whole numbers"):
        d.log_prob(torch.tensor([0.5, 1, 1]))


def test_categories_that_do_not_exist_are_impossible():
    d = ts.latent.SparseCategorical(torch.tensor([0.5, 0.5]), validate_args=False)
    assert d.log_prob(torch.tensor([2.0, -1.0, 0.5, math.nan, math.inf])).tolist() == [-math.inf] * 5
    assert d.log_prob(torch.tensor([True, False])).exp().tolist() == [0.5, 0.5]
    unknown = ts.latent.SparseCategorical(torch.tensor([math.nan, 0.5]), validate_args=False)
    assert unknown.log_prob(torch.tensor(0)).isnan()


def test_categories_mode_expand_and_shapes():
    d = ts.latent.SparseCategorical(P)
    assert d.mode.tolist() == [0, 1, 0]
    e = d.expand((2, 3))
    assert e.batch_shape == (2, 3)
    assert e.event_shape == ()
    assert e.sample().shape == (2, 3)
    assert torch.equal(e.log_prob(torch.zeros(2, 3)), d.log_prob(torch.zeros(3)).expand(2, 3))
    one = ts.latent.SparseCategorical(torch.tensor([1.0]))
    assert one.sample((3,)).tolist() == [0, 0, 0]
    assert ts.latent.SparseCategorical(torch.zeros(0, 3)).sample((2,)).shape == (2, 0)
    assert not d.has_rsample
    with pytest.raises(NotImplementedError):
        d.rsample()


@pytest.mark.parametrize(
    "row", [[0.0, 0.0, 0.0], [math.nan, 0.5, 0.5], [0.5, 0.6, -0.1], [0.5, 0.4, 0.0], [math.inf, 0.0, 0.0]]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_rows_that_are_no_distribution_are_refused(row, dtype):
    rows = torch.tensor([[0.5, 0.25, 0.25], row], dtype=dtype)
    with pytest.raises(ValueError, match="probs"):
        ts.latent.SparseCategorical(rows)
    ts.latent.SparseCategorical(rows, validate_args=False)


def test_fully_masked_scores_are_refused():
    scores = torch.tensor([[0.0, 1.0], [-math.inf, -math.inf]])
    with pytest.raises(ValueError, match="probs"):
        ts.latent.SparseCategorical(scores=scores)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rows_of_every_precision_are_accepted(dtype):
    scores = 3 * torch.randn(20, 300)
    for mapping in ("softmax", "entmax15", "sparsemax"):
        d = ts.latent.SparseCategorical(scores=scores.to(dtype), mapping=mapping)
        assert d.entropy().dtype == dtype
        assert d.log_prob(d.sample()).dtype == dtype
        reference = ts.latent.SparseCategorical(d.probs.double() / d.probs.double().sum(-1, keepdim=True))
        assert torch.allclose(d.entropy().double(), reference.entropy(), rtol=3 * torch.finfo(dtype).eps, atol=0.03)


def test_arguments_that_exclude_each_other():
    p = torch.tensor([1.0])
    for wrong in ({}, {"probs": p, "scores": p}, {"probs": p, "mapping": "softmax"}, {"probs": p, "params": {}}):
        with pytest.raises(ParameterError):
            ts.latent.SparseCategorical(**wrong)


def test_kl_of_categories():
    p = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0]], dtype=D, requires_grad=True)
    q = torch.tensor([[0.2, 0.3, 0.5], [0.0, 0.5, 0.5], [0.0, 1.0, 0.0]], dtype=D, requires_grad=True)
    kl = kl_divergence(ts.latent.SparseCategorical(p), ts.latent.SparseCategorical(q))
    assert torch.allclose(kl[0], 0.5 * torch.tensor(0.5 / 0.2 * 0.5 / 0.3, dtype=D).log())
    assert kl[1] == math.inf
    assert kl[2] == 0
    slopes = torch.autograd.grad(kl[0] + kl[2], (p, q))
    assert all(s.isfinite().all() for s in slopes)
    assert torch.allclose(slopes[1][0], -torch.tensor([2.5, 5 / 3, 0], dtype=D))
    same = ts.latent.SparseCategorical(P)
    assert torch.equal(kl_divergence(same, same), torch.zeros(3, dtype=D))
    uniform = kl_divergence(same, Categorical(torch.ones(5, dtype=D)))
    assert torch.allclose(uniform, math.log(5) - same.entropy())
    lacking = Categorical(torch.tensor([0.0, 1, 0, 0, 0], dtype=D))
    assert kl_divergence(same, lacking).tolist() == [math.inf, pytest.approx(0, abs=1e-12), math.inf]
    for count in (1, 2):
        other = torch.full((count,), 1 / count, dtype=D)
        for q in (ts.latent.SparseCategorical(other), Categorical(other)):
            with pytest.raises(ShapeError, match="categories"):
                kl_divergence(same, q)


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_kl_of_categories_to_logits_whose_probability_underflows(dtype):
    half = ts.latent.SparseCategorical(torch.tensor([0.5, 0.5], dtype=dtype))
    q = Categorical(logits=torch.tensor([0.0, -1000.0], dtype=dtype))
    assert q.probs[1] == 0
    assert kl_divergence(half, q).item() == pytest.approx(500 - math.log(2))
    assert kl_divergence(half, Categorical(logits=torch.tensor([0.0, -math.inf], dtype=dtype))) == math.inf


# --- bit vectors ------------------------------------------------------------------------------------------------------

V = torch.tensor([[[0, 1, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]], [[0, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0]]], dtype=D)
W = torch.tensor([[0.25, 0.5, 0.25, 0.0], [0.75, 0.25, 7.0, math.nan]], dtype=D)
KEPT = torch.tensor([[True, True, True, True], [True, True, False, False]])


def everything(bits: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=bits)), dtype=D)


def test_bits_probabilities_and_entropy():
    w = W.clone().requires_grad_()
    d = ts.latent.SparseBitVector(V, w, KEPT)
    log_p = d.log_prob(everything(3)[:, None])
    expected = torch.zeros(2, 8, dtype=D)
    expected[0, 3], expected[0, 5], expected[1, 0], expected[1, 6] = 0.5, 0.5, 0.75, 0.25
    assert torch.allclose(log_p.exp().T, expected)
    assert torch.equal(log_p.T.isneginf(), expected == 0)
    assert torch.allclose(d.entropy(), -(expected * expected.clamp_min(1e-300).log()).sum(-1))
    assert torch.allclose(d.marginals, expected @ everything(3))
    on = d.marginals.detach()
    bits = torch.special.entr(on) + torch.special.entr(1 - on)
    assert torch.allclose(d.marginal_entropy(), bits.sum(-1))
    total = d.entropy().sum() + d.marginal_entropy().sum() + torch.where(log_p > -math.inf, log_p, 0.0).sum()
    (slope,) = torch.autograd.grad(total, w)
    assert slope[KEPT].isfinite().all()
    assert (slope[~KEPT] == 0).all()
    assert slope[0, 0] == slope[0, 2] != 0


def test_bits_mode_sample_and_enumeration():
    d = ts.latent.SparseBitVector(
        torch.cat([V[:1], V[:1]]), torch.tensor([[0.3, 0.4, 0.3, 0.0], [0, 0, 0, 1]], dtype=D)
    )
    assert d.mode.tolist() == [[0, 1, 1], [1, 1, 1]]
    z = d.sample((8000,))
    assert z.shape == (8000, 2, 3)
    assert d.support.check(z).all()
    kinds = (z[:, 0] @ torch.tensor([4.0, 2, 1], dtype=D)).long().bincount(minlength=8)
    assert agree(kinds, [0, 0, 0, 0.6, 0, 0.4, 0, 0])
    assert d.enumerate_support(expand=False).tolist() == [[[0, 1, 1]], [[1, 0, 1]], [[1, 1, 1]]]
    assert d.enumerate_support().shape == (3, 2, 3)
    assert torch.allclose(d.log_prob(d.enumerate_support()).exp().sum(0), torch.ones(2, dtype=D))
    assert d.support.check(torch.tensor([1.0, 1, 1])).tolist() == [False, True]
    e = d.expand((5, 2))
    assert e.sample((4,)).shape == (4, 5, 2, 3)
    assert torch.equal(e.entropy()[3], d.entropy())


def test_bits_of_equal_probability_and_bits_that_are_masked():
    v = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [math.nan, 7.0]])
    kept = torch.tensor([True, True, True, False])
    d = ts.latent.SparseBitVector(v, torch.tensor([0.25, 0.5, 0.25, math.nan]), kept)
    assert d.mode.tolist() == [0, 1]
    assert d.marginals.tolist() == [0.5, 1]
    assert d.entropy().item() == pytest.approx(math.log(2))


def test_bits_from_solutions():
    x = torch.randn(3, 6, dtype=D, requires_grad=True)
    found = ts.structured.sparsemap(ts.structured.Budget(6, 3), x)
    d = ts.latent.SparseBitVector.from_solution(found)
    assert torch.allclose(d.marginals, found.marginals)
    assert (d.log_prob(d.mode) > -math.inf).all()
    top = ts.structured.topk_sparsemax_bits(x, 8)
    e = ts.latent.SparseBitVector.from_solution(top)
    assert torch.equal(e.entropy(), ts.latent.SparseCategorical(top.p).entropy())
    for distribution in (d, e):
        (slope,) = torch.autograd.grad(distribution.entropy().sum(), x, retain_graph=True)
        assert slope.isfinite().all()
        assert slope.abs().sum() > 0
    with pytest.raises(ParameterError, match="sparsemap"):
        ts.latent.SparseBitVector.from_solution(x)


def test_kl_of_bits():
    p = ts.latent.SparseBitVector(V[:1], torch.tensor([[0.25, 0.5, 0.25, 0.0]], dtype=D))
    q = ts.latent.SparseBitVector(V[:1, 1:], torch.tensor([[0.2, 0.2, 0.6]], dtype=D))
    expected = 0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.2)
    assert kl_divergence(p, q).tolist() == [pytest.approx(expected)]
    assert kl_divergence(q, p).tolist() == [math.inf]
    assert kl_divergence(p, p).abs().item() < 1e-15


def test_bits_refusals():
    with pytest.raises(ShapeError):
        ts.latent.SparseBitVector(V, W[:, :3])
    with pytest.raises(ShapeError, match="bool"):
        ts.latent.SparseBitVector(V, W, KEPT.double())
    with pytest.raises(ShapeError, match="Batches"):
        ts.latent.SparseBitVector(V, W[:1].expand(3, 4))
    with pytest.raises(ValueError, match="vertices"):
        ts.latent.SparseBitVector(V + 0.5, W, KEPT)
    with pytest.raises(ValueError, match="weights"):
        ts.latent.SparseBitVector(V, W, KEPT & False)
    with pytest.raises(ValueError, match="weights"):
        ts.latent.SparseBitVector(V, W)
    with pytest.raises(ParameterError, match="0 and 1"):
        ts.latent.SparseBitVector(V, W, KEPT).log_prob(torch.full((3,), 0.5))
