"""What every estimator does with rows that cannot be used, small batches, half precision and wrong calls."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis.core.errors import NumericalError, ParameterError, ShapeError
from tsallis.latent import (
    NVIL,
    Estimator,
    GumbelSoftmax,
    Marginal,
    MostProbable,
    ScoreFunction,
    SparseMAP,
    SparseMixer,
    SumAndSample,
    TopKSparsemax,
    expectation,
)  # fmt: skip
from tsallis.structured import Bits, Budget, DependencyTree

N = 4


def _net() -> torch.nn.Module:
    return torch.nn.Linear(2, 1)


CATEGORIES = {
    "softmax": lambda: Marginal("softmax"),
    "sparsemax": lambda: Marginal(),
    "frontier": lambda: Marginal(frontier=9),
    "top-k": lambda: Marginal("topk_sparsemax", {"k": 2}),
    "sfe": lambda: ScoreFunction("running"),
    "sfe+": lambda: ScoreFunction("sample", 2),
    "rloo": lambda: ScoreFunction("leave-one-out"),
    "nvil": lambda: NVIL(_net()),
    "gumbel": lambda: GumbelSoftmax(),
    "st": lambda: GumbelSoftmax(True),
    "sum": lambda: SumAndSample(2, "running"),
    "mixer": lambda: SparseMixer(),
    "best": lambda: MostProbable(),
}
BITS = {
    "sfe": lambda: ScoreFunction("running", latent="bits"),
    "rloo": lambda: ScoreFunction("leave-one-out", latent="bits"),
    "nvil": lambda: NVIL(_net(), latent="bits"),
    "gumbel": lambda: GumbelSoftmax(latent="bits"),
    "st": lambda: GumbelSoftmax(True, latent="bits"),
    "st-map": lambda: GumbelSoftmax("map", latent="bits"),
    "sparsemap": lambda: SparseMAP(Bits(N, geometry="onoff")),
    "budget": lambda: SparseMAP(Budget(N, 2, geometry="onoff")),
    "top-k": lambda: TopKSparsemax(3),
    "best": lambda: MostProbable("bits"),
}
ALL = [("categories", name) for name in CATEGORIES] + [("bits", name) for name in BITS]
NO_GRADIENT = {"best"}


@pytest.fixture(params=ALL, ids="-".join)
def case(request) -> tuple[str, str, Estimator]:
    kind, name = request.param
    torch.manual_seed(2)
    return kind, name, (CATEGORIES if kind == "categories" else BITS)[name]()


def _loss(theta: Tensor):
    def loss(index: Tensor, z: Tensor) -> Tensor:
        z = z if z.is_floating_point() else torch.nn.functional.one_hot(z, N).to(theta.dtype)
        return (z.to(theta.dtype) @ theta + 1).square()

    return loss


def _call(estimator: Estimator, scores: Tensor, loss, **options):
    return expectation(scores, loss, estimator.given(torch.ones(len(scores), 2)), **options)


def test_bad_rows_stay_alone(case) -> None:
    kind, name, estimator = case
    scores = (0.3 * torch.randn(5, N)).requires_grad_()
    with torch.no_grad():
        scores[1, 2] = torch.nan
        if kind == "categories":
            scores[3] = -torch.inf
    theta = torch.arange(4.0, requires_grad=True)
    e = _call(estimator, scores, _loss(theta), entropy_weight=0.1)
    fine = torch.tensor([True, False, True, True, True])
    assert e.loss.isnan().tolist() == (~fine).tolist()
    assert e.entropy[fine].isfinite().all()
    if kind == "categories":
        assert e.loss[3] == 0
        assert (e.probs[3] == 0).all()
    e.surrogate[fine].sum().backward()
    assert theta.grad.isfinite().all()
    assert theta.grad.abs().max() > 0
    assert scores.grad[fine].isfinite().all()
    if name not in NO_GRADIENT:
        assert scores.grad[0].abs().max() > 0


def test_scores_of_minus_infinity_are_never_chosen(case) -> None:
    _kind, _name, estimator = case
    scores = torch.randn(40, N)
    scores[:, 1] = -torch.inf
    scores.requires_grad_()
    seen: list[Tensor] = []
    e = _call(estimator, scores, lambda i, z: seen.append(z.detach()) or _loss(torch.ones(4))(i, z))
    (z,) = seen
    assert (z[:, 1] == 0).all() if z.is_floating_point() else (z != 1).all()
    if e.surrogate.requires_grad:
        e.objective.backward()
        assert scores.grad.isfinite().all()


def test_bits_that_are_certain() -> None:
    scores = torch.tensor([[torch.inf, -torch.inf, 0.3]], requires_grad=True)
    for name in ("sfe", "rloo", "gumbel", "st"):
        wanted = torch.tensor([1.0, 0.0])
        wrong = lambda i, z: (z[:, :2] - wanted).abs().sum(-1) + z[:, 2]  # noqa: B023, E731
        e = expectation(scores, wrong, BITS[name](), entropy_weight=0.5)
        assert e.loss <= 1
        assert e.support_size == 2
        (g,) = torch.autograd.grad(e.objective, scores)
        assert g.isfinite().all()


def test_nothing_one_and_one(case) -> None:
    kind, name, estimator = case
    theta = torch.arange(4.0, requires_grad=True)
    empty = _call(estimator, torch.zeros(0, N, requires_grad=True), _loss(theta))
    assert empty.loss.shape == (0,)
    assert (empty.rows, empty.calls) == (0, 0)
    assert empty.objective.isnan()
    one = _call(estimator, torch.randn(1, N, requires_grad=True), _loss(theta))
    assert one.loss.shape == (1,)
    assert one.calls == 1
    assert one.rows >= 1
    if name in ("frontier", "top-k", "nvil") or isinstance(estimator, SparseMAP):
        return
    width = {"categories": 1, "bits": 1}[kind]
    single = _call(estimator, torch.zeros(2, width), lambda i, z: z.reshape(len(i), -1).sum(-1) + 1.0)
    assert single.loss.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(case, dtype: torch.dtype) -> None:
    _, _name, estimator = case
    scores = torch.randn(6, N, dtype=dtype, requires_grad=True)
    theta = torch.arange(4.0, dtype=torch.float32, requires_grad=True)
    e = _call(estimator, scores, _loss(theta), entropy_weight=0.1)
    e.objective.backward()
    assert theta.grad.isfinite().all()
    assert scores.grad.dtype == dtype
    assert scores.grad.isfinite().all()


def test_autocast(case) -> None:
    _, _name, estimator = case
    net = torch.nn.Linear(N, 1)
    scores = torch.randn(6, N, requires_grad=True)

    def loss(index: Tensor, z: Tensor) -> Tensor:
        z = z if z.is_floating_point() else torch.nn.functional.one_hot(z, N).float()
        return net(z)[:, 0]

    with torch.autocast("cpu", dtype=torch.bfloat16):
        e = _call(estimator, scores, loss, entropy_weight=0.1)
    assert e.objective.isfinite()
    e.objective.backward()
    assert scores.grad.isfinite().all()


def test_rows_at_a_time_are_the_rows_at_once(case) -> None:
    """Of estimators that draw, with the same draws; the loss sees the same rows in more calls."""
    _, _name, estimator = case
    scores = torch.randn(6, N, dtype=torch.float64, requires_grad=True)
    theta = torch.arange(4.0, dtype=torch.float64, requires_grad=True)
    results = []
    for max_rows in (None, 4):
        torch.manual_seed(4)
        e = _call(copy.deepcopy(estimator), scores, _loss(theta), max_rows=max_rows)
        results.append((e, torch.autograd.grad(e.objective, [scores, theta], allow_unused=True)))
    (whole, expected), (parts, got) = results
    assert parts.rows == whole.rows
    assert (whole.calls, parts.calls) == (1, -(-whole.rows // 4))
    assert torch.equal(parts.loss, whole.loss)
    for a, b in zip(got, expected, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b)


def test_a_generator_decides_and_nothing_else(case) -> None:
    _, name, estimator = case
    if isinstance(estimator, Marginal | SparseMAP | TopKSparsemax):
        with pytest.raises(ParameterError, match="generator"):
            _call(estimator, torch.zeros(2, N), _loss(torch.ones(4)), generator=torch.Generator())
        return
    scores = torch.randn(50, N)
    before = torch.random.get_rng_state()
    made = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    runs = [_call(copy.deepcopy(estimator), scores, _loss(torch.arange(4.0)), generator=g).loss for g in made]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(runs[0], runs[1])
    assert name in NO_GRADIENT | {"st-map"} or not torch.equal(runs[0], runs[2])


def test_evaluation_changes_nothing_and_is_hard(case) -> None:
    _kind, name, estimator = case
    if not isinstance(estimator, torch.nn.Module):
        return
    estimator.eval()
    before = copy.deepcopy(estimator.state_dict())
    seen: list[Tensor] = []
    _call(estimator, torch.randn(30, N), lambda i, z: seen.append(z) or _loss(torch.ones(4))(i, z))
    after = estimator.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    if name in ("gumbel", "st", "st-map"):
        assert seen[0].is_floating_point()
        assert set(seen[0].unique().tolist()) == {0.0, 1.0}


def test_a_loss_that_is_no_number_is_named(case) -> None:
    _, _name, estimator = case

    def loss(index: Tensor, z: Tensor) -> Tensor:
        return torch.where(index == 2, torch.nan, 1.0)

    scores = torch.randn(4, N)
    e = _call(estimator, scores, loss)
    assert e.loss.isnan().tolist() == [False, False, True, False]
    with ts.debug_checks(True), pytest.raises(NumericalError, match=r"\(example, z\): \(2, "):
        _call(estimator, scores, loss)


def test_copies_and_saved_states(case) -> None:
    _, _, estimator = case
    if isinstance(estimator, torch.nn.Module):
        fresh = copy.deepcopy(estimator)
        _call(estimator, torch.randn(5, N), _loss(torch.ones(4)))
        fresh.load_state_dict(estimator.state_dict())
        for key, value in estimator.state_dict().items():
            assert torch.equal(fresh.state_dict()[key], value)
        assert repr(estimator)


def test_errors() -> None:
    loss = _loss(torch.ones(4))
    scores = torch.zeros(2, N)
    for kind, match, call in [
        (ParameterError, "baseline='best'", lambda: ScoreFunction("best")),
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
        (ParameterError, "diagnostics=1", lambda: expectation(scores, loss, ScoreFunction(), diagnostics=1)),
        (ShapeError, r"\(B, K\)", lambda: expectation(scores[0], loss, ScoreFunction())),
        (ShapeError, "scores", lambda: expectation(scores, loss, SparseMAP(Bits(3)))),
    ]:
        with pytest.raises(kind, match=match):
            call()


def test_any_factor_is_a_latent_variable() -> None:
    """Trees of three words: the expected number of arcs is three, whatever the scores."""
    scores = torch.randn(2, 4, 3, requires_grad=True)
    e = expectation(scores, lambda i, z: z.sum(-1), SparseMAP(DependencyTree(3)))
    assert torch.allclose(e.loss, torch.full((2,), 3.0))
    assert e.rows == int(e.support_size.sum())
    assert e.vertices.shape[-1] == 12
    assert e.marginal_entropy.shape == (2,)
