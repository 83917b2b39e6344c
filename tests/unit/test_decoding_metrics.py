"""Metrics of sparse sequence models against their definitions, written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import OptimizeResult, minimize_scalar

import tsallis as ts
from tsallis.core.errors import NumericalError, ParameterError, ShapeError
from tsallis.decoding import Decoded, Hypothesis, beam_search, metrics


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


@pytest.mark.parametrize("epsilon", [-1e-9, math.nan])
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
    assert math.isnan(metrics.best_epsilon(torch.tensor([*p, math.nan]), 10))


def test_half_precision_is_widened(model) -> None:
    p, target, gold = (x.half() if x.is_floating_point() else x for x in model)
    for found, expected in (
        (metrics.surprise(gold, 50_000, 1e-8), metrics.surprise(gold.float(), 50_000, 1e-8)),
        (metrics.sparsemax_score(p, target), metrics.sparsemax_score(p.float(), target)),
        (metrics.jensen_shannon(gold), metrics.jensen_shannon(gold.float())),
    ):
        assert found.isfinite().all()
        assert torch.equal(found, expected)


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
    with pytest.raises(ShapeError, match=r"right \(1,\)"):
        metrics.calibration_error(confidence, right[:1])


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


@pytest.mark.parametrize("n_best", [1, None])
def test_one_of_several_sequences_is_not_single_though_others_are_not_shown(n_best: int | None) -> None:
    scores = torch.tensor([[0.5, 0.3, 0.2], [1, 0, 0], [1, 0, 0]]).log()
    found = beam_search(
        lambda tokens, state: (scores[tokens], state), torch.tensor([0]), eos=0, beam=2, max_length=3, n_best=n_best
    )
    assert found.certificates[0].found == 3
    rates = metrics.search_rates(found)
    assert (rates["enumerated"], rates["single"]) == (1, 0)


def test_support_rates_count_token_by_token(model) -> None:
    p, target, gold = model
    p, target = p.view(20, 10, 30), target.view(20, 10)
    mask = torch.rand(20, 10) < 0.7
    mask[3] = False
    support, hits = [], 0
    for row in range(20):
        for at in range(10):
            if mask[row, at]:
                support.append(sum(value > 0 for value in p[row, at].tolist()))
                hits += p[row, at, target[row, at]].item() > 0
    rates = metrics.support_rates(p, target, mask)
    expected = {"support": sum(support) / len(support), "gold": hits / len(support), "tokens": len(support)}
    assert rates == pytest.approx(expected)
    assert 0 < rates["gold"] < 1 < rates["support"] < 30
    assert metrics.support_rates(p, target)["gold"] == pytest.approx((gold > 0).double().mean().item())
    # What is masked is not read: neither distributions nor targets that are no tokens.
    p, target = p.masked_fill(~mask[..., None], torch.nan), target.masked_fill(~mask, -100)
    assert metrics.support_rates(p, target, mask) == rates
    half = metrics.support_rates(p.to(torch.bfloat16), target, mask)
    assert half == pytest.approx(expected), "rounding to bfloat16 keeps zeros and what is not zero"


def test_support_rates_of_nothing_nan_and_other_shapes() -> None:
    p, target = torch.full((2, 3, 4), 0.25), torch.zeros(2, 3, dtype=torch.long)
    for nothing in (
        metrics.support_rates(p, target, torch.zeros(2, 3, dtype=torch.bool)),
        metrics.support_rates(p[:0], target[:0]),
    ):
        assert nothing["tokens"] == 0
        assert math.isnan(nothing["support"])
        assert math.isnan(nothing["gold"])
    assert metrics.support_rates(p[0, 0], target[0, 0]) == {"support": 4.0, "gold": 1.0, "tokens": 1}
    assert math.isnan(metrics.support_rates(torch.where(p > 1, p, torch.nan), target)["support"])
    for wrong in ((p, target[:1]), (p, target, torch.ones(2, dtype=torch.bool)), (p[0, 0, 0], target[0, 0])):
        with pytest.raises(ShapeError, match=r"targets \(.*Expected distributions"):
            metrics.support_rates(*wrong)


def test_empty_rates_are_those_of_the_first_step() -> None:
    rows = torch.tensor([[0.0, 0.5, 0.5], [0.25, 0.75, 0.0], [1.0, 0.0, 0.0], [0.4, 0.3, 0.3]], dtype=torch.float64)
    then = torch.tensor([0.9, 0.05, 0.05], dtype=torch.float64)

    def step(tokens, state):
        example, depth = state.unbind(1)
        log_probs = torch.where((depth == 0)[:, None], rows[example], then).log()
        return log_probs, torch.stack([example, depth + 1], 1)

    start, state = torch.zeros(4, dtype=torch.long), torch.tensor([[example, 0] for example in range(4)])
    rates = metrics.empty_rates(step, start, state, eos=0)
    assert rates == {"empty_possible": 0.75, "empty_prob": pytest.approx((0.25 + 1 + 0.4) / 4)}
    # A beam of one prefers another token to the end in the second example only; the fourth then ends with 0.3 * 0.9.
    greedy = Decoded(
        [[Hypothesis((1, 0), math.log(p), 0.0)] if p else [] for p in (0.45, 0.675, 0.0, 0.27)],
        [],
        0,
    )
    assert metrics.empty_rates(step, start, state, eos=0, found=greedy)["empty_better"] == 0.5
    exact = beam_search(step, start, state, eos=0, beam=9, max_length=3)
    assert metrics.empty_rates(step, start, state, eos=0, found=exact)["empty_better"] == 0
    nothing = metrics.empty_rates(step, start[:0], state[:0], eos=0)
    assert all(math.isnan(rate) for rate in nothing.values())
    with pytest.raises(ParameterError, match="found for 4 examples"):
        metrics.empty_rates(step, start[:2], state[:2], eos=0, found=greedy)
    with pytest.raises(ParameterError, match="eos = -1"):
        metrics.empty_rates(step, start, state, eos=-1)
    with pytest.raises(NumericalError):
        metrics.empty_rates(lambda tokens, state: (rows + torch.nan, state), start, eos=0)


def test_length_ratio_is_of_sums() -> None:
    def decoded(*lengths: int | None) -> Decoded:
        hypotheses = [[] if n is None else [Hypothesis((*[1] * n, 0), -1.0, -1.0)] for n in lengths]
        return Decoded(hypotheses, [], 0)

    assert metrics.length_ratio(decoded(3, 0, None, 5), [4, 2, 1, 3]) == pytest.approx(8 / 10)
    assert math.isnan(metrics.length_ratio(decoded(3), [0]))
    assert math.isnan(metrics.length_ratio(decoded(), []))
    for wrong in ([1, 2], [-1]):
        with pytest.raises(ParameterError, match="Expected the number of tokens"):
            metrics.length_ratio(decoded(3), wrong)


def test_the_best_epsilon_may_be_infinite() -> None:
    worst = torch.tensor([0.01, 0.0])
    assert metrics.best_epsilon(worst, 10) == math.inf
    assert metrics.surprise(worst, 10, math.inf).tolist() == pytest.approx([math.log(10)] * 2)
