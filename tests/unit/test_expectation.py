"""Exact marginalization: equal to the dense sum, evaluated on the support only, within the memory asked for."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import tsallis as ts
from tsallis.core.errors import ParameterError, RegistryError, ShapeError, TsallisError
from tsallis.latent import Marginal, expectation

SPARSE = ["sparsemax", "entmax15", "normmax", Marginal("entmax", {"alpha": 1.3}), Marginal("topk_sparsemax", {"k": 2})]
B, K, D = 6, 5, 4


class Decoder(nn.Module):
    """loss(b, z) of a small network, with a hook that counts the rows it sees."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Embedding(K, D)
        self.body = nn.Sequential(nn.Linear(2 * D, width), nn.Tanh(), nn.Linear(width, 1))
        self.calls: list[int] = []
        self.body.register_forward_hook(lambda module, inputs, output: self.calls.append(inputs[0].shape[0]))

    def loss(self, x: Tensor):
        return lambda index, z: self.body(torch.cat([x[index], self.embed(z)], -1)).squeeze(-1)


@pytest.fixture
def setting():
    torch.manual_seed(5)
    decoder = Decoder().double()
    x = torch.randn(B, D, dtype=torch.float64)
    scores = torch.randn(B, K, dtype=torch.float64, requires_grad=True)
    return decoder, x, scores


def _dense(decoder: Decoder, x: Tensor, probs: Tensor, weight: float) -> Tensor:
    rows = torch.arange(B).repeat_interleave(K)
    table = decoder.loss(x)(rows, torch.arange(K).repeat(B)).reshape(B, K)
    entropy = -torch.special.xlogy(probs, probs.clamp_min(1e-300)).sum(-1)
    return ((probs * table).sum(-1) - weight * entropy).mean()


def _gradients(objective: Tensor, decoder: Decoder, scores: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(objective, [scores, *decoder.parameters()]))


@pytest.mark.parametrize("estimator", ["softmax", *SPARSE], ids=str)
@pytest.mark.parametrize("weight", [0.0, 0.7])
@pytest.mark.parametrize("max_rows", [None, 1, 4, 100])
def test_equals_the_dense_sum(setting, estimator, weight: float, max_rows: int | None) -> None:
    decoder, x, scores = setting
    method = Marginal(estimator) if isinstance(estimator, str) else estimator
    result = expectation(scores, decoder.loss(x), estimator, entropy_weight=weight, max_rows=max_rows)
    probs = ts.core.registry.get(method.mapping)(scores, **method.params)
    expected = _dense(decoder, x, probs, weight)
    assert torch.allclose(result.objective, expected, atol=1e-12)
    assert torch.equal(result.probs, probs)
    pairs = zip(_gradients(result.objective, decoder, scores), _gradients(expected, decoder, scores), strict=True)
    for got, wanted in pairs:
        assert torch.allclose(got, wanted, atol=1e-12)
        assert wanted.abs().max() > 1e-6


@pytest.mark.parametrize("estimator", SPARSE, ids=str)
def test_the_decoder_sees_exactly_the_support(setting, estimator) -> None:
    decoder, x, scores = setting
    result = expectation(scores, decoder.loss(x), estimator)
    assert decoder.calls == [int(result.support_size.sum())] == [result.rows]
    assert B <= result.rows < B * K
    decoder.calls.clear()
    expectation(scores, decoder.loss(x), estimator, max_rows=4)
    assert sum(decoder.calls) == result.rows
    assert len(decoder.calls) == -(-result.rows // 4)
    assert max(decoder.calls) <= 4


def test_dense_counts_every_value_and_accepts_a_table(setting) -> None:
    decoder, x, scores = setting
    result = expectation(scores, decoder.loss(x), "softmax", entropy_weight=0.3)
    assert decoder.calls == [B * K] == [result.rows]
    rows, values = torch.arange(B).repeat_interleave(K), torch.arange(K).repeat(B)
    table = expectation(
        scores, None, "softmax", entropy_weight=0.3, table_fn=lambda: decoder.loss(x)(rows, values).reshape(B, K)
    )
    assert table.rows == B * K
    assert torch.allclose(table.objective, result.objective)
    pairs = zip(
        _gradients(table.objective, decoder, scores), _gradients(result.objective, decoder, scores), strict=True
    )
    assert all(torch.allclose(a, b) for a, b in pairs)


def test_pairs_are_packed_in_order(setting) -> None:
    _, _, scores = setting
    seen: list[tuple[Tensor, Tensor]] = []
    result = expectation(scores, lambda index, z: seen.append((index, z)) or z.double())
    (index, z), p = seen[0], result.probs.detach()
    assert index.dtype == z.dtype == torch.long
    assert (index.diff() >= 0).all()
    assert (p[index, z] > 0).all()
    assert len(set(zip(index.tolist(), z.tolist(), strict=True))) == int((p > 0).sum())


def _peak_bytes(work: Callable[[], object]) -> int:
    """The most that torch held at once. The peak of the process would depend on how malloc reuses freed blocks."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    changes = [e.nbytes() for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(changes))


def test_peak_memory_falls_and_gradients_stay() -> None:
    """20,000 rows of 1,024 hidden units: 80 MB for each activation at once, or 2 MB at a time."""
    net = nn.Sequential(nn.Linear(8, 1024), nn.Tanh(), nn.Linear(1024, 1))
    scores, x = torch.randn(2000, 10, requires_grad=True), torch.randn(2000, 8)
    leaves = [scores, *net.parameters()]

    def work(max_rows: int | None) -> tuple[int, list[Tensor]]:
        gradients: list[Tensor] = []

        def once() -> None:
            result = expectation(scores, lambda i, z: net(x[i] + z[:, None]).squeeze(-1), "softmax", max_rows=max_rows)
            assert result.rows == 20000
            gradients.extend(torch.autograd.grad(result.objective, leaves))

        return _peak_bytes(once), gradients

    (whole, expected), (chunked, gradients) = work(None), work(500)
    assert whole > 160e6
    assert chunked < whole / 20
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(gradients, expected, strict=True))
    assert all(g.abs().max() > 1e-6 for g in expected)


def test_random_losses_are_recomputed_with_the_same_noise(setting) -> None:
    """A reparameterised decoder under checkpointing: the backward pass must see the noise of the forward pass."""
    _, _, scores = setting
    mean = torch.zeros(K, dtype=torch.float64, requires_grad=True)
    seen: list[Tensor] = []

    def loss(index: Tensor, z: Tensor) -> Tensor:
        noise = torch.randn(index.shape[0], dtype=torch.float64)
        seen.append(noise)
        return (mean[z] + noise) ** 2

    result = expectation(scores, loss, "softmax", max_rows=10)
    (grad,) = torch.autograd.grad(result.objective, mean)
    first, again = seen[:3], seen[3:]
    assert len(again) == 3
    p, noise = result.probs.detach().reshape(-1), torch.cat(first)
    expected = torch.zeros(K, dtype=torch.float64).index_add(0, torch.arange(K).repeat(B), 2 * p * noise / B)
    assert torch.allclose(grad, expected)
    assert sorted(t.sum().item() for t in first) == sorted(t.sum().item() for t in again)


def test_rows_that_cannot_be_used() -> None:
    scores = torch.randn(4, 3)
    scores[1] = float("-inf")
    scores[2, 0] = float("nan")
    result = expectation(scores, lambda index, z: torch.ones(index.shape[0]))
    assert result.loss.isnan().tolist() == [False, False, True, False]
    assert result.loss[1] == 0
    assert torch.allclose(result.loss[[0, 3]], torch.ones(2))
    empty = expectation(torch.zeros(0, 3), lambda index, z: torch.ones(index.shape[0]))
    assert empty.loss.shape == (0,)
    assert empty.rows == 0
    assert empty.objective.isnan()
    single = expectation(torch.zeros(1, 1), lambda index, z: torch.full((1,), 2.0))
    assert single.objective == 2


@pytest.mark.parametrize("estimator", ["softmax", "sparsemax"])
def test_bf16_autocast(estimator: str) -> None:
    decoder, x = Decoder(), torch.randn(B, D)
    scores = torch.randn(B, K, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = expectation(scores, decoder.loss(x), estimator, entropy_weight=0.5)
    exact = expectation(scores, decoder.loss(x), estimator, entropy_weight=0.5)
    assert result.loss.dtype == torch.float32
    assert torch.allclose(result.objective, exact.objective, atol=0.05)
    result.objective.backward()
    assert scores.grad.isfinite().all()


def test_learned_alpha_gets_a_gradient(setting) -> None:
    decoder, x, scores = setting
    alpha = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)

    def objective(alpha: Tensor) -> Tensor:
        return expectation(scores, decoder.loss(x), Marginal("entmax", {"alpha": alpha}), entropy_weight=0.2).objective

    assert torch.autograd.gradcheck(objective, (alpha,))


def test_second_order_in_scores(setting) -> None:
    decoder, x, scores = setting
    work = lambda s: expectation(s, decoder.loss(x), "softmax", entropy_weight=0.2).objective  # noqa: E731
    assert torch.autograd.gradgradcheck(work, (scores,))


def test_under_compile(setting) -> None:
    """The same values and gradients; the only reason for a break is that the number of rows is a value."""
    decoder, x, scores = setting
    decoder.body._forward_hooks.clear()

    def work(scores: Tensor) -> Tensor:
        return expectation(scores, decoder.loss(x), entropy_weight=0.3).objective

    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        explained = torch._dynamo.explain(work)(scores)
        torch.compiler.reset()
        compiled = torch.compile(work, backend="aot_eager")(scores)
    assert explained.break_reasons
    assert all("nonzero" in str(each.reason) for each in explained.break_reasons)
    expected = work(scores)
    assert torch.allclose(compiled, expected)
    pairs = zip(_gradients(compiled, decoder, scores), _gradients(expected, decoder, scores), strict=True)
    assert all(torch.allclose(a, b) for a, b in pairs)
    torch.compiler.reset()


def test_errors(setting) -> None:
    decoder, x, scores = setting
    loss = decoder.loss(x)
    for kind, match, call in [
        (ShapeError, r"\(B, K\)", lambda: expectation(scores[0], loss)),
        (ShapeError, "one loss for each pair", lambda: expectation(scores, lambda i, z: loss(i, z).sum())),
        (TsallisError, "NoneType", lambda: expectation(scores, lambda i, z: None)),
        (ParameterError, "max_rows=0", lambda: expectation(scores, loss, max_rows=0)),
        (ParameterError, "onto the simplex", lambda: expectation(scores, loss, "budget")),
        (RegistryError, "dense", lambda: expectation(scores, loss, "dense")),
        (ParameterError, "table_fn with the estimator", lambda: expectation(scores, None, table_fn=lambda: scores)),
        (ParameterError, "Both", lambda: expectation(scores, loss, "softmax", table_fn=lambda: scores)),
        (ParameterError, "Neither", lambda: expectation(scores, None)),
        (
            ParameterError,
            "max_rows with",
            lambda: expectation(scores, None, "softmax", table_fn=lambda: scores, max_rows=3),
        ),
        (ShapeError, "table_fn returned", lambda: expectation(scores, None, "softmax", table_fn=lambda: scores[0])),
        (ParameterError, "generator", lambda: expectation(scores, loss, generator=torch.Generator())),
    ]:
        with pytest.raises(kind, match=match):
            call()
