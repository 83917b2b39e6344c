"""Attention in Triton, on a GPU where there is one, else in the interpreter, against all scores in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis.attention import formula
from tsallis.attention.inputs import Heads, checked
from tsallis.core import dispatch

from .conftest import DEVICE

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.usefixtures("triton_kernels"),
    # The interpreter computes with numpy, which warns of infinities on their way to being left out.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

NAMES = ("out", "dq", "dk", "dv", "dalpha")
# Largest errors, relative to the largest number of a result or to 1. Slopes in alpha of many rows cancel, and weights
# of tiny p near alpha = 2 turn the rounding of scores into more: the formula itself, in float32, is off by 1.3e-4.
FLOAT32 = {"out": 1e-5, "dq": 1e-5, "dk": 1e-5, "dv": 1e-5, "dalpha": 1e-4}
# In half precision p is rounded before it meets v or g, dz before it meets k or q, and each result once more; sums may
# cancel to half of their terms. One rounding moves a number by 2^-8 of itself in the interpreter, which cuts bfloat16
# off, and by 2^-11 in float16. Slopes in alpha meet no rounded number.
BFLOAT16 = {"out": 2.0**-6, "dq": 2.0**-6, "dk": 2.0**-6, "dv": 2.0**-6, "dalpha": 1e-4}
FLOAT16 = {"out": 2.0**-10, "dq": 2.0**-10, "dk": 2.0**-10, "dv": 2.0**-10, "dalpha": 1e-4}
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
    inputs: Sequence[Tensor], mask: Tensor | None, causal: bool, alpha: Any, dtype: torch.dtype,
    packed: Any = (None, None),
) -> list[list[Tensor]]:  # fmt: skip
    """Values and all gradients, by Triton and by the formula in float64."""
    results = []
    for ours in (True, False):
        device = DEVICE if ours else "cpu"
        rounded = [x.detach().to(device, dtype) for x in inputs]
        own = [x.to(dtype if ours else torch.float64).clone().requires_grad_() for x in rounded]
        m = None if mask is None else mask.to(device)
        a = alpha
        if isinstance(alpha, Tensor):
            a = alpha.to(device, torch.float32 if ours else torch.float64).clone().requires_grad_()
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
                m = m.double().masked_fill(m <= torch.finfo(m.dtype).min, -torch.inf)
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
        for causal in (True,) if n == 1000 else (False, True):
            compare(draw(n, n, d, lead=(2 if alpha == "batch" else 1, 2)), None, causal, ALPHAS[alpha], dtype)


@pytest.mark.parametrize("alpha", ["1.5", "1.001", "batch"])
def test_cross_attention_and_shared_keys(alpha: str) -> None:
    for (n, m), causal in (((20, 40), False), ((40, 20), True)):
        compare(draw(n, m, 20, 33, (2, 2), 1), None, causal, ALPHAS[alpha])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_values_and_gradients_in_half_precision(dtype: torch.dtype) -> None:
    compare(draw(70, 100, 32, factor=0.5), None, False, 1.5, dtype)
    compare(draw(70, 70, 80, 32, (1, 4), 2), None, True, torch.tensor([1.2, 1.5, 1.9, 2.0]), dtype)


def test_masks_equal_the_formula() -> None:
    inputs = draw(34, 40, 16, lead=(2, 2))
    keep = torch.rand(2, 1, 34, 40) < 0.7
    keep[0, :, 3] = False
    added = torch.randn(2, 34, 40)
    added[0, :, 5:20] = -torch.inf
    added[1, 0] = torch.finfo(torch.float32).min
    for causal, mask in ((False, keep), (True, keep[:, :, :1]), (False, added), (True, added[:1, :, :1])):
        compare(inputs, mask, causal)


def test_rows_that_may_attend_to_nothing_are_zero() -> None:
    keep = torch.ones(40, 40, dtype=torch.bool)
    keep[[0, 33, 39]] = False
    for mask in (keep, torch.zeros(40, 40).masked_fill(~keep, -torch.inf)):
        out, dq, *_ = both(draw(40, 40, 16), mask, True, 1.5, torch.float32)[0]
        assert not out[:, :, ~keep[:, 0]].any()
        assert not dq[:, :, ~keep[:, 0]].any()
        assert out[:, :, 1:33].any(-1).all()


@pytest.mark.parametrize("causal", [False, True])
def test_packed_sequences_keep_to_themselves(causal: bool) -> None:
    packed = (torch.tensor([0, 10, 10, 37, 50]), torch.tensor([0, 20, 25, 25, 70]))
    compare(draw(50, 70, 16, keys=1), None, causal, torch.tensor([1.3, 1.5]), packed=packed)
    mask = torch.rand(2, 1, 70) < 0.8
    compare(draw(50, 70, 16), mask, causal, 1.5, torch.float16, packed)


def _scored(z: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Result, support of blocks and what is kept of each row (largest score, the unknown, one over the sum before it is
    made right) of scores z (n, m), with values that tell the p.
    """
    n, m = z.shape
    q, k, v = torch.zeros(1, 1, n, 16), torch.zeros(1, 1, m, 16), torch.randn(1, 1, m, 16)
    heads = Heads(*(x.to(DEVICE) for x in (q, k, v)), alpha, None, z[None, None].to(DEVICE), 1.0, False, ((n,), (m,)))
    kernel = dispatch.fused_attention("entmax", heads.q, "triton")
    assert kernel is not None
    out, (codes, notes, _) = kernel.forward(heads, True)
    p = ts.entmax(z.double(), alpha, backend="reference")
    torch.testing.assert_close(out[0, 0].cpu().double(), p @ v[0, 0].double(), rtol=1e-5, atol=1e-5)
    return p, codes[0].amax(-1).cpu(), notes[0].cpu()


@pytest.mark.parametrize("alpha", [1.1, 1.5, 1.8, 2.0])
def test_rows_that_are_hard_to_solve_sum_to_one(alpha: float) -> None:
    """Before they are divided by their sum: two strong keys over a flat background, a plateau, nearly equal scores."""
    m = 700
    z = torch.zeros(4, m)
    z[:3] += 1e-3 * torch.randn(3, m)
    z[0, :2] = torch.tensor([0.95, 1.0])
    z[1, 0], z[1, 350:] = 1.0, 0.3
    z[3] = torch.linspace(-1, 0, m)
    _, X, Y, factor = _scored(z, alpha)[2].double().unbind(1)
    # Powers are kept as shares of the largest p, which is a power of the unknown.
    largest = 1.0 if alpha in (1.5, 2.0) else (X + Y) ** (-1 / (alpha - 1))
    assert float((largest / factor - 1).abs().max()) <= 1e-5


@pytest.mark.parametrize("alpha", [1.2, 1.5, 2.0])
def test_rows_far_from_zero(alpha: float) -> None:
    """Their scores are exact in float32: no constant stands for infinity, and nothing is lost."""
    z = (torch.randn(3, 70) * 64).round() / 64
    _scored(z + torch.tensor([-8000.0, 8000.0, -2000.0])[:, None], alpha)


def test_blocks_without_support_are_skipped_and_none_with_it() -> None:
    z = torch.randn(64, 320)
    z[:32, 100] += 20.0
    z[32:, 300] += 20.0
    for alpha in (1.5, 1.3):
        codes = _scored(z, alpha)[1]
        assert codes.sum() == 2
        assert codes[0, 3] == codes[1, 9] == 1
        for factor in (1.0, 10.0):
            p, codes, _ = _scored(factor * torch.randn(40, 300), alpha)
            support = torch.nn.functional.pad(p > 1e-6, (0, 20, 0, 24)).view(2, 32, 10, 32).any(3).any(1)
            assert torch.equal(codes.bool() & support, support)


@pytest.mark.skipif(DEVICE != "cpu", reason="counts calls in the interpreter")
def test_newton_s_sweeps_visit_what_can_be_in_the_support(monkeypatch: pytest.MonkeyPatch) -> None:
    from tsallis.kernels.triton import attention

    visits, scores_of = [], attention.scores_of

    def counted(*args: Any) -> Any:
        visits.append(1)
        return scores_of(*args)

    monkeypatch.setitem(attention.attend.fn.__globals__, "scores_of", counted)
    z = torch.randn(32, 640)
    z[:, 100:110] += 20.0
    codes = _scored(z, 1.5)[1]
    assert codes.sum() == 1
    # All 20 blocks once; the first may have to be seen again, for nothing was known before it.
    assert 22 <= len(visits) <= 30


def test_values_of_skipped_keys_are_not_read() -> None:
    q, k, v = draw(32, 320, 16, lead=(1, 1))
    q[..., 0], k[..., 0], k[:, :, 50, 0] = 8.0, 0.0, 30.0
    v[:, :, 64:] = torch.nan
    own = [x.to(DEVICE).requires_grad_() for x in (q, k, v)]
    out = ts.entmax_attention(*own, backend="triton")
    assert not out.isnan().any()
    grads = torch.autograd.grad(out.square().sum(), own)
    assert not any(g.isnan().any() for g in grads)
    assert not grads[2][:, :, 64:].any()


def test_a_nan_is_its_query_s_own() -> None:
    inputs = draw(40, 40, 16, lead=(1, 1))
    clean = both(inputs, None, True, 1.5, torch.float32)[1]
    inputs[0][0, 0, 7, 3] = torch.nan
    out, dq, dk, dv = both(inputs, None, True, 1.5, torch.float32)[0]
    others = torch.arange(40) != 7
    for got, expected in ((out, clean[0]), (dq, clean[1])):
        assert got[:, :, 7].isnan().all()
        torch.testing.assert_close(got[:, :, others].double(), expected[:, :, others], rtol=1e-5, atol=1e-4)
    # Sums over queries have it where that query sees the key; and dk where it is multiplied with 0, as by the formula.
    seen = torch.arange(40) <= 7
    assert torch.equal(dv[0, 0].isnan().all(-1), seen)
    assert torch.equal(dv[0, 0].isnan().any(-1), seen)
    assert dk[0, 0, seen].isnan().all()
    bias = torch.zeros(40, 40)
    bias[5, 2] = torch.inf
    out = ts.entmax_attention(*(x.to(DEVICE) for x in draw(40, 40, 16)), bias.to(DEVICE), backend="triton")
    assert torch.equal(out.isnan().any(-1)[0, 0].cpu(), torch.arange(40) == 5)


def test_any_inputs_may_be_frozen() -> None:
    inputs = [x.to(DEVICE) for x in (*draw(17, 33, 16, keys=1), torch.tensor([1.3, 1.8]))]

    def grads(moving: Sequence[int]) -> tuple[Tensor, ...]:
        own = [x.clone().requires_grad_(i in moving) for i, x in enumerate(inputs)]
        out = ts.entmax_attention(*own[:3], alpha=own[3], enable_gqa=True, backend="triton")
        return torch.autograd.grad(out.square().sum(), [own[i] for i in moving])

    whole = grads(range(4))
    # The same bits on every run.
    assert all(torch.equal(a, b) for a, b in zip(grads(range(4)), whole, strict=True))
    for moving in ((0,), (1,), (2,), (3,), (1, 2), (0, 3)):
        for i, got in zip(moving, grads(moving), strict=True):
            torch.testing.assert_close(got, whole[i])


def test_nothing_is_kept_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    from tsallis.kernels.triton import attention_calls

    seen, forward = [], attention_calls.Attention.forward

    def spy(self: Any, heads: Heads, train: bool) -> tuple[Tensor, list[Tensor]]:
        result = forward(self, heads, train)
        seen.append(len(result[1]))
        return result

    monkeypatch.setattr(attention_calls.Attention, "forward", spy)
    inputs = [x.to(DEVICE) for x in draw(5, 5, 16)]
    out = ts.entmax_attention(*inputs, backend="triton")
    inputs[1].requires_grad_()
    with torch.no_grad():
        torch.testing.assert_close(ts.entmax_attention(*inputs, backend="triton"), out)
    torch.testing.assert_close(ts.entmax_attention(*inputs, backend="triton").detach(), out)
    assert seen == [0, 0, 3]


def test_layouts_hooks_and_second_derivatives() -> None:
    plain = [x.to(DEVICE).requires_grad_() for x in (*draw(9, 12, 16), torch.tensor(1.4))]

    def attend(*own: Tensor, backend: str = "triton") -> Tensor:
        return ts.entmax_attention(*own[:3], alpha=own[3], backend=backend)

    def elsewhere(t: Tensor) -> Tensor:
        return t.clone().mT.contiguous().mT if t.dim() > 1 else t.clone()

    expected = torch.autograd.grad(attend(*plain).square().sum(), plain)
    for dim in (1, 3):
        laid = [x.detach().movedim(dim, 0).contiguous().movedim(0, dim) for x in plain[:3]]
        own = [*(x.requires_grad_() for x in laid), plain[3]]
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, elsewhere):
            out = attend(*own)
            got = torch.autograd.grad(out.square().sum(), own)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b)
    second = []
    for dtype, backend in ((torch.float32, "triton"), (torch.float64, "reference")):
        own = [x.detach().to(dtype).requires_grad_() for x in plain]
        first = torch.autograd.grad(attend(*own, backend=backend).square().sum(), own, create_graph=True)
        second.append(torch.autograd.grad(sum(g.square().sum() for g in first), own))
    for a, b in zip(*second, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-3 * float(b.abs().max()))


def test_what_it_does_not_serve_goes_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from tsallis.kernels.triton import attention_calls

    q, k, v = (x.to(DEVICE).requires_grad_() for x in draw(5, 6, 16))
    bias = torch.zeros(5, 6, device=DEVICE)
    wide = torch.randn(1, 1, 3, 257, device=DEVICE, requires_grad=True)

    def served(*inputs: Any, **options: Any) -> bool:
        return way(ts.entmax_attention(*inputs, backend="triton", **options)) == "DirectBackward"

    assert served(q, k, v)
    assert served(q, k, v, bias)
    assert not served(q.double(), k.double(), v.double())
    assert not served(q, k, v, bias.requires_grad_())
    assert not served(q, k, v, dropout_p=0.1)
    assert not served(wide, wide, wide)
    for alpha in (1.0, 2.1, torch.tensor([1.5, 2.5], device=DEVICE)):
        assert not served(q, k, v, alpha=alpha)
    assert way(ts.entmax_attention(q, k, v, backend="reference")) == "formula"
    # Statistics come from the mapping; the result does not change.
    out, stats = ts.entmax_attention(q, k, v, return_stats=True, backend="triton")
    assert torch.equal(out, ts.entmax_attention(q, k, v, backend="triton"))
    assert stats.support_size.shape == out.shape[:-1]
    # A GPU with little shared memory.
    monkeypatch.setattr(attention_calls, "_room", lambda x: 64 * 1024)
    assert not served(q, k, v)
