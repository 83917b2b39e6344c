"""What every estimator does with rows that cannot be used, small batches and half precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis.core.errors import NumericalError, ParameterError
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
from tsallis.structured import Bits, Budget

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


def test_the_surrogate_of_an_infinite_loss_is_infinite(case) -> None:
    """Its value is the loss, whatever the gradient."""
    _, _name, estimator = case
    loss = lambda i, z: torch.where(i == 1, torch.inf, 1.0)  # noqa: E731
    scores = torch.randn(3, N, requires_grad=True)
    e = _call(estimator, scores, loss)
    assert torch.allclose(e.loss, torch.tensor([1.0, torch.inf, 1.0]))
    assert torch.equal(e.surrogate, e.loss)
    gradient = torch.autograd.grad(e.surrogate.sum(), scores)[0] if e.surrogate.requires_grad else torch.zeros(3, N)
    assert gradient[[0, 2]].isfinite().all()


def test_copies_and_saved_states(case) -> None:
    _, _, estimator = case
    if isinstance(estimator, torch.nn.Module):
        fresh = copy.deepcopy(estimator)
        _call(estimator, torch.randn(5, N), _loss(torch.ones(4)))
        fresh.load_state_dict(estimator.state_dict())
        for key, value in estimator.state_dict().items():
            assert torch.equal(fresh.state_dict()[key], value)
        assert repr(estimator)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_in_float32(dtype: torch.dtype) -> None:
    """20,000 values, or 1,000 rows: in half precision such sums come to a stop, or to infinity."""
    ones = lambda i, z: torch.ones(len(i), dtype=dtype)  # noqa: E731
    for estimator in (Marginal("softmax"), Marginal("softmax", frontier=50_000), SumAndSample(5000)):
        e = expectation(torch.zeros(2, 20_000, dtype=dtype), ones, estimator)
        assert torch.allclose(e.loss, torch.ones(2), rtol=1e-3)
        assert e.probs.dtype == torch.float32
        assert torch.allclose(e.entropy, torch.full((2,), 20_000.0).log(), rtol=1e-4)
    scores = torch.randn(50, N).to(dtype)
    table = 100 + torch.arange(4.0)
    e = expectation(scores, lambda i, z: table[z], "softmax")
    assert torch.allclose(e.loss, scores.float().softmax(-1) @ table, rtol=1e-5)
    estimator = ScoreFunction("running")
    expectation(torch.zeros(1000, 2, dtype=dtype), lambda i, z: torch.full((len(i),), 100.0, dtype=dtype), estimator)
    assert estimator.running.mean == 100


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [lambda: ScoreFunction("running"), lambda: SumAndSample(1, "running")])
def test_a_running_mean_is_never_in_half_precision(make, dtype: torch.dtype) -> None:
    """There it would stay at the first losses: hundreds of batches each change it by less than rounding."""
    estimator = torch.nn.Sequential(make()).to(dtype)[0]
    for loss in (100.0, 50.0):
        for _ in range(300):
            expectation(torch.zeros(1, 2, dtype=dtype), lambda i, z: torch.full((len(i),), loss), estimator)  # noqa: B023
    assert float(estimator.running.mean) == pytest.approx(75, abs=0.1)
    saved = estimator.state_dict()
    assert saved["running.mean"].dtype == torch.float32
    for assign in (False, True):
        again = make()
        again.load_state_dict(
            {name: t.to(dtype) if t.is_floating_point() else t for name, t in saved.items()}, assign=assign
        )
        assert again.running.mean.dtype == torch.float32
    assert make().double().to(dtype).running.mean.dtype == torch.float32


def test_losses_that_overflow_do_not_count() -> None:
    estimator = ScoreFunction("running")
    expectation(torch.zeros(1000, 2), lambda i, z: torch.full((len(i),), 1e37), estimator)
    assert estimator.running.mean == 0
    expectation(torch.zeros(1000, 2), lambda i, z: torch.full((len(i),), 2.0), estimator)
    assert estimator.running.mean == 2


@pytest.mark.parametrize("kind", [torch.bool, torch.long])
def test_counts_are_losses(case, kind: torch.dtype) -> None:
    _, _, estimator = case
    scores = torch.randn(6, N)

    def loss(index: Tensor, z: Tensor) -> Tensor:
        return (z if z.dim() == 1 else z.argmax(-1)) % 2 == 1

    results = []
    for dtype in (torch.float32, kind):
        torch.manual_seed(3)
        made = copy.deepcopy(estimator)
        results.append(_call(made, scores, lambda i, z: loss(i, z).to(dtype)).loss)  # noqa: B023
    assert torch.equal(*results)


def test_floating_values_have_the_dtype_of_scores(case) -> None:
    _, _, estimator = case
    for dtype in (torch.bfloat16, torch.float64):
        seen: list[Tensor] = []
        _call(estimator, torch.randn(3, N, dtype=dtype), lambda i, z: seen.append(z) or torch.ones(len(i)))  # noqa: B023
        assert seen[0].dtype in (dtype, torch.long)


def test_integer_scores(case) -> None:
    _, _, estimator = case
    scores = torch.tensor([[1, 0, 3, -2], [0, 0, 0, 1]])
    results = []
    for given in (scores, scores.float()):
        torch.manual_seed(3)
        results.append(_call(copy.deepcopy(estimator), given, _loss(torch.arange(4.0))).loss)
    assert torch.equal(*results)


def test_no_value_at_all(case) -> None:
    kind, name, estimator = case
    if kind == "bits" or name == "nvil":
        return
    e = expectation(torch.zeros(2, 0, requires_grad=True), lambda i, z: torch.ones(len(i)), estimator)
    assert e.loss.tolist() == [0, 0]
    assert e.rows == 0


def test_the_smallest_probabilities() -> None:
    """Quotients of a subnormal weight would be zero, and a value without probability as good."""
    torch.manual_seed(5)
    scores = torch.tensor([[-torch.inf, 0.0, -103.2]]).repeat(200, 1).requires_grad_()
    assert 0 < scores.softmax(-1)[0, 2] < 1e-44
    seen: list[Tensor] = []
    e = expectation(scores, lambda i, z: seen.append(z) or z + 1.0, SumAndSample(1))
    assert set(seen[0].tolist()) == {1, 2}
    assert e.surrogate.isfinite().all()
    (g,) = torch.autograd.grad(e.surrogate.sum(), scores)
    assert g.isfinite().all()


def test_where_nothing_is_left_there_is_no_sample() -> None:
    scores = torch.tensor([[-torch.inf, 0.3, -torch.inf], [0.1, 0.2, 0.3]], requires_grad=True)
    e = expectation(scores, lambda i, z: z + 1.0, SumAndSample(1))
    assert e.rows == 3
    assert e.loss[0] == 2
    assert e.surrogate.isfinite().all()
    (g,) = torch.autograd.grad(e.surrogate.sum(), scores)
    assert g[0].tolist() == [0, 0, 0]
    assert g[1].isfinite().all()


def test_a_bad_row_does_not_grow_the_others() -> None:
    scores = 9 * torch.ones(2, 10)
    scores[1, 3] = torch.nan
    e = expectation(scores, lambda i, z: z.sum(-1), TopKSparsemax(2))
    assert e.probs.shape == (2, 2)
    assert e.exact.tolist() == [True, False]
    assert e.loss.isnan().tolist() == [False, True]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, -1.0])
def test_whatever_the_importance_each_example_has_its_best(value: float) -> None:
    scores = torch.tensor([[1.0, 0.5, 0.0, 0.2], [0.1, 0.0, 2.0, 0.3], [0.0, 0.1, 0.2, 0.3]])
    importance = torch.tensor([value, 1.0, 0.0])
    e = expectation(scores, lambda i, z: z.float(), Marginal("softmax", frontier=5, importance=importance))
    assert e.rows == 5
    assert (e.probs.gather(-1, scores.argmax(-1, keepdim=True)) > 0).all()
