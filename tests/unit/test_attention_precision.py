"""Attention in half precision: every operation is float32's, rounded once.

So out, dq, dk, dv, dmask and dalpha are off by half a unit in their own last place (2^-9 of bfloat16, 2^-12 of float16,
relative) beyond the 1e-5 of float32.
"""

from __future__ import annotations

import pytest
import torch

import tsallis as ts

from .test_attention import _draw as draw_inputs


def test_autocast_leaves_attention_as_it_is() -> None:
    inputs = [x.float() for x in draw_inputs((2, 4), 50, 70, 32)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = ts.entmax_attention(*inputs)
    assert torch.equal(inside, ts.entmax_attention(*inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n", "d"), [(1, 16), (63, 80), (65, 64), pytest.param(1000, 256, marks=pytest.mark.full)])
def test_half_precision_is_float32_rounded_once(n: int, d: int, dtype: torch.dtype) -> None:
    keep = torch.rand(2, 1, n, n) < 0.8
    draws = [*draw_inputs((2, 4), n, n, d), torch.randn(1, 4, n, n), torch.tensor([1.2, 1.5, 1.75, 2.0])]
    weights = torch.linspace(-1, 1, 8 * n * d).reshape(2, 4, n, d).to(dtype)
    for mask, causal in ((None, False), (None, True), (keep, False), ("added", True)):
        results = []
        for wanted in (dtype, torch.float32):
            own = [x.to(dtype).to(wanted).requires_grad_() for x in draws]
            given = own[3] if mask == "added" else mask
            out = ts.entmax_attention(*own[:3], given, 0.0, causal, alpha=own[4])
            assert out.dtype == wanted
            results.append([out, *torch.autograd.grad(out, own, weights.to(wanted), allow_unused=True)])
        for got, expected in zip(*results, strict=True):
            assert (got is None) == (expected is None)
            assert got is None or torch.equal(got, expected.to(dtype))


def test_differentiable_gradients_leave_autocast_too() -> None:
    q, k, v = (x.float().requires_grad_() for x in draw_inputs((1, 2), 20, 30, 16))
    grads = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            out = ts.entmax_attention(q, k, v)
            grads.append(torch.autograd.grad(out.sin().sum(), (q, k, v), create_graph=True))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
