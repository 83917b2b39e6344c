"""The k best bit vectors against enumeration, their certificates, and distributions with given marginals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis.core.errors import ParameterError, ShapeError
from tsallis.structured import Bits, comonotone, k_best_bits, systematic, topk_sparsemax_bits


def _scores(batch: int, d: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(batch, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [1, 2, 3, 7, 40, 2000])
@pytest.mark.parametrize("d", [1, 2, 5, 10])
def test_the_best_vectors_are_the_best_of_all(d: int, k: int, ties: bool) -> None:
    x = _scores(30, d).round() if ties else _scores(30, d)
    vectors, values = k_best_bits(x, k)
    every = (x @ Bits(d).enumerate().mT).sort(-1, descending=True).values[:, :k]
    assert values.shape == (30, min(k, 2**d))
    assert torch.allclose(values, every)
    assert torch.allclose((vectors * x[:, None]).sum(-1), values)
    assert all(len(own.unique(dim=0)) == len(own) for own in vectors)


def test_many_bits_and_ruled_out_ones() -> None:
    x = _scores(4, 1000)
    x[:, 3] = -torch.inf
    vectors, values = k_best_bits(x.requires_grad_(), 5)
    assert not bool(vectors[..., 3].any())
    assert bool((values.diff(dim=-1) <= 0).all())
    values.sum().backward()
    assert torch.equal(x.grad, vectors.sum(1))
    cost = x.detach().abs().sort(-1).values
    assert torch.allclose(values[:, 0] - values[:, 1], cost[:, 0])


@pytest.mark.parametrize(
    ("scale", "mean", "certified"), [(0.1, 33.5, 0.0), (0.3, 14.5, 0.205), (1.0, 5.9, 0.965), (3.0, 3.4, 0.995)]
)
def test_certificates_are_right_and_as_often_as_measured_before(scale: float, mean: float, certified: float) -> None:
    """The figures before are of 200 other draws: three standard errors are allowed."""
    n, before = 600, 200
    x = _scores(n, 12, scale)
    p = ts.sparsemax(x @ Bits(12).enumerate().mT)
    support = (p > 0).sum(-1)
    wide = 3 * (1 / n + 1 / before) ** 0.5
    assert float(support.double().mean()) == pytest.approx(mean, abs=wide * float(support.double().std()))
    found = topk_sparsemax_bits(x, 10)
    assert torch.equal(found.exact, support <= 10)
    share = float(found.exact.double().mean())
    assert share == pytest.approx(certified, abs=0.005 + wide * (certified * (1 - certified)) ** 0.5)
    # The certificate without the next best vector is weaker, never wrong.
    assert bool(found.exact[(found.p > 0).sum(-1) < 10].all())
    grown = topk_sparsemax_bits(x, 10, grow=True)
    assert bool(grown.exact.all())
    every = Bits(12).enumerate()
    for i in range(0, 200, 20):
        place = (grown.vertices[i][:, None] == every).all(-1).double()
        assert torch.allclose(grown.p[i] @ place, p[i], atol=1e-12)
    assert not bool(topk_sparsemax_bits(_scores(3, 12, 0.01), 10, grow=True, most=20).exact.any())


def test_gradients_of_top_structures() -> None:
    x = _scores(3, 6, 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: topk_sparsemax_bits(s, 8).p, x)
    # All vectors: exact whatever the scores.
    assert bool(topk_sparsemax_bits(x, 64).exact.all())


@pytest.mark.parametrize("rule", [comonotone, systematic])
def test_marginals_come_back(rule: Any) -> None:
    mu = torch.rand(300, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mu[0], mu[1], mu[2, :7], mu[3] = 0.0, 1.0, 1.0, 0.1
    vectors, p = rule(mu)
    assert vectors.shape == (300, 21, 20)
    assert bool(((vectors == 0) | (vectors == 1)).all())
    assert bool((p >= -1e-15).all())
    assert torch.allclose(p.sum(-1), torch.ones(300, dtype=torch.float64))
    assert torch.allclose(torch.einsum("bs,bsd->bd", p, vectors), mu, atol=1e-12)
    inside = mu[4:6].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda m: rule(m)[1], inside)
    assert rule(mu[:0])[1].shape == (0, 21)
    with pytest.raises(ShapeError, match=r"\(B, D\)"):
        rule(mu[0])


def test_chains_contain_each_other() -> None:
    vectors, _ = comonotone(torch.rand(10, 8))
    assert bool((vectors.diff(dim=1) >= 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_systematic_vectors_have_as_many_bits_as_the_sum_says(dtype: torch.dtype) -> None:
    mu = torch.rand(300, 20, generator=torch.Generator().manual_seed(1), dtype=dtype)
    vectors, p = systematic(mu)
    on, total = vectors.sum(-1), mu.double().sum(-1, keepdim=True)
    allowed = (on == total.floor()) | (on == total.ceil())
    assert bool(allowed[p > 0].all())
    # Budgets that are met but for rounding are kept.
    for whole in (torch.full((1, 10), 0.1), torch.full((1, 30), 1 / 3), torch.full((1, 7), 3 / 7)):
        vectors, p = systematic(whole.to(dtype))
        assert bool((vectors.sum(-1)[p > 1e-6] == whole.sum().round()).all())


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: k_best_bits(torch.randn(2, 3), 0), ParameterError, "1 at least"),
        (lambda: k_best_bits(torch.randn(3), 2), ShapeError, r"\(B, D\)"),
        (lambda: k_best_bits(torch.randn(3, 0), 2), ShapeError, "D > 0"),
    ],
)
def test_errors_say_what_to_do(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()
