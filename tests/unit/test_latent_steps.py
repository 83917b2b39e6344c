"""Estimators in a loss that runs in parts, again, or to measure alone: one step, with the same draws."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from tsallis.latent import Estimator, GumbelSoftmax, ScoreFunction, SumAndSample, expectation

F64 = torch.float64
LEARNING = {
    "sfe": lambda: ScoreFunction("running"),
    "sum": lambda: SumAndSample(1, "running"),
    "gumbel": lambda: GumbelSoftmax(rate=0.1, every=1),
}


class Levels:
    """A latent variable of five values that hangs on one of four, for a batch of six."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        draw = lambda *shape: torch.randn(*shape, dtype=F64, requires_grad=True)  # noqa: E731
        self.first, self.second, self.table = draw(6, 4), draw(4, 5), draw(4, 5)
        self.drawn: list[Tensor] = []

    def run(self, inner: Estimator, outer: str | Estimator = "softmax", *, generator=None, **options):
        def of_first(index: Tensor, z: Tensor) -> Tensor:
            def of_second(row: Tensor, y: Tensor) -> Tensor:
                self.drawn.append(y.detach())
                table = self.table[z[row]]
                return ((table * y).sum(-1) if y.is_floating_point() else table.gather(-1, y[:, None])[:, 0]) + 3

            return expectation(self.second[z], of_second, inner, generator=generator).surrogate

        torch.manual_seed(2)
        e = expectation(self.first, of_first, outer, **options)
        gradients = torch.autograd.grad(e.objective, [self.first, self.second, self.table], retain_graph=True)
        return e, gradients


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("options", [{"max_rows": 5}, {"diagnostics": 3}, {"max_rows": 7, "diagnostics": 2}], ids=str)
def test_one_step_whatever_runs(name: str, options: dict[str, int]) -> None:
    """Twice, so that the second step begins with what the first one taught."""
    states, gradients = [], []
    for given in ({}, options):
        levels, inner = Levels(), LEARNING[name]()
        for _ in range(2):
            e, g = levels.run(inner, generator=torch.Generator().manual_seed(3), **given)
        states.append(inner.state_dict())
        gradients.append([e.objective, *g])
    whole, parts = states
    assert int(whole.get("running.batches", whole.get("steps"))) == 2
    for key, value in whole.items():
        assert torch.allclose(value, parts[key]), key
    for got, wanted in zip(gradients[1], gradients[0], strict=True):
        assert torch.allclose(got, wanted)
        assert wanted.abs().max() > 1e-3


def test_runs_again_draw_the_same_from_a_generator() -> None:
    """In each backward pass, and the generator goes on where the forward pass left it."""
    levels = Levels()
    generator = torch.Generator().manual_seed(4)
    e, first = levels.run(ScoreFunction(), generator=generator, max_rows=10)
    after = generator.get_state()
    again = torch.autograd.grad(e.objective, [levels.first, levels.second, levels.table])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(generator.get_state(), after)
    forward, backward = levels.drawn[:3], levels.drawn[3:]
    assert len(backward) == 6
    assert all(any(torch.equal(b, f) for f in forward) for b in backward)
    assert not torch.equal(forward[0][:4], forward[1][:4])


def test_steps_within_steps() -> None:
    """Three levels, the middle one in parts too."""
    means = []
    for outer_rows, inner_rows in ((None, None), (5, 3)):
        torch.manual_seed(5)
        inner = ScoreFunction("running")
        scores = torch.randn(3, 4, requires_grad=True)

        def of_second(index: Tensor, z: Tensor) -> Tensor:
            return expectation(torch.zeros(len(z), 2), lambda i, y: z[i] + 1.0, inner).surrogate  # noqa: B023

        def of_first(index: Tensor, z: Tensor) -> Tensor:
            return expectation(torch.zeros(len(z), 2), of_second, "softmax", max_rows=inner_rows).surrogate  # noqa: B023

        expectation(scores, of_first, "softmax", max_rows=outer_rows).objective.backward()
        assert int(inner.running.batches) == 1
        means.append(float(inner.running.mean))
    assert means == [1.5, 1.5]


@pytest.mark.parametrize("name", LEARNING)
def test_learning_under_compile(name: str) -> None:
    """Steps change buffers that the backward pass must not need."""
    c = torch.arange(4.0)
    scores = torch.randn(3, 4, requires_grad=True)
    results = []

    for compiled in (False, True):
        estimator = LEARNING[name]()

        def work(scores: Tensor) -> Tensor:
            loss = lambda i, z: (z * c).sum(-1) if z.is_floating_point() else c[z]  # noqa: E731
            return expectation(scores, loss, estimator, entropy_weight=0.1).objective  # noqa: B023

        torch.compiler.reset()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = torch.compile(work, backend="aot_eager") if compiled else work
            torch.manual_seed(6)
            gradients = [torch.autograd.grad(run(scores), scores)[0] for _ in range(3)]
        results.append((gradients, estimator.state_dict()))
    torch.compiler.reset()
    (expected, state), (got, same) = results
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(got, expected, strict=True))
    assert all(torch.allclose(state[key], same[key]) for key in state)
