"""The output layer where inputs are laid out, ruled out or spoilt in unusual ways."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

import tsallis as ts
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
