"""Attention in Triton, on a GPU where there is one, else in the interpreter, against all scores in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis.attention import formula
from tsallis.attention.inputs import checked

from .conftest import DEVICE

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.usefixtures("triton_kernels"),
    # The interpreter computes with numpy, which warns of infinities on their way to being left out.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

NAMES = ("out", "dq", "dk", "dv", "dalpha")
# Largest errors, relative to the largest number of a result or to 1.
FLOAT32 = dict.fromkeys(NAMES, 1e-5)
# p is rounded before it meets v or g, dz before it meets k or q, and each result once more. The interpreter cuts
# bfloat16 off where GPUs round it: units in the last place of 2^-8, not halves of them. Slopes in alpha meet no rounded
# number but the scores' inputs, which are the reference's too.
BFLOAT16 = {"out": 2.0**-7, "dq": 2.0**-6, "dk": 2.0**-6, "dv": 2.0**-7, "dalpha": 1e-5}
FLOAT16 = {"out": 2.0**-10, "dq": 2.0**-9, "dk": 2.0**-9, "dv": 2.0**-10, "dalpha": 1e-5}
BOUNDS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}

ALPHAS: dict[str, Any] = {
    "1.5": 1.5, "2": 2.0, "1.3": 1.3, "1.001": 1.001, "scalar": torch.tensor(1.7),
    "heads": torch.tensor([1.2, 2.0]), "batch": torch.tensor([[1.1, 1.9], [1.4, 1.001]]),
}  # fmt: skip


def draw(
    n: int, m: int, d: int, depth: int | None = None, lead: tuple[int, int] = (1, 2), keys: int = 0, factor: float = 3.0
) -> list[Tensor]:
    """q, k, v in float32; the factor makes supports small."""
    generator = torch.Generator().manual_seed(n + m + d)
    key_lead = (lead[0], keys or lead[1])
    shapes = ((*lead, n, d), (*key_lead, m, d), (*key_lead, m, depth or d))
    q, k, v = (torch.randn(s, generator=generator) for s in shapes)
    return [factor * q, k, v]


def way(out: Tensor) -> str:
    """Which autograd function made a result."""
    nodes = [out.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None:
            if node.name() in ("DirectBackward", "BlockedBackward"):
                return node.name()
            nodes += [n for n, _ in node.next_functions]
    return "formula"


def both(
    inputs: Sequence[Tensor], mask: Tensor | None, causal: bool, alpha: Any, dtype: torch.dtype, packed: Any = (None, None)
) -> list[list[Tensor]]:  # fmt: skip
    """Values and all gradients, by Triton and by the formula in float64."""
    results = []
    for ours in (True, False):
        device = DEVICE if ours else "cpu"
        own = [x.to(dtype).to(device, dtype if ours else torch.float64).requires_grad_() for x in inputs]
        m = None if mask is None else mask.to(device)
        a = alpha
        if isinstance(alpha, Tensor):
            a = alpha.to(device, torch.float32 if ours else torch.float64).requires_grad_()
            own.append(a)
        if ours:
            out = ts.entmax_attention(
                *own[:3], m, 0.0, causal, alpha=a, enable_gqa=True, backend="triton", cu_seqlens_q=packed[0],
                cu_seqlens_k=packed[1],
            )  # fmt: skip
            assert way(out) == "DirectBackward"
            assert out.dtype == dtype
        else:
            if m is not None and m.dtype != torch.bool:
                m = m.double()
            heads = checked(*own[:3], m, 0.0, causal, None, True, a, *packed)
            out = formula.average(formula.probabilities(heads, "reference"), heads)
        weights = torch.linspace(-1, 1, out.numel()).to(dtype).to(device, out.dtype).reshape(out.shape)
        grads = torch.autograd.grad(out, own, weights)
        results.append([x.detach().cpu() for x in (out, *grads)])
    return results


def compare(
    inputs: Sequence[Tensor], mask: Tensor | None = None, causal: bool = False, alpha: Any = 1.5,
    dtype: torch.dtype = torch.float32, packed: Any = (None, None),
) -> list[Tensor]:  # fmt: skip
    """Check them, and return the formula's."""
    got, expected = both(inputs, mask, causal, alpha, dtype, packed)
    for name, x, y in zip(NAMES, got, expected, strict=False):
        error = float((x.double() - y).abs().max()) / max(1.0, float(y.abs().max()))
        assert error <= BOUNDS[dtype][name], (name, error)
    return expected


@pytest.mark.parametrize("d", [16, 32, 80])
@pytest.mark.parametrize("n", [1, 17, 63, 64, 65, pytest.param(130, marks=pytest.mark.full)])
def test_equals_the_formula(n: int, d: int) -> None:
    alpha = list(ALPHAS)[(n + d) % len(ALPHAS)]
    compare(draw(n, n, d, lead=(2 if alpha == "batch" else 1, 2)), None, n % 2 == 1, ALPHAS[alpha])


@pytest.mark.full
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("d", [16, 32, 64, 80, 128, 256])
@pytest.mark.parametrize("n", [1, 17, 63, 64, 65, 130, 1000])
def test_full_grid(n: int, d: int, dtype: torch.dtype) -> None:
    for alpha in ("1.5",) if n == 1000 else ALPHAS:
        for causal in (False, True):
            compare(draw(n, n, d, lead=(2 if alpha == "batch" else 1, 2)), None, causal, ALPHAS[alpha], dtype)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_cross_attention_and_shared_keys(alpha: str) -> None:
    for (n, m), causal in (((20, 40), False), ((40, 20), True)):
        compare(draw(n, m, 20, 33, (2, 2), 1), None, causal, ALPHAS[alpha])


def test_values_and_gradients_in_half_precision() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        for factor in (0.5, 4.0):
            compare(draw(70, 100, 32, factor=factor), None, False, 1.5, dtype)
        compare(draw(70, 70, 80, 32, (1, 4), 2, 2.0), None, True, torch.tensor([1.2, 1.5, 1.9, 2.0]), dtype)
