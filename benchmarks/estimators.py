"""Bias and noise of estimators of the gradient in scores, on a problem that can be enumerated; and what a call takes.

    python -m benchmarks.estimators

To be run in the root of the repository: the problem is that of tests/unit/test_estimators.py. Bias is the distance of
the mean draw from the gradient by enumeration, over the norm of the latter, ± the standard error of the mean, bold from
four of these on; noise is the standard deviation of one draw, over the same norm. Baselines have settled before.
SparseMixer's gradient is that of its own expectation, in which each value is multiplied by its probability.

Calls of `expectation` are compared with the same by hand, in turn: times of the processor, medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from tests.unit.test_estimators import B, Toy, problem
from torch import Tensor, nn

import tsallis as ts
from tsallis.latent import NVIL, Estimator, GumbelSoftmax, ScoreFunction, SparseMixer, SumAndSample, expectation

CHUNK = 20_000
Run = Callable[[], object]
ESTIMATORS: dict[str, Callable[[Toy], Estimator | None]] = {
    "score function, no baseline": lambda t: ScoreFunction(latent=t.kind),
    "running mean as a baseline": lambda t: ScoreFunction("running", latent=t.kind),
    "learned baseline (NVIL)": lambda t: NVIL(nn.Linear(t.w.shape[1], 1).double(), latent=t.kind),
    "baseline of another sample (SFE+)": lambda t: ScoreFunction("sample", latent=t.kind),
    "leave one out, 2 samples": lambda t: ScoreFunction("leave-one-out", latent=t.kind),
    "leave one out, 4 samples": lambda t: ScoreFunction("leave-one-out", 4, t.kind),
    "sum one and sample": lambda t: SumAndSample(1) if t.kind == "categories" else None,
    "sum one and sample, running mean": lambda t: SumAndSample(1, "running") if t.kind == "categories" else None,
    "sum two and sample": lambda t: SumAndSample(2) if t.kind == "categories" else None,
    "sum two and sample, running mean": lambda t: SumAndSample(2, "running") if t.kind == "categories" else None,
    "Gumbel-softmax, temperature 1": lambda t: GumbelSoftmax(latent=t.kind),
    "temperature 0.5": lambda t: GumbelSoftmax(temperature=0.5, latent=t.kind),
    "temperature 0.1": lambda t: GumbelSoftmax(temperature=0.1, latent=t.kind),
    "straight-through, temperature 1": lambda t: GumbelSoftmax(True, latent=t.kind),
    "straight-through, temperature 0.5": lambda t: GumbelSoftmax(True, 0.5, latent=t.kind),
    "straight-through, temperature 0.1": lambda t: GumbelSoftmax(True, 0.1, latent=t.kind),
    "straight-through of the most probable": lambda t: (
        GumbelSoftmax("map", latent=t.kind) if t.kind == "bits" else None
    ),
    "SparseMixer": lambda t: SparseMixer() if t.kind == "categories" else None,
}


def main() -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    toys = [problem(kind) for kind in ("categories", "bits")]
    print("| estimator | rows | bias, categories | noise | bias, bits | noise |\n| --- | --- | --- | --- | --- | --- |")
    for name, make in ESTIMATORS.items():
        cells, rows = [], 0.0
        for toy in toys:
            torch.manual_seed(0)
            estimator = make(toy)
            if estimator is None:
                cells.append(" | ")
                continue
            rows = _settle(toy, estimator)
            cells.append(_cell(*_moments(toy, estimator, arguments.draws), _exact(toy, estimator)))
        print(f"| {name} | {rows:g} | {' | '.join(cells)} |", flush=True)
    print("\n| call | ms | by hand | ratio |\n| --- | --- | --- | --- |")
    for name, (call, hand) in _calls().items():
        ours, theirs = _times(call, hand)
        print(f"| {name} | {1e3 * ours:.2f} | {1e3 * theirs:.2f} | {ours / theirs:.2f} |", flush=True)


def _settle(toy: Toy, estimator: Estimator) -> float:
    """Baselines learn; the rows of an example."""
    loss = lambda i, z: toy.loss(toy.w[i % B], toy.theta, z)  # noqa: E731
    if isinstance(estimator, NVIL):
        optimizer = torch.optim.Adam(estimator.parameters(), lr=0.01)
        for _ in range(2000):
            optimizer.zero_grad()
            method = estimator.given(toy.w.repeat(100, 1))
            expectation(toy.scores.repeat(100, 1), loss, method).objective.backward()
            optimizer.step()
    if getattr(estimator, "running", None) is not None:
        expectation(toy.scores.repeat(CHUNK, 1), loss, estimator)
    return expectation(toy.scores, loss, estimator.given(toy.w)).rows / B


def _exact(toy: Toy, estimator: Estimator) -> Tensor:
    """The gradient by enumeration."""
    if not isinstance(estimator, SparseMixer):
        return toy.dense()[0]
    scores = toy.scores.clone().requires_grad_()
    p = scores.softmax(-1)
    losses = [toy.loss(toy.w, toy.theta, p[:, [i]] * value) for i, value in enumerate(toy.values)]
    return torch.autograd.grad((p * torch.stack(losses, 1)).sum(), scores)[0]


def _moments(toy: Toy, estimator: Estimator, n: int) -> tuple[Tensor, Tensor, int]:
    """Mean of n draws, and variance of one."""
    total, squares = torch.zeros_like(toy.scores), torch.zeros_like(toy.scores)
    for _ in range(n // CHUNK):
        draws = toy.sampled(estimator, CHUNK)[0]
        total, squares = total + draws.sum(0), squares + draws.square().sum(0)
    n = n // CHUNK * CHUNK
    return total / n, squares / n - (total / n).square(), n


def _cell(mean: Tensor, variance: Tensor, n: int, exact: Tensor) -> str:
    bias, noise = float((mean - exact).norm() / exact.norm()), float(variance.sum().sqrt() / exact.norm())
    error = noise / n**0.5
    text = f"{bias:.3f} ± {error:.3f}"
    return f"{text if bias < 4 * error else f'**{text}**'} | {noise:.1f}"


def _calls() -> dict[str, tuple[Run, Run]]:
    """64 examples, 256 values, and a loss of 64 numbers for each pair."""
    torch.manual_seed(0)
    scores, x = torch.randn(64, 256, requires_grad=True), torch.randn(64, 64)
    table = torch.randn(256, 64, requires_grad=True)
    loss = lambda index, z: (table[z] - x[index]).square().sum(-1)  # noqa: E731
    everything = torch.arange(64).repeat_interleave(256), torch.arange(256).repeat(64)

    def dense() -> Tensor:
        return (scores.softmax(-1) * loss(*everything).view(64, 256)).sum(-1).mean()

    def sparse() -> Tensor:
        p = ts.sparsemax(scores)
        index, z = p.nonzero(as_tuple=True)
        return (p[index, z] * loss(index, z)).sum() / 64

    def sampled() -> Tensor:
        log_p = scores.log_softmax(-1)
        z = torch.multinomial(log_p.detach().exp(), 1)[:, 0]
        of_z, index = log_p.gather(-1, z[:, None])[:, 0], torch.arange(64)
        losses = loss(index, z)
        return (losses + losses.detach() * of_z).mean()

    def gradients(loss: Callable[[], Tensor]) -> Run:
        return lambda: torch.autograd.grad(loss(), [scores, table])

    rows = {
        "softmax": ("softmax", dense),
        "sparsemax": ("sparsemax", sparse),
        "score function": (ScoreFunction(), sampled),
    }
    return {
        name: (gradients(lambda method=method: expectation(scores, loss, method).objective), gradients(hand))
        for name, (method, hand) in rows.items()
    }


def _times(*runs: Run) -> list[float]:
    found: list[list[float]] = [[] for _ in runs]
    for repetition in range(550):
        for run, times in zip(runs, found, strict=True):
            start = time.process_time()
            run()
            # The first ones warm up.
            if repetition >= 50:
                times.append(time.process_time() - start)
    return [statistics.median(times) for times in found]


if __name__ == "__main__":
    main()
