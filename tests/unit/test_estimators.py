"""Estimators by sampling: unbiased where they say so, for scores and for the parameters of the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tsallis.core.errors import ParameterError
from tsallis.latent import (
    NVIL,
    Estimator,
    GumbelSoftmax,
    Marginal,
    ScoreFunction,
    SparseMixer,
    SumAndSample,
    expectation,
    sparsemixer,
)  # fmt: skip

B, K, D = 3, 5, 3
F64 = torch.float64


@dataclass
class Toy:
    """A loss with parameters theta, enumerable; every repetition of the batch has a copy of theta of its own."""

    kind: str
    scores: Tensor
    w: Tensor
    theta: Tensor

    @property
    def values(self) -> Tensor:
        return (
            torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=F64)] * D)
            if self.kind == "bits"
            else torch.eye(K, dtype=F64)
        )

    def loss(self, w: Tensor, theta: Tensor, z: Tensor) -> Tensor:
        z = torch.nn.functional.one_hot(z, K).double() if not z.is_floating_point() else z
        return ((z * (w + theta)).sum(-1) + 0.3).square() + (z * theta).sum(-1).sin() + 2

    def dense(self) -> tuple[Tensor, Tensor, Tensor]:
        """Exact gradients of the batch's summed loss, by enumeration, and the loss."""
        scores, theta = self.scores.clone().requires_grad_(), self.theta.clone().requires_grad_()
        if self.kind == "bits":
            p = torch.where(self.values > 0, scores.sigmoid()[:, None], 1 - scores.sigmoid()[:, None]).prod(-1)
        else:
            p = scores.softmax(-1)
        loss = torch.stack([self.loss(self.w, theta, v.expand(B, -1)) for v in self.values], 1)
        total = (p * loss).sum()
        return *torch.autograd.grad(total, [scores, theta]), (p * loss).sum(-1).detach()

    def sampled(self, estimator: Estimator, n: int, entropy_weight: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """n draws of both gradients, (n, B, .) and (n, .), and of the losses (n, B)."""
        scores = self.scores.repeat(n, 1).requires_grad_()
        theta = self.theta.repeat(n, 1).requires_grad_()
        w = self.w.repeat(n, 1)
        e = expectation(
            scores, lambda i, z: self.loss(w[i], theta[i // B], z), estimator.given(w), entropy_weight=entropy_weight
        )
        gradients = torch.autograd.grad(e.surrogate.sum(), [scores, theta])
        return gradients[0].reshape(n, B, -1), gradients[1], e.loss.detach().reshape(n, B)


def problem(kind: str) -> Toy:
    torch.manual_seed(3)
    width = K if kind == "categories" else D
    draw = lambda *shape: torch.randn(*shape, dtype=F64)  # noqa: E731
    return Toy(kind, draw(B, width), 2 * draw(B, width), draw(width))


@pytest.fixture(params=["categories", "bits"])
def toy(request) -> Toy:
    return problem(request.param)


def _network(toy: Toy) -> torch.nn.Module:
    return torch.nn.Linear(toy.w.shape[1], 1).double()


UNBIASED = {
    "none": lambda t: ScoreFunction(latent=t.kind),
    "three samples": lambda t: ScoreFunction(samples=3, latent=t.kind),
    "running": lambda t: ScoreFunction("running", latent=t.kind),
    "sample": lambda t: ScoreFunction("sample", latent=t.kind),
    "two of sample": lambda t: ScoreFunction("sample", samples=2, latent=t.kind),
    "leave-one-out": lambda t: ScoreFunction("leave-one-out", latent=t.kind),
    "leave one of four out": lambda t: ScoreFunction("leave-one-out", samples=4, latent=t.kind),
    "nvil": lambda t: NVIL(_network(t), latent=t.kind),
    "sum one": lambda t: SumAndSample(1),
    "sum two, running": lambda t: SumAndSample(2, "running"),
    "sum all": lambda t: SumAndSample(K),
}


def _errors(draws: Tensor, exact: Tensor) -> Tensor:
    """How many standard errors the means are away."""
    spread = draws.std(0) / math.sqrt(len(draws))
    return ((draws.mean(0) - exact) / spread.clamp_min(1e-12)).abs()


CASES = [("categories", name) for name in UNBIASED] + [("bits", n) for n in UNBIASED if not n.startswith("sum")]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_the_mean_gradient_is_the_dense_gradient(kind: str, name: str) -> None:
    """With the running baseline at work: its mean is set as if training had gone on for long."""
    toy = problem(kind)
    torch.manual_seed(7)
    estimator = UNBIASED[name](toy)
    if (running := getattr(estimator, "running", None)) is not None:
        running.mean.fill_(8.0)
    exact_scores, exact_theta, exact_loss = toy.dense()
    scores, theta, loss = toy.sampled(estimator, 20_000)
    for draws, exact in ((scores, exact_scores), (theta, exact_theta), (loss, exact_loss)):
        assert exact.abs().max() > 0.1
        assert _errors(draws, exact).max() < 4.5
    # Where anything varies the test can tell: an error of two percent of the largest component would be seen.
    assert (scores.std(0).max() / math.sqrt(20_000)) < 0.05 * exact_scores.abs().max()


@pytest.mark.parametrize("samples", [2, 3])
@pytest.mark.parametrize("baseline", ["sample", "leave-one-out"])
def test_a_constant_loss_has_no_gradient_at_all(baseline: str, samples: int) -> None:
    """Other samples are as large: the noise goes, which a wrong scale of the baseline would leave unbiased."""
    scores = torch.randn(B, K, dtype=F64, requires_grad=True)
    e = expectation(scores, lambda i, z: 5 + 0.0 * z + i, ScoreFunction(baseline, samples))
    (g,) = torch.autograd.grad(e.surrogate.sum(), scores)
    assert g.abs().max() < 1e-12


def test_the_published_baseline_leaks_into_the_loss() -> None:
    """By the factor 1 + H for parameters that act alike everywhere; without the flag there is none."""
    toy = problem("categories")
    torch.manual_seed(8)
    n = 20_000
    scores = toy.scores.repeat(n, 1)
    offset = torch.zeros(n, dtype=F64, requires_grad=True)
    p = toy.scores.softmax(-1)
    entropy = -(p * p.log()).sum(-1)
    for detach, factor in ((False, 1 + entropy), (True, torch.ones(B, dtype=F64))):
        estimator = ScoreFunction("sample", detach_baseline=detach)
        e = expectation(scores, lambda i, z: offset[i // B] + 0 * z, estimator)
        (g,) = torch.autograd.grad(e.surrogate.reshape(n, B).mean(1).sum(), offset)
        assert _errors(g, factor.mean()).max() < 4.5


def test_gumbel_is_biased(toy: Toy) -> None:
    """Measured at temperature one; the table stands in docs/theory/latent.md."""
    torch.manual_seed(9)
    exact, _, _ = toy.dense()
    for straight_through in (False, True):
        scores, _, _ = toy.sampled(GumbelSoftmax(straight_through, latent=toy.kind), 20_000)
        assert _errors(scores, exact).max() > 10
        # Yet it is an estimate of this gradient and not of something else.
        cosine = torch.nn.functional.cosine_similarity(scores.mean(0).flatten(), exact.flatten(), dim=0)
        assert cosine > 0.5


def test_a_linear_loss_passes_gumbel_unchanged_in_value(toy: Toy) -> None:
    """Straight-through values are exactly 0 or 1 and distributed as p."""
    torch.manual_seed(10)
    seen: list[Tensor] = []
    n = 20_000
    expectation(toy.scores.repeat(n, 1), lambda i, z: seen.append(z) or z[:, 0], GumbelSoftmax(True, latent=toy.kind))
    (z,) = seen
    assert set(z.unique().tolist()) == {0.0, 1.0}
    p = toy.scores.sigmoid() if toy.kind == "bits" else toy.scores.softmax(-1)
    frequency = z.reshape(n, B, -1).mean(0)
    assert ((frequency - p).abs() < 4.5 * (p * (1 - p) / n).sqrt()).all()


def test_map_straight_through_takes_the_most_probable() -> None:
    scores = torch.tensor([[2.0, -0.1, 0.3]], requires_grad=True)
    seen: list[Tensor] = []
    e = expectation(scores, lambda i, z: seen.append(z) or (z * 2).sum(-1), GumbelSoftmax("map", latent="bits"))
    assert seen[0].tolist() == [[1.0, 0.0, 1.0]]
    e.objective.backward()
    assert (scores.grad > 0).all()


def test_zero_is_false() -> None:
    seen: list[Tensor] = []
    expectation(torch.randn(5, 3), lambda i, z: seen.append(z) or z[:, 0], GumbelSoftmax(0))
    assert len(seen[0].unique()) > 2


def test_the_temperature_falls() -> None:
    estimator = GumbelSoftmax(rate=1e-5)
    for step, expected in ((0, 1.0), (999, 1.0), (1000, math.exp(-0.01)), (50_000, math.exp(-0.5)), (10**6, 0.5)):
        estimator.steps.fill_(step)
        assert float(estimator.temperature) == pytest.approx(expected)
    fast = GumbelSoftmax(rate=1e-4)
    for step, expected in ((6_999, math.exp(-0.6)), (7_000, 0.5)):
        fast.steps.fill_(step)
        assert float(fast.temperature) == pytest.approx(expected)
    loss = lambda i, z: z.sum(-1)  # noqa: E731
    expectation(torch.zeros(2, 3), loss, fast)
    assert fast.steps == 7_001
    with torch.no_grad():
        expectation(torch.zeros(2, 3), loss, fast)
    expectation(torch.zeros(2, 3), loss, fast.eval())
    assert fast.steps == 7_001
    again = GumbelSoftmax(rate=1e-4)
    again.load_state_dict(fast.state_dict())
    assert float(again.temperature) == float(fast.temperature)


EXPERTS = torch.tensor([1, -0.5, 2, 0.3, -1.2, 0.8], dtype=F64)
ROUTES = torch.tensor([0.5, -0.2, 0.1, 1, -0.7, 0.3], dtype=F64)
EXACT = torch.tensor([-0.01750754, 0.02111843, -0.01819068, 0.00348522, 0.01502669, -0.0039321], dtype=F64)


@pytest.mark.parametrize(("exempt", "bias"), [(False, 0.0), (True, 0.0338494)])
def test_sparsemixer_is_exact_for_quadratic_losses(exempt: bool, bias: float) -> None:
    """The notes' fixture: relative bias zero for the mid-point rule, as published first 0.0338."""
    torch.manual_seed(11)
    n = 1_000_000
    scores = ROUTES.expand(n, -1).clone().requires_grad_()
    e = expectation(scores, lambda i, z: 0.5 * (z @ EXPERTS - 0.7).square(), SparseMixer(exempt))
    (g,) = torch.autograd.grad(e.surrogate.sum(), scores)
    error = (g.std(0) / math.sqrt(n)).norm() / EXACT.norm()
    relative = (g.mean(0) - EXACT).norm() / EXACT.norm()
    assert error < 0.01
    assert abs(relative - bias) < 3 * error


def test_sparsemixer_by_enumeration() -> None:
    """All experts and both weights, each with its probability: exact to rounding."""
    scores = ROUTES.clone().requires_grad_()
    p = scores.softmax(-1)
    total = torch.zeros(6, dtype=F64)
    for i in range(6):
        for half in (1.0, 0.5):
            m = half * p.detach()[i] + 2 * (p[i] - p.detach()[i])
            (g,) = torch.autograd.grad(0.5 * (m * EXPERTS[i] - 0.7).square(), scores, retain_graph=True)
            total += 0.5 * p.detach()[i] * g
    assert (total - EXACT).norm() < 1e-7 * EXACT.norm() + 1e-8
    index, m = sparsemixer(ROUTES.expand(4000, -1))
    ratio = m / ROUTES.softmax(-1)[index]
    assert set(ratio.round(decimals=6).tolist()) == {0.5, 1.0}


def test_running_mean_of_batches() -> None:
    torch.manual_seed(12)
    estimator = ScoreFunction("running")
    means = []
    for size in (2, 5, 3):
        losses = torch.randn(size).double()
        expectation(torch.randn(size, 4), lambda i, z: losses[i], estimator)  # noqa: B023
        means.append(losses.mean())
    assert float(estimator.running.mean) == pytest.approx(float(sum(means) / 3), rel=1e-5)
    saved = {name: value.clone() for name, value in estimator.state_dict().items()}
    expectation(torch.randn(2, 4), lambda i, z: z + torch.nan, estimator)
    assert estimator.state_dict() == saved, "losses that are no numbers do not count"
    partly = ScoreFunction("running")
    expectation(torch.randn(3, 4), lambda i, z: torch.tensor([1.0, torch.nan, 3.0]), partly)
    assert partly.running.mean == 2
    expectation(torch.randn(2, 4), lambda i, z: z + 1.0, estimator, diagnostics=2)
    assert int(estimator.running.batches) == 4
    expectation(torch.randn(2, 4), lambda i, z: z + 1.0, estimator.eval())
    assert int(estimator.running.batches) == 4
    again = ScoreFunction("running")
    again.load_state_dict(saved)
    assert again.running.mean == saved["running.mean"]


def test_nvil_learns_its_baseline() -> None:
    """A linear network on a loss that is linear in x: the baseline finds it, and the variance falls."""
    torch.manual_seed(13)
    x = torch.randn(64, 3, dtype=F64)
    truth = x @ torch.tensor([1.0, -2.0, 0.5], dtype=F64) + 3
    estimator = NVIL(torch.nn.Linear(3, 1).double())
    scores = torch.randn(64, 4, dtype=F64, requires_grad=True)
    optimizer = torch.optim.Adam(estimator.parameters(), lr=0.1)
    loss = lambda i, z: truth[i] + 0.01 * z  # noqa: E731
    before = expectation(scores, loss, estimator.given(x), diagnostics=20).gradient_variance.mean()
    for _ in range(300):
        optimizer.zero_grad()
        expectation(scores, loss, estimator.given(x)).objective.backward()
        optimizer.step()
    after = expectation(scores, loss, estimator.given(x), diagnostics=20).gradient_variance.mean()
    assert (estimator.network(x)[:, 0] - truth).abs().max() < 0.1
    assert after < before / 100


@pytest.mark.parametrize("make", [ScoreFunction, lambda: SumAndSample(1), lambda: "sparsemax"])
def test_gradient_variance_in_inference_mode(make) -> None:
    """As without gradients; where the loss needs what inference mode made, an error says what to do."""
    weight = torch.arange(1.0, K + 1, requires_grad=True)
    found = []
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            scores, factor = torch.zeros(2, K), torch.ones(2)
            torch.manual_seed(13)
            e = expectation(scores, lambda i, z: weight[z], make(), diagnostics=3)
            assert not e.loss.requires_grad
            found.append(e.gradient_variance)
            x = (factor * weight[0]).sum()
            if mode is torch.inference_mode:
                with pytest.raises(ParameterError, match=r"torch\.no_grad\(\)"):
                    expectation(scores, lambda i, z: x * weight[z], make(), diagnostics=3)  # noqa: B023
    assert torch.equal(*found)


def test_gradient_variance_is_that_of_one_draw() -> None:
    """Score function without baseline, loss c_z: the variance of c_z (e_z - p) by enumeration."""
    torch.manual_seed(14)
    c = torch.randn(K, dtype=F64)
    scores = torch.randn(2, K, dtype=F64)
    p = scores.softmax(-1)
    draws = c[:, None] * (torch.eye(K, dtype=F64) - p[:, None])
    mean = (p[..., None] * draws).sum(1)
    exact = (p * (draws - mean[:, None]).square().sum(-1)).sum(1)
    state = torch.random.get_rng_state()
    e = expectation(scores, lambda i, z: c[z], ScoreFunction(), diagnostics=4000)
    assert torch.allclose(e.gradient_variance, exact, rtol=0.1)
    torch.random.set_rng_state(state)
    assert torch.equal(e.loss, expectation(scores, lambda i, z: c[z], ScoreFunction()).loss), "the same draw as without"
    assert expectation(scores, lambda i, z: c[z], Marginal("softmax"), diagnostics=3).gradient_variance.abs().max() == 0
