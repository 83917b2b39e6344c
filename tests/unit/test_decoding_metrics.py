"""Metrics of sparse sequence models against their definitions, written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import OptimizeResult, minimize_scalar

import tsallis as ts
from tsallis.core.errors import ParameterError
from tsallis.decoding import beam_search, metrics


@pytest.fixture
def model() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distributions with zeros (200, 30), gold tokens, and their probabilities."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(30, (200,), generator=generator)
    scores = torch.randn(200, 30, generator=generator, dtype=torch.float64)
    p = ts.entmax15(scores + 2 * F.one_hot(target, 30))
    gold = p.gather(1, target[:, None])[:, 0]
    assert 0 < (gold == 0).sum() < 200
    return p, target, gold


def test_surprise_is_cross_entropy_of_the_smoothed_distribution(model) -> None:
    p, target, gold = model
    smoothed = (p + 0.01) / (p + 0.01).sum(1, keepdim=True)
    torch.testing.assert_close(metrics.surprise(gold, 30, 0.01), F.nll_loss(smoothed.log(), target, reduction="none"))
    assert metrics.surprise(gold, 30, 0.0).max() == math.inf


@pytest.mark.parametrize("epsilon", [-1e-9, math.nan, math.inf])
def test_epsilon_is_checked(epsilon: float) -> None:
    with pytest.raises(ParameterError, match="epsilon"):
        metrics.surprise(torch.tensor([0.5]), 10, epsilon)


def test_best_epsilon_is_the_best(model) -> None:
    _, _, gold = model
    epsilon = metrics.best_epsilon(gold, 30)
    search: OptimizeResult = minimize_scalar(
        lambda log: metrics.surprise(gold, 30, math.exp(log)).mean().item(), bounds=(-20, 3), method="bounded"
    )
    assert epsilon == pytest.approx(math.exp(search.x), rel=1e-3)
    assert metrics.surprise(gold, 30, epsilon).mean() <= search.fun + 1e-12


@pytest.mark.parametrize(
    ("p", "expected"), [([0.9, 0.8], 0.0), ([0.01, 0.0], math.inf), ([], 0.0), ([0.1, 0.1], 0.0), ([1.0, 1.0], 0.0)]
)
def test_best_epsilon_at_its_ends(p: list[float], expected: float) -> None:
    assert metrics.best_epsilon(torch.tensor(p), 10) == expected


def test_best_epsilon_of_few_zeros_is_small() -> None:
    p = torch.full((100_000,), 0.5, dtype=torch.float64)
    p[0] = 0
    # The derivative is zero where the weight is nearly the share of zeros times half of what the others lose.
    epsilon = metrics.best_epsilon(p, 50_000)
    steps = [metrics.surprise(p, 50_000, epsilon * factor).mean().item() for factor in (0.99, 1.0, 1.01)]
    assert 0 < epsilon < 1e-8
    assert steps[1] < min(steps[0], steps[2])


def test_sparsemax_score(model) -> None:
    p, target, _ = model
    direct = 1 - (F.one_hot(target, 30) - p).square().sum(1) / 2
    torch.testing.assert_close(metrics.sparsemax_score(p, target), direct)
    certain = F.one_hot(target, 30).double()
    assert (metrics.sparsemax_score(certain, target) == 1).all()


def test_jensen_shannon(model) -> None:
    p, target, gold = model
    other = F.one_hot(target, 30).double()
    mixture = (p + other) / 2

    def entropy(q: torch.Tensor) -> torch.Tensor:
        return -torch.xlogy(q, q).sum(-1)

    torch.testing.assert_close(metrics.jensen_shannon(gold), entropy(mixture) - (entropy(p) + entropy(other)) / 2)
    near = torch.linspace(0.999, 1, 1001)
    assert (metrics.jensen_shannon(near) >= 0).all()
    torch.testing.assert_close(
        metrics.jensen_shannon(near), metrics.jensen_shannon(near.double()).float(), atol=2e-7, rtol=0
    )


@pytest.mark.parametrize("window", [1, 3, 100])
def test_repeats(window: int) -> None:
    generator = torch.Generator().manual_seed(window)
    gold, drawn = torch.randint(6, (2, 4, 12), generator=generator)
    found, wrong = metrics.repeats(drawn, gold, window)
    for row in range(4):
        for at in range(12):
            before = gold[row, max(0, at - window) : at].tolist()
            assert found[row, at].item() == (drawn[row, at].item() in before)
            assert wrong[row, at].item() == (drawn[row, at].item() in before and drawn[row, at] != gold[row, at])
    assert found.any()
    assert wrong.sum() < found.sum()
    with pytest.raises(ParameterError, match="window = 0"):
        metrics.repeats(drawn, gold, 0)
    assert metrics.repeats(drawn[:, :0], gold[:, :0], 3)[0].shape == (4, 0)


def test_calibration_error() -> None:
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(1000, generator=generator)
    confidence[:2] = torch.tensor([0.0, 1.0])
    right = torch.rand(1000, generator=generator) < confidence**2
    expected = 0.0
    for at in range(10):
        inside = (confidence >= at / 10) & ((confidence < (at + 1) / 10) | (at == 9))
        expected += abs(right[inside].double().mean() - confidence[inside].double().mean()) * inside.sum() / 1000
    assert metrics.calibration_error(confidence, right) == pytest.approx(float(expected), abs=1e-6)
    assert metrics.calibration_error(torch.ones(3), torch.ones(3, dtype=torch.bool)) == 0
    assert math.isnan(metrics.calibration_error(torch.ones(0), torch.ones(0, dtype=torch.bool)))
    with pytest.raises(ParameterError, match="bins = 0"):
        metrics.calibration_error(confidence, right, 0)


def test_search_rates() -> None:
    """Four models: certain of a token, certain of the end, one of four sequences left out, one that never ends."""
    rows = torch.tensor(
        [[[0, 1, 0.0], [1, 0, 0]], [[1, 0, 0.0], [1, 0, 0]], [[0.4, 0.3, 0.3], [1, 0, 0]], [[0, 1, 0.0]] * 2]
    )

    def step(tokens, state):
        model, depth = state.unbind(1)
        return rows[model, depth.clamp_max(1)].log(), torch.stack([model, depth + 1], 1)

    state = torch.tensor([[model, 0] for model in range(4)])
    found = beam_search(step, torch.zeros(4, dtype=torch.long), state, eos=0, beam=1, max_length=4)
    rates = metrics.search_rates(found)
    assert rates == pytest.approx(
        {"enumerated": 0.5, "exact": 0.75, "single": 0.5, "empty": 0.5, "unfinished": 0.25, "mass": (1 + 1 + 0.4) / 4}
    )
    nothing = beam_search(step, torch.zeros(0, dtype=torch.long), state[:0], eos=0, max_length=4)
    assert all(math.isnan(rate) for rate in metrics.search_rates(nothing).values())
