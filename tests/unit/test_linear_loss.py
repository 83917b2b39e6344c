"""The output layer with its loss: every path against the scores and the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import tsallis as ts
from tsallis.core.errors import ParameterError, ShapeError
from tsallis.losses import LinearReport, linear_layer
from tsallis.testing.layers import draw_layer

from .processes import run_two

METHODS = ("lists", "screened", "dense", None)
needs_numba = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("numba") is None, reason="lists are made by kernels in numba"
)


def _both(
    inputs: list[Tensor],
    target: Tensor,
    alpha: float | Tensor,
    biased: bool,
    weights: Tensor | float = 1.0,
    **options: Any,
) -> tuple[list[Tensor], list[Tensor], LinearReport]:
    """(loss and gradients, those by the formula, report) of hidden, weight, and if there are, bias and alpha."""
    results = []
    report = LinearReport()
    formula_options = {k: v for k, v in options.items() if k not in ("method", "sparse_grad")}
    for way in ("layer", "formula"):
        own = [x.clone().requires_grad_() for x in inputs]
        hidden, weight = own[:2]
        bias = own[2] if biased else None
        a = own[-1] if isinstance(alpha, Tensor) else alpha
        if way == "layer":
            loss, report = ts.linear_entmax_loss(hidden, weight, target, bias, alpha=a, return_report=True, **options)
        else:
            scores = functional.linear(hidden, weight, bias)
            loss = ts.entmax_loss(scores, target, a, backend="reference", **formula_options)
        grads = torch.autograd.grad((loss * weights).sum(), own)
        results.append([loss.detach(), *(g.to_dense() for g in grads)])
    return results[0], results[1], report


def _assert_close(
    got: list[Tensor], expected: list[Tensor], tolerance: float, what: object = None, sizes: list[float] | None = None
) -> None:
    """The first are losses: differences of scores, which are rounded in the products by units of 1 and more. ``sizes``
    are what errors are relative to, if not to the largest of the expected.
    """
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        size = float(b.detach().abs().max()) if sizes is None or i >= len(sizes) else sizes[i]
        assert float((a - b).detach().abs().max()) <= tolerance * max(size, 1e-6 if i else 1.0), (i, what)


@needs_numba
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("alpha", [1.3, 1.5, 2.0, 3.0, "scalar", "per target"])
@pytest.mark.parametrize("method", METHODS)
def test_every_path_equals_the_formula(method: Any, alpha: Any, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    n, width, words = 40, 33, 2500
    hidden, weight, target = (x.to(dtype) if x.is_floating_point() else x for x in draw_layer(n, width, words, 8))
    target[3] = -100
    bias = 0.1 * torch.randn(words, generator=generator, dtype=dtype)
    if alpha == "scalar":
        alpha = torch.tensor(1.6, dtype=dtype)
    elif alpha == "per target":
        alpha = 1.2 + torch.rand(n, generator=generator, dtype=dtype)
    for biased in (False, True):
        for options in ({}, {"label_smoothing": 0.1}, {"reduction": "none"}, {"reduction": "sum"}):
            inputs = [hidden, weight, *([bias] if biased else []), *([alpha] if isinstance(alpha, Tensor) else [])]
            weights = torch.linspace(0.5, 1.5, n, dtype=dtype) if options.get("reduction") == "none" else 1.0
            got, expected, report = _both(inputs, target, alpha, biased, weights, method=method, **options)
            # Above alpha = 2 the gradient has no bound on how fast it moves with the scores.
            steep = not isinstance(alpha, Tensor) and alpha > 2
            tolerance = 1e-10 if dtype == torch.float64 else 1e-4 if steep else 1e-5
            _assert_close(got, expected, tolerance, options)
            if method in ("lists", "dense"):
                assert report.path == method
                assert (report.support is not None) == (method == "lists")


@needs_numba
@pytest.mark.parametrize("method", ["lists", "screened"])
def test_few_tokens_with_large_supports_have_lists_too(method: Any) -> None:
    hidden, weight, target = draw_layer(64, 32, 9000, 5)
    hidden[7] *= 1e-4
    hidden[40] = 0.0
    got, expected, report = _both([hidden, weight], target, 1.5, False, method=method)
    assert report.path == method
    assert report.support is not None
    assert report.support > 2 * 9000 / 64
    _assert_close(got, expected, 1e-5)


def test_large_supports_go_through_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_layer, "CHUNK", 4 * 3000 * 17)
    monkeypatch.setattr(linear_layer, "FEWEST", 16)
    hidden, weight, target = draw_layer(50, 16, 3000, None)
    got, expected, report = _both([hidden, weight], target, 1.5, False)
    assert report.path == "dense"
    assert report.reason
    _assert_close(got, expected, 1e-5)
    weights = torch.linspace(-1, 2, 50)
    got, expected, report = _both([hidden, weight], target, 1.5, False, weights, reduction="none")
    assert report.path == "dense"
    _assert_close(got, expected, 1e-5)
    # Gradients are handed out once, and computed again for who asks again.
    hidden.requires_grad_()
    loss = 3 * ts.linear_entmax_loss(hidden, weight, target)
    first = torch.autograd.grad(loss, hidden, retain_graph=True)[0].clone()
    assert torch.allclose(torch.autograd.grad(loss, hidden)[0], first)


def test_alpha_one_is_cross_entropy() -> None:
    hidden, weight, target = draw_layer(20, 16, 2500, 20)
    target[0] = -100
    loss, report = ts.linear_entmax_loss(hidden, weight, target, alpha=1.0, label_smoothing=0.1, return_report=True)
    exact = functional.cross_entropy(hidden @ weight.t(), target, label_smoothing=0.1)
    assert report.path == "dense"
    assert float(loss) == pytest.approx(float(exact), rel=1e-5)


@needs_numba
def test_a_sparse_gradient_of_a_weight_in_half_precision() -> None:
    hidden, weight, target = torch.randn(6, 8), torch.randn(30, 8), torch.randint(30, (6,))
    own = [weight.bfloat16().requires_grad_() for _ in range(2)]
    for w, sparse in zip(own, (True, False), strict=True):
        ts.linear_entmax_loss(hidden.bfloat16(), w, target, sparse_grad=sparse).backward()
    got, expected = (w.grad for w in own)
    assert got is not None
    assert expected is not None
    assert got.is_sparse
    assert got.dtype == torch.bfloat16
    assert torch.equal(got.to_dense(), expected)


def test_a_sparse_gradient_is_the_dense_one_and_trains() -> None:
    hidden, weight, target = draw_layer(30, 16, 4000, 5)
    bias = torch.zeros(4000, requires_grad=True)
    layers = []
    for sparse in (False, True):
        w = nn.Parameter(weight.clone())
        loss = ts.linear_entmax_loss(hidden, w, target, bias, sparse_grad=sparse)
        loss.backward()
        assert w.grad is not None
        assert w.grad.is_sparse == sparse
        layers.append(w)
    dense, sparse = layers[0].grad, layers[1].grad
    assert dense is not None
    assert sparse is not None
    assert torch.equal(dense, sparse.to_dense())
    # Targets are among its rows also where nothing is left to learn.
    assert int((dense != 0).any(1).sum()) <= sparse._nnz() <= int((dense != 0).any(1).sum()) + 30
    before = layers[1].detach().clone()
    torch.optim.SparseAdam([layers[1]], lr=0.1).step()
    assert torch.equal((layers[1].detach() != before).any(1), (dense != 0).any(1))
    # Also where chunks of dense scores serve.
    w = nn.Parameter(weight.clone())
    ts.linear_entmax_loss(1e-4 * hidden, w, target, sparse_grad=True).backward()
    assert w.grad is not None
    assert w.grad.is_sparse


@needs_numba
@pytest.mark.parametrize("method", METHODS)
def test_results_do_not_depend_on_the_number_of_threads(method: Any) -> None:
    hidden, weight, target = draw_layer(300, 32, 5000, 20)
    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            loss = ts.linear_entmax_loss(hidden, weight, target, method=method, alpha=1.4)
            results.append([loss, *torch.autograd.grad(loss, (hidden, weight))])
    finally:
        torch.set_num_threads(before)
    # Products are torch's, and may be summed in another order; everything else is ours.
    for other in results[1:]:
        _assert_close(other, results[0], 1e-6)


def test_the_hessian_is_that_of_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2100, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 5, 2099])

    def second(loss: Tensor) -> list[Tensor]:
        first = torch.autograd.grad(loss, (hidden, weight, alpha), create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in first), (hidden, weight, alpha)))

    got = second(ts.linear_entmax_loss(hidden, weight, target, alpha=alpha))
    expected = second(ts.entmax_loss(hidden @ weight.t(), target, alpha, backend="reference"))
    _assert_close(got, expected, 1e-9)
    assert float(expected[2].abs()) > 0
    slope = torch.func.grad(lambda h: ts.linear_entmax_loss(h, weight, target))(hidden)
    assert torch.allclose(slope, torch.autograd.grad(ts.linear_entmax_loss(hidden, weight, target), hidden)[0])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"target": torch.tensor([0, 3000])}, ParameterError, "classes from 0 to 2999"),
        ({"target": torch.tensor([0, -1])}, ParameterError, "ignore_index"),
        ({"target": torch.tensor([0])}, ShapeError, "one class per hidden state"),
        ({"target": torch.rand(2)}, ParameterError, "class indices"),
        ({"weight": torch.rand(3000, 5)}, ShapeError, "torch.nn.Linear"),
        ({"bias": torch.rand(2)}, ShapeError, "one number per class"),
        ({"alpha": 0.0}, ParameterError, "alpha"),
        ({"method": "fast"}, ParameterError, "lists, screened, dense"),
        ({"sparse_grad": True, "label_smoothing": 0.1}, ParameterError, "moves every row"),
        ({"label_smoothing": 2.0}, ParameterError, "label_smoothing"),
    ],
)
def test_errors_say_what_to_do(change: dict[str, Any], error: type[Exception], words: str) -> None:
    arguments = {"hidden": torch.rand(2, 4), "weight": torch.rand(3000, 4), "target": torch.tensor([0, 1])} | change
    with pytest.raises(error, match=words):
        ts.linear_entmax_loss(**arguments)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_to_learn_from(method: Any) -> None:
    """Empty batches and batches of ignored targets: a sum is 0, a mean NaN, gradients 0."""
    weight = torch.rand(3000, 4, requires_grad=True)
    for n, target in ((0, torch.empty(0, dtype=torch.long)), (2, torch.tensor([-100, -100]))):
        hidden = torch.full((n, 4), torch.nan, requires_grad=True)
        loss = ts.linear_entmax_loss(hidden, weight, target, reduction="sum", method=method)
        assert float(loss.detach()) == 0
        for g in torch.autograd.grad(loss, (hidden, weight)):
            assert not g.any()
        assert ts.linear_entmax_loss(hidden, weight, target, method=method).isnan()
        assert ts.linear_entmax_loss(hidden, weight, target, reduction="none", method=method).shape == (n,)


def test_what_is_not_finite_shows() -> None:
    hidden, weight, target = draw_layer(8, 16, 3000, 5)
    hidden[2, 3] = torch.nan
    loss, report = ts.linear_entmax_loss(hidden, weight, target, reduction="none", return_report=True)
    assert loss.isnan().tolist() == [i == 2 for i in range(8)]
    assert report.path == "dense"


def test_the_module_ties_accumulates_and_travels() -> None:
    import copy

    embedding = nn.Embedding(2500, 16)
    layer = ts.nn.LinearEntmaxLoss(16, 2500, ts.nn.Alpha(1.5), weight=embedding.weight)
    assert layer.weight is embedding.weight
    tokens, target = torch.randint(2500, (2, 7)), torch.randint(2500, (2, 7))
    layer(embedding(tokens), target).backward()
    assert layer.report.path in ("lists", "screened", "dense")
    first = embedding.weight.grad
    assert first is not None
    assert layer.alpha.theta.grad is not None
    first = first.clone()
    layer(embedding(tokens), target).backward()
    assert torch.allclose(embedding.weight.grad, 2 * first)
    with_bias = ts.nn.LinearEntmaxLoss(16, 2500, bias=True)
    other = copy.deepcopy(with_bias)
    other.load_state_dict(with_bias.state_dict())
    hidden = torch.randn(3, 16)
    assert torch.equal(other(hidden, target[0, :3]), with_bias(hidden, target[0, :3]))
    assert with_bias.scores(hidden).shape == (3, 2500)
    with pytest.raises(ShapeError, match="num_classes, in_features"):
        ts.nn.LinearEntmaxLoss(8, 2500, weight=embedding.weight)


@needs_numba
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # Dynamo's own, of what crosses a graph break
def test_compiled_programs_break_once_and_agree() -> None:
    torch.compiler.reset()
    hidden, weight, target = draw_layer(8, 16, 3000, 5)
    hidden.requires_grad_()

    def step(h: Tensor) -> Tensor:
        return ts.linear_entmax_loss(h * 2, weight, target) + 1

    loss = torch.compile(step, backend="aot_eager")(hidden)
    assert float(loss.detach()) == pytest.approx(float(step(hidden).detach()), rel=1e-6)
    assert torch.allclose(torch.autograd.grad(loss, hidden)[0], torch.autograd.grad(step(hidden), hidden)[0])


_DISTRIBUTED = """
import sys, torch, torch.distributed as dist, tsallis as ts
from tsallis.testing.layers import draw_layer
rank, address = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
hidden, weight, target = draw_layer(16, 8, 3000, 5)
layer = ts.nn.LinearEntmaxLoss(8, 3000)
with torch.no_grad():
    layer.weight.copy_(weight)
half = slice(8 * rank, 8 * rank + 8)
model = torch.nn.parallel.DistributedDataParallel(layer)
model(hidden[half], target[half]).backward()
whole = torch.autograd.grad(ts.linear_entmax_loss(hidden, layer.weight, target), layer.weight)[0]
assert torch.allclose(layer.weight.grad, whole, atol=1e-7), (layer.weight.grad - whole).abs().max()
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_share_a_batch(tmp_path: Any) -> None:
    run_two(_DISTRIBUTED, tmp_path)


@needs_numba
@pytest.mark.full
@pytest.mark.timeout(7200)
@settings(max_examples=10_000, deadline=None)
@given(st.data())
def test_anything(data: st.DataObject) -> None:
    """Shapes, ignored targets, alpha, dtype, method: values and gradients are those of the formula."""
    draw = data.draw
    n, width, words = draw(st.integers(1, 12)), draw(st.integers(1, 20)), draw(st.sampled_from([5, 2047, 2048, 2300]))
    support = draw(st.sampled_from([2, 10, 200, None]))
    hidden, weight, target = draw_layer(
        n, width, words, min(support, words) if support else None, 1.5, draw(st.integers(0, 9999))
    )
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    hidden, weight = hidden.to(dtype), weight.to(dtype)
    target[torch.rand(n) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = -100
    alpha = draw(st.sampled_from([1.0, 1.1, 1.5, 1.8, 2.0, 2.5, "learned", "rows"]))
    alpha = {"learned": torch.tensor(1.4, dtype=dtype), "rows": torch.linspace(1.1, 2.2, n, dtype=dtype)}.get(
        alpha, alpha
    )
    options: dict[str, Any] = {
        "method": draw(st.sampled_from(METHODS)), "label_smoothing": draw(st.sampled_from([0.0, 0.2])),
        "reduction": draw(st.sampled_from(["sum", "none"])),
    }  # fmt: skip
    inputs = [hidden, weight, *([alpha] if isinstance(alpha, Tensor) else [])]
    got, expected, _ = _both(inputs, target, alpha, False, **options)
    steep = isinstance(alpha, Tensor) or alpha > 2
    tolerance = 1e-8 if dtype == torch.float64 else 1e-4 if steep else 1e-5
    sizes = _sizes(hidden, weight, target, alpha, options["label_smoothing"], tolerance)
    _assert_close(got, expected, tolerance, (options, alpha), sizes)


def _sizes(
    hidden: Tensor, weight: Tensor, target: Tensor, alpha: float | Tensor, smoothing: float, tolerance: float
) -> list[float]:
    """What losses and gradients in hidden states and weight are sums of: the sizes of the terms. They may cancel."""
    z = (hidden @ weight.t()).double().requires_grad_()
    alpha = alpha.double() if isinstance(alpha, Tensor) else alpha
    loss = ts.entmax_loss(z, target, alpha, label_smoothing=smoothing, reduction="sum", backend="reference")
    dz = torch.autograd.grad(loss, z)[0].abs()
    # p - 1 is known as well as p is, and that as well as the scores: to some units in their last place.
    units = 4 * torch.finfo(hidden.dtype).eps * z.detach().abs().amax(1, keepdim=True).clamp_min(1)
    kept = (target >= 0)[:, None]
    dz = dz.scatter_add(1, target.clamp_min(0)[:, None], torch.where(kept, units / tolerance, 0.0))
    sums = (dz @ weight.abs().double(), dz.t() @ hidden.abs().double())
    return [float(z.detach().abs().max()), *(float(x.max()) for x in sums)]
