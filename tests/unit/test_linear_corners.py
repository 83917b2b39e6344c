"""The output layer where inputs are laid out, ruled out or spoilt in unusual ways."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import tsallis as ts
from tsallis.losses import linear_layer
from tsallis.testing.layers import draw_layer

from .test_linear_loss import METHODS, _assert_close, needs_numba


@pytest.mark.parametrize("method", METHODS)
def test_targets_of_any_layout_and_no_gradients(method: Any) -> None:
    hidden, weight, target = draw_layer(24, 16, 3000, 5)
    exact = ts.linear_entmax_loss(hidden, weight, target, method=method)
    strided = torch.stack([target, torch.full_like(target, 10**9)], 1)[:, 0]
    assert torch.equal(ts.linear_entmax_loss(hidden, weight, strided, method=method), exact)
    one = ts.linear_entmax_loss(hidden, weight, torch.tensor(5).expand(24), method=method)
    assert torch.equal(one, ts.linear_entmax_loss(hidden, weight, torch.full((24,), 5), method=method))
    weight.requires_grad_()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(ts.linear_entmax_loss(hidden, weight, target, method=method), exact)
    with torch.autocast("cpu", torch.bfloat16):
        loss = ts.linear_entmax_loss(hidden, weight, target, method=method, reduction="none")
        (loss * torch.arange(24)).sum().backward()
    assert weight.grad is not None


@needs_numba
@pytest.mark.parametrize("method", ["lists", "screened"])
def test_a_loss_of_zero_has_a_gradient_of_zero(method: Any) -> None:
    hidden, weight, _ = draw_layer(32, 16, 3000, 5)
    hidden = (100 * hidden).requires_grad_()
    target = (hidden @ weight.t()).argmax(1)
    loss = ts.linear_entmax_loss(hidden, weight, target, method=method, reduction="none")
    (slope,) = torch.autograd.grad(loss.sum(), hidden)
    assert (loss == 0).sum() > 20
    assert not slope[loss == 0].any()


@needs_numba
@pytest.mark.parametrize("method", METHODS)
def test_an_alpha_that_is_no_number_spoils_its_token(method: Any) -> None:
    hidden, weight, target = draw_layer(24, 16, 3000, 5)
    hidden.requires_grad_()
    alpha = torch.full((24,), 1.5)
    alpha[3] = torch.nan
    loss = ts.linear_entmax_loss(hidden, weight, target, alpha=alpha, method=method, reduction="none")
    assert loss.isnan().tolist() == [i == 3 for i in range(24)]
    slope = torch.autograd.grad(loss.sum(), hidden)[0].isnan()
    assert slope.all(1).tolist() == slope.any(1).tolist() == [i == 3 for i in range(24)]


@needs_numba
@pytest.mark.parametrize("method", METHODS)
def test_words_that_are_ruled_out(method: Any) -> None:
    """A bias of -inf: never in a support; as a target, an infinite loss with a finite gradient, as of `entmax_loss`."""
    hidden, weight, target = draw_layer(8, 16, 3000, 5)
    bias = torch.zeros(3000)
    bias[::2] = -torch.inf
    target[:2] = torch.tensor([0, 1])
    for options in ({}, {"label_smoothing": 0.1}):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        loss, report = ts.linear_entmax_loss(
            h, w, target, bias, method=method, reduction="none", return_report=True, **options
        )
        assert report.path == (method or report.path) or options
        expected = ts.entmax_loss(
            functional.linear(h, w, bias), target, reduction="none", backend="reference", **options
        )
        assert torch.equal(loss == torch.inf, expected == torch.inf)
        assert bool(loss.isinf()[0])
        finite = loss.isfinite()
        assert torch.allclose(loss[finite], expected[finite], atol=1e-5)
        got, wanted = (torch.autograd.grad(x.sum(), (h, w)) for x in (loss, expected))
        _assert_close([loss[finite], *got], [expected[finite], *wanted], 1e-5)
    bias.fill_(-torch.inf)
    assert ts.linear_entmax_loss(hidden, weight, target, bias, method=method).isnan()


@needs_numba
@pytest.mark.parametrize("method", METHODS)
def test_tied_inputs_of_a_differentiable_backward_pass(method: Any) -> None:
    _, weight, target = draw_layer(24, 16, 3000, 5)
    weight = weight.double().requires_grad_()
    loss = ts.linear_entmax_loss(weight[torch.arange(24)] * 2, weight, target, method=method)
    plain = torch.autograd.grad(loss, weight, retain_graph=True)[0]
    again = torch.autograd.grad(loss, weight, create_graph=True)[0]
    assert torch.allclose(again.detach(), plain, atol=1e-10)


@needs_numba
def test_half_precision_and_lists_under_autocast_are_computed_in_float32() -> None:
    hidden, weight, target = draw_layer(16, 32, 3000, 5)
    narrow = hidden.bfloat16(), weight.bfloat16()
    exact = ts.entmax_loss(narrow[0].double() @ narrow[1].double().t(), target)
    loss = ts.linear_entmax_loss(*narrow, target)
    assert loss.dtype == torch.bfloat16
    assert float(loss) == pytest.approx(float(exact), rel=2**-8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = ts.linear_entmax_loss(hidden, weight, target)
    assert torch.equal(inside, ts.linear_entmax_loss(hidden, weight, target))


@pytest.mark.parametrize("alpha", [1.0, 1.5])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_dense_chunks_under_autocast_multiply_as_linear_layers_do(
    alpha: float, reduction: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_layer, "CHUNK", 0)
    monkeypatch.setattr(linear_layer, "FEWEST", 7)
    hidden, weight, target = draw_layer(16, 32, 300, 5)
    bias = torch.randn(300)
    leaves = [x.requires_grad_() for x in (hidden, weight, bias)]
    g = torch.arange(1.0, 17.0) if reduction == "none" else torch.tensor(3.0)

    def measured(loss: Tensor) -> list[Tensor]:
        return [loss.detach(), *torch.autograd.grad(loss, leaves, g)]

    def ours(*x: Tensor) -> Tensor:
        return ts.linear_entmax_loss(x[0], x[1], target, x[2], alpha=alpha, method="dense", reduction=reduction)

    full = measured(ours(hidden, weight, bias))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = measured(ours(hidden, weight, bias))
        scores = functional.linear(hidden, weight, bias)
    assert scores.dtype == torch.bfloat16
    expected = measured(ts.entmax_loss(scores.float(), target, alpha=alpha, reduction=reduction))
    assert torch.equal(found[0], expected[0])
    assert not torch.equal(found[0], full[0])
    for a, b, exact in zip(found[1:], expected[1:], full[1:], strict=True):
        assert a.dtype == torch.float32
        # Each is off by roundings of scores and factors; ours is no worse than autocast's own.
        assert float((a - exact).norm()) <= 1.5 * float((b - exact).norm()) + 1e-6
        assert float((a - b).norm()) <= 0.02 * float(b.norm())
    double = [x.detach().double() for x in leaves]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = ours(*double)
    assert torch.equal(inside, ours(*double))
