"""Triton's losses and output layer, on a GPU where there is one, against the formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import tsallis as ts
from tsallis.core import dispatch
from tsallis.core.dispatch import Lists
from tsallis.testing import draw
from tsallis.testing.layers import draw_layer

from .conftest import DEVICE

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.usefixtures("triton_kernels"),
    # The interpreter computes with numpy, which warns of infinities on their way to being left out.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

LOSSES = {
    "sparsemax_loss": {},
    "entmax15_loss": {},
    "entmax_loss": {"alpha": 1.3},
    "entmax_loss steep": {"alpha": 2.5},
    "entmax_loss softmax": {"alpha": 1.0},
    "entmax_loss scalar": {"alpha": torch.tensor(1.6)},
    "entmax_loss rows": {"alpha": torch.linspace(1.1, 2.2, 6)},
}


def _moved(x: Any, device: str) -> Any:
    return x.to(device) if isinstance(x, Tensor) else x


def _loss(name: str, z: Tensor, y: Tensor, backend: str, device: str, **options: Any) -> list[Tensor]:
    """(losses, gradient in z and in alpha, if it is a tensor)."""
    params = {k: v.clone().to(device).requires_grad_() if isinstance(v, Tensor) else v for k, v in LOSSES[name].items()}
    options = {k: _moved(v, device) for k, v in options.items()}
    z = z.clone().to(device).requires_grad_()
    loss = getattr(ts, name.split()[0])(z, y.to(device), reduction="none", backend=backend, **params, **options)
    weights = torch.linspace(0.5, 1.5, len(y), device=device, dtype=loss.dtype)
    grads = torch.autograd.grad((loss * weights).sum(), [z, *(p for p in params.values() if isinstance(p, Tensor))])
    return [x.detach().cpu() for x in (loss, *grads)]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"weight": torch.linspace(0, 2, 70)}])
def test_losses_equal_the_formula(name: str, options: dict[str, Any]) -> None:
    y = torch.tensor([3, -100, 69, 0, 12, 40])
    for family, dtype in (("normal", torch.float32), ("ties", torch.float64), ("peaked", torch.float32)):
        z = draw(family, 6, 70, dtype=dtype)
        z[0, 5:20] = -torch.inf
        z[2, 69] = -torch.inf
        z[1, 7] = torch.nan
        own = {k: v.to(dtype) if isinstance(v, Tensor) else v for k, v in options.items()}
        got, expected = (_loss(name, z, y, b, d, **own) for b, d in (("triton", DEVICE), ("reference", "cpu")))
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-5 if dtype == torch.float32 else 1e-10)


def test_losses_of_what_is_not_there() -> None:
    z = draw("normal", 6, 300)
    z[1, 4], z[2] = torch.nan, -torch.inf
    y = torch.tensor([300, 2, 2, 299, -1, -100])
    got, expected = (_loss("entmax15_loss", z, y, b, d) for b, d in (("triton", DEVICE), ("reference", "cpu")))
    assert got[0].isnan().tolist() == [True, True, True, False, True, False]
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


def test_losses_of_rows_longer_than_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    from tsallis.kernels.triton import calls, loss_calls

    monkeypatch.setattr(loss_calls, "DIFFERENTIATED", 512)
    monkeypatch.setattr(calls, "PART", 128)
    z, y = draw("normal", 6, 1000), torch.tensor([3, -100, 999, 0, 12, 40])
    for name in ("entmax15_loss", "entmax_loss rows"):
        got, expected = (
            _loss(name, z, y, b, d, label_smoothing=0.1) for b, d in (("triton", DEVICE), ("reference", "cpu"))
        )
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-5)


def _layer(
    inputs: list[Tensor], target: Tensor, biased: bool, alpha: float | Tensor, **options: Any
) -> tuple[list[Tensor], list[Tensor], Any]:
    """(loss and gradients by Triton, those by the formula, report)."""
    results, report = [], None
    formula_options = {k: v for k, v in options.items() if k not in ("method", "sparse_grad")}
    for device in (DEVICE, "cpu"):
        own = [x.clone().to(device).requires_grad_() for x in inputs]
        hidden, weight, bias = own[0], own[1], own[2] if biased else None
        a, y = own[-1] if isinstance(alpha, Tensor) else alpha, target.to(device)
        if not results:
            loss, report = ts.linear_entmax_loss(
                hidden, weight, y, bias, alpha=a, backend="triton", return_report=True, **options
            )
        else:
            scores = functional.linear(hidden, weight, bias)
            loss = ts.entmax_loss(scores, y, a, backend="reference", **formula_options)
        grads = torch.autograd.grad(loss.sum(), own)
        results.append([x.detach().to_dense().cpu() for x in (loss, *grads)])
    return results[0], results[1], report


def _assert_close(got: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        scale = max(float(b.abs().max()), 1e-6 if i else 1.0)
        assert float((a - b).abs().max()) <= tolerance * scale, i


@pytest.fixture
def narrow_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several of them in small vocabularies."""
    from tsallis.kernels.triton import linear_calls

    monkeypatch.setattr(linear_calls.OutputLayer, "columns", 700)
    monkeypatch.setattr(linear_calls, "SCORES", 256)


@pytest.mark.usefixtures("narrow_blocks")
@pytest.mark.parametrize(
    ("alpha", "method"),
    [
        (1.5, "lists"), (1.3, "screened"), (2.0, "screened"), (3.0, "lists"), ("scalar", "lists"), ("rows", "screened"),
        *(
            pytest.param(*pair, marks=pytest.mark.full)
            for pair in (
                (1.5, "screened"), (1.3, "lists"), (2.0, "lists"), (3.0, "screened"), ("scalar", "screened"),
                ("rows", "lists"),
            )
        ),
    ],
)  # fmt: skip
def test_the_layer_equals_the_formula(alpha: Any, method: str) -> None:
    hidden, weight, target = draw_layer(7, 33, 2100, 8)
    target[3] = -100
    bias = 0.1 * torch.randn(2100, generator=torch.Generator().manual_seed(0))
    alpha = {"scalar": torch.tensor(1.6), "rows": torch.linspace(1.2, 2.2, 7)}.get(alpha, alpha)
    learned = [alpha] if isinstance(alpha, Tensor) else []
    steep = isinstance(alpha, Tensor) or alpha > 2
    for biased, options in ((False, {}), (True, {"label_smoothing": 0.1})):
        inputs = [hidden, weight, *([bias] if biased else []), *learned]
        got, expected, report = _layer(inputs, target, biased, alpha, method=method, **options)
        assert report.path == method
        _assert_close(got, expected, 1e-4 if steep else 1e-5)


@pytest.mark.parametrize("method", ["lists", "screened"])
def test_float64_and_sparse_gradients(method: str) -> None:
    hidden, weight, target = (x.double() if x.is_floating_point() else x for x in draw_layer(5, 16, 2100, 5))
    got, expected, report = _layer([hidden, weight], target, False, 1.5, method=method, sparse_grad=True)
    assert report.path == "lists"
    _assert_close(got, expected, 1e-10)
    # Targets outside of their supports.
    target = (hidden @ weight.t()).argmin(1)
    got, expected, _ = _layer([hidden, weight], target, False, 1.5, method=method, label_smoothing=0.1)
    _assert_close(got, expected, 1e-10)
    bias = torch.zeros(2100)
    inputs = [hidden.float(), weight.float(), bias]
    dense, sparse = (
        _layer(inputs, target, True, 1.5, method=method, sparse_grad=s, reduction="sum")[0] for s in (False, True)
    )
    assert all(torch.equal(a, b) for a, b in zip(dense, sparse, strict=True))


@pytest.mark.usefixtures("narrow_blocks")
@pytest.mark.parametrize("method", ["lists", "screened"])
def test_rows_that_crowd_their_lists(method: str) -> None:
    """Scores that ascend, tokens with large supports, and -inf at first."""
    hidden, weight, target = draw_layer(20, 16, 2400, 5)
    hidden[7] = 0.0
    hidden[3] = 3 * hidden[3]
    order = (weight @ hidden[3]).argsort()
    weight = weight[order]
    bias = torch.zeros(2400)
    bias[:1200] = -torch.inf
    for biased, own in ((False, weight), (True, weight[torch.randperm(2400)])):
        inputs = [hidden, own, *([bias] if biased else [])]
        scores = functional.linear(hidden, own, bias if biased else None)
        y = torch.where(scores.gather(1, target[:, None])[:, 0] > -torch.inf, target, 2000)
        got, expected, report = _layer(inputs, y, biased, 1.5, method=method)
        assert report.path == method
        _assert_close(got, expected, 1e-5)
    assert report.support > 1000 / 20


def test_layers_without_lists_say_why() -> None:
    for support, spoilt, alpha, reason in (
        (None, False, 1.5, "keep more than"), (5, True, 1.5, "NaN"), (5, False, 1.0, "above 1")
    ):  # fmt: skip
        hidden, weight, target = (x.to(DEVICE) for x in draw_layer(6, 16, 2100, support))
        if spoilt:
            hidden[2, 3] = torch.nan
        _, report = ts.linear_entmax_loss(hidden, weight, target, alpha=alpha, backend="triton", return_report=True)
        assert report.path == "dense"
        assert reason in report.reason


@pytest.mark.usefixtures("narrow_blocks")
def test_screening_keeps_what_the_full_scores_do() -> None:
    for seed in (0, 1, 6, 7):
        alpha = (1.3, 1.5, 1.7, 2.0)[seed % 4]
        hidden, weight, target = draw_layer(4, 24, 2100, (2, 60)[seed % 2], alpha, seed)
        if seed > 3:
            # Neighbours that half precision cannot tell apart.
            weight[1::2] = weight[::2] * (1 + 1e-4)
        layer = dispatch.sparse_layer("entmax", hidden.to(DEVICE), "triton")
        assert layer is not None
        found = layer.lists(hidden.to(DEVICE), weight.to(DEVICE), None, target.to(DEVICE), [alpha], 1.0, False, True)
        assert isinstance(found, Lists)
        exact = ts.entmax(hidden.double() @ weight.double().t(), alpha, backend="reference")
        for r in range(4):
            words = set(found.places[found.starts[r] : found.starts[r + 1] - 1].tolist())
            # Words within the rounding of the threshold have no say.
            assert set((exact[r] > 1e-9).nonzero().squeeze(1).tolist()) <= words
            assert float(exact[r].sum() - exact[r][list(words)].sum()) < 1e-8
            assert len(words) <= int((exact[r] > 0).sum()) + 1
