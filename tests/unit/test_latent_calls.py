"""Wrong calls of expectations and estimators, and what callers may do with the results."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis.core.errors import NumericalError, ParameterError, ShapeError, TsallisError
from tsallis.latent import (
    NVIL,
    GumbelSoftmax,
    Marginal,
    ScoreFunction,
    SparseMAP,
    SumAndSample,
    TopKSparsemax,
    expectation,
)  # fmt: skip
from tsallis.structured import Bits, DependencyTree

N = 4


def _net() -> torch.nn.Module:
    return torch.nn.Linear(2, 1)


def _loss(theta: Tensor):
    def loss(index: Tensor, z: Tensor) -> Tensor:
        z = z if z.is_floating_point() else torch.nn.functional.one_hot(z, N).to(theta.dtype)
        return (z.to(theta.dtype) @ theta + 1).square()

    return loss


def test_what_an_nvil_network_sees_learns_nothing_from_it() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    estimator = NVIL(_net())
    e = expectation(torch.zeros(3, N, requires_grad=True), lambda i, z: x[i, 0] + z, estimator.given(x))
    e.surrogate.sum().backward()
    assert x.grad.tolist() == [[1, 0]] * 3
    assert estimator.network.weight.grad.abs().max() > 0


def test_results_can_be_compared() -> None:
    e, other = (expectation(torch.zeros(2, 3), lambda i, z: z.float()) for _ in range(2))
    assert e == e
    assert e != other


def test_errors() -> None:
    loss = _loss(torch.ones(4))
    scores = torch.zeros(2, N)
    for kind, match, call in [
        (ParameterError, "baseline='best'", lambda: ScoreFunction("best")),
        (ParameterError, "detach_baseline=False", lambda: ScoreFunction("leave-one-out", detach_baseline=False)),
        (ParameterError, "samples=1", lambda: ScoreFunction("leave-one-out", 1)),
        (ParameterError, "samples=0", lambda: ScoreFunction(samples=0)),
        (ParameterError, "latent='trees'", lambda: ScoreFunction(latent="trees")),
        (ParameterError, "straight_through='maybe'", lambda: GumbelSoftmax("maybe")),
        (ParameterError, "temperature=0", lambda: GumbelSoftmax(temperature=0)),
        (ParameterError, "rate=-1", lambda: GumbelSoftmax(rate=-1)),
        (ParameterError, "floor=nan", lambda: GumbelSoftmax(floor=float("nan"))),
        (ParameterError, "every=0", lambda: GumbelSoftmax(every=0)),
        (ParameterError, "k=0", lambda: SumAndSample(0)),
        (ParameterError, "baseline='sample'", lambda: SumAndSample(1, "sample")),
        (ParameterError, "frontier=0", lambda: Marginal(frontier=0)),
        (ParameterError, r"given\(x\)", lambda: expectation(scores, loss, NVIL(_net()))),
        (ShapeError, "3 examples for 2", lambda: expectation(scores, loss, NVIL(_net()).given(torch.ones(3, 2)))),
        (ShapeError, "network returned", lambda: expectation(scores, loss, NVIL(torch.nn.Identity()).given(scores))),
        (ParameterError, "random starts", lambda: expectation(scores, loss, SparseMAP(Bits(N), init="random"))),
        (ParameterError, "table_fn", lambda: expectation(scores, None, ScoreFunction(), table_fn=lambda: scores)),
        (ParameterError, "table_fn", lambda: expectation(scores, None, TopKSparsemax(2), table_fn=lambda: scores)),
        (ParameterError, "Neither", lambda: expectation(scores, None, ScoreFunction())),
        (ParameterError, "estimator=<class .*ScoreFunction'>", lambda: expectation(scores, loss, ScoreFunction)),
        (ParameterError, r"max_rows=2\.5", lambda: expectation(scores, loss, max_rows=2.5)),
        (ParameterError, "entropy_weight=tensor", lambda: expectation(scores, loss, entropy_weight=torch.ones(2, 1))),
        (ParameterError, "importance without", lambda: Marginal(importance=torch.ones(2))),
        (
            ShapeError,
            r"importance of shape \(2, 1\)",
            lambda: expectation(scores, loss, Marginal("softmax", frontier=3, importance=torch.ones(2, 1))),
        ),
        (ShapeError, "table_fn of type float", lambda: expectation(scores, None, "softmax", table_fn=lambda: 3.0)),
        (TsallisError, "complex64", lambda: expectation(scores, lambda i, z: torch.ones(len(i)) * 1j)),
        (ParameterError, "diagnostics=1", lambda: expectation(scores, loss, ScoreFunction(), diagnostics=1)),
        (ShapeError, r"\(B, K\)", lambda: expectation(scores[0], loss, ScoreFunction())),
        (ShapeError, "scores", lambda: expectation(scores, loss, SparseMAP(Bits(3)))),
    ]:
        with pytest.raises(kind, match=match):
            call()


def test_bad_losses_of_a_table_are_named() -> None:
    """If they have probability."""
    table = torch.zeros(2, N)
    table[1, 2] = torch.nan
    scores = torch.zeros(2, N)
    with ts.debug_checks(True), pytest.raises(NumericalError, match=r"table_fn .* in 1 of 8 .*: \(1, 2\)\."):
        expectation(scores, None, "softmax", table_fn=lambda: table)
    scores[1, 2] = -torch.inf
    with ts.debug_checks(True):
        expectation(scores, None, "softmax", table_fn=lambda: table)


@pytest.mark.parametrize("max_rows", [None, 3])
def test_bad_losses_of_a_hierarchy_are_named_in_each_call(max_rows: int | None) -> None:
    """Of three levels; chunks do not change what the outermost pair is."""

    def of_first(index: Tensor, z: Tensor) -> Tensor:
        def of_second(row: Tensor, y: Tensor) -> Tensor:
            def of_third(third: Tensor, x: Tensor) -> Tensor:
                bad = (index[row[third]] == 1) & (z[row[third]] == 3) & (y[third] == 1) & (x == 0)
                return torch.where(bad, torch.nan, 1.0)

            return expectation(torch.zeros(len(row), 2), of_third, "softmax").surrogate

        return expectation(torch.zeros(len(index), 2), of_second, "softmax").surrogate

    scores = torch.zeros(2, N, requires_grad=True)
    # The pair (1, 3) is the last of eight; in chunks of three the second of the last one.
    row = 7 if max_rows is None else 1
    match = rf"loss_fn .*: \({2 * row + 1}, 0\); in .*: \({row}, 1\); in .*: \(1, 3\)\."
    with ts.debug_checks(True), pytest.raises(NumericalError, match=match):
        expectation(scores, of_first, "softmax", max_rows=max_rows)

    # What is no row of the call around it is not taken for one.
    def other(index: Tensor, z: Tensor) -> Tensor:
        return expectation(torch.zeros(1, 2), lambda i, y: y * torch.nan, "softmax").surrogate.expand(len(index))

    with ts.debug_checks(True), pytest.raises(NumericalError, match=r"\(0, 0\), \(0, 1\)\."):
        expectation(scores, other, "softmax", max_rows=max_rows)


def test_any_factor_is_a_latent_variable() -> None:
    """Trees of three words: the expected number of arcs is three, whatever the scores."""
    scores = torch.randn(2, 4, 3, requires_grad=True)
    e = expectation(scores, lambda i, z: z.sum(-1), SparseMAP(DependencyTree(3)))
    assert torch.allclose(e.loss, torch.full((2,), 3.0))
    assert e.rows == int(e.support_size.sum())
    assert e.vertices.shape[-1] == 12
    assert e.marginal_entropy.shape == (2,)
