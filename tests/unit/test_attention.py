"""Attention in blocks and by lists against all scores and the reference."""

from __future__ import annotations

import subprocess
import sys
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import tsallis as ts
from tsallis.attention import blocked, blocks
from tsallis.core.errors import ParameterError, ShapeError, TsallisError


def _draw(
    lead: tuple[int, ...], n: int, m: int, d: int, depth: int | None = None, factor: float = 3.0, key_heads: int = 0
) -> list[Tensor]:
    """q, k, v in float64; the factor makes supports small."""
    generator = torch.Generator().manual_seed(n + m + d)
    key_lead = (*lead[:-1], key_heads) if key_heads else lead
    shapes = ((*lead, n, d), (*key_lead, m, d), (*key_lead, m, depth or d))
    q, k, v = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return [factor * q, k, v]


def _reference(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, alpha: Any, scale: float | None = None
) -> Tensor:
    """By the definition, of (..., N, d)."""
    group = q.shape[-3] // k.shape[-3] if q.dim() > 2 else 1
    k, v = (x.repeat_interleave(group, -3) if group > 1 else x for x in (k, v))
    z = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    keep = torch.ones(z.shape[-2:], dtype=torch.bool)
    if causal:
        keep = keep.tril()
    if mask is not None and mask.dtype == torch.bool:
        keep = keep & mask
    elif mask is not None:
        z = z + mask.masked_fill(mask <= torch.finfo(mask.dtype).min, -torch.inf)
    if isinstance(alpha, Tensor) and alpha.dim():
        alpha = alpha[..., None, None]
    return ts.entmax(z, alpha, mask=keep.expand(z.shape), backend="reference") @ v


def _compare(
    inputs: list[Tensor], mask: Tensor | None = None, causal: bool = False, alpha: Any = 1.5,
    dtype: torch.dtype = torch.float64, tolerance: float = 1e-10, **options: Any,
) -> None:  # fmt: skip
    """Values and all gradients, those in a floating mask and in alpha included."""
    moving = [*inputs]
    if mask is not None and mask.is_floating_point():
        moving.append(mask)
    if isinstance(alpha, Tensor):
        moving.append(alpha)
    results = []
    for ours in (True, False):
        own = [x.detach().to(dtype if ours else torch.float64).requires_grad_() for x in moving]
        rest = iter(own[3:])
        m = next(rest) if mask is not None and mask.is_floating_point() else mask
        a = next(rest) if isinstance(alpha, Tensor) else alpha
        if ours:
            out = ts.entmax_attention(*own[:3], m, 0.0, causal, alpha=a, enable_gqa=True, **options)
        else:
            out = _reference(*own[:3], m, causal, a, options.get("scale"))
        weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
        results.append([out.detach(), *torch.autograd.grad((out * weights).sum(), own)])
    for i, (got, expected) in enumerate(zip(*results, strict=True)):
        assert got.dtype == dtype
        error = float((got.double() - expected).abs().max())
        assert error <= tolerance * max(1.0, float(expected.abs().max())), (i, error)


@pytest.fixture(params=["one block", "blocks of heads", "blocks of queries", "no lists"])
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Small inputs go every way."""
    sizes = {"one block": 2**22, "blocks of heads": 2**16, "blocks of queries": 2**12, "no lists": 2**12}
    monkeypatch.setattr(blocks, "CACHED", sizes[request.param])
    monkeypatch.setattr(blocks, "FEWEST", 8)
    if request.param == "no lists":
        monkeypatch.setattr(blocked, "BUDGET", 0)
        monkeypatch.setattr(blocked, "AVERAGED", 0.0)
    return request.param


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("alpha", [1.0, 1.3, 1.5, 2.0, 2.5, "scalar", "heads", "batch"])
def test_alphas_equal_the_reference(alpha: Any) -> None:
    heads = torch.tensor([1.2, 1.5, 2.0, 1.0001], dtype=torch.float64)
    alpha = {"scalar": heads[1], "heads": heads, "batch": torch.stack([heads, heads.flip(0)])}.get(alpha, alpha)
    for causal in (False, True):
        _compare(_draw((2, 4), 50, 70, 16), None, causal, alpha)
        _compare(_draw((2, 4), 70, 50, 16, 24, key_heads=2), None, causal, alpha)


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("n", [1, 63, 64, 65])
def test_masks_equal_the_reference(n: int) -> None:
    inputs = _draw((2, 4), n, 65, 16)
    generator = torch.Generator().manual_seed(0)
    keep = torch.rand(2, 1, n, 65, generator=generator) < 0.7
    keep[0, :, 0] = False
    added = torch.randn(4, n, 65, generator=generator, dtype=torch.float64)
    added[0, :, 5:20] = -torch.inf
    added[1, 0] = torch.finfo(torch.float64).min
    for causal in (False, True):
        for mask in (keep, keep[:, :, :, :1], keep[0, 0, :1], added, added[:, :1], added[:1]):
            _compare(inputs, mask, causal)


@pytest.mark.parametrize("d", [16, 32, 64, 80, 128, 256])
@pytest.mark.parametrize("n", [1, 63, 64, 65, pytest.param(1000, marks=pytest.mark.full)])
def test_float32_equals_the_reference(n: int, d: int) -> None:
    for factor in (0.1, 5.0):
        for causal in (False, True):
            _compare(_draw((1, 2), n, n, d, factor=factor), None, causal, dtype=torch.float32, tolerance=1e-5)


@pytest.mark.usefixtures("ways")
def test_softmax_attention_is_torch_s() -> None:
    """Boolean and floating masks, GQA, scale, leading dimensions: at alpha = 1 the same numbers."""
    q, k, v = _draw((2, 3, 4), 20, 30, 16, 8, key_heads=2)
    keep = torch.rand(2, 1, 1, 20, 30) < 0.8
    keep[..., 0] = True
    for mask, causal, scale in (
        (None, False, None),
        (None, True, 0.3),
        (keep, False, None),
        (torch.randn(20, 30, dtype=torch.float64), False, 0.1),
        (torch.randn(2, 3, 4, 1, 30, dtype=torch.float64), False, None),
    ):
        expected = functional.scaled_dot_product_attention(q, k, v, mask, 0.0, causal, scale=scale, enable_gqa=True)
        got = ts.entmax_attention(q, k, v, mask, 0.0, causal, scale=scale, enable_gqa=True, alpha=1.0)
        torch.testing.assert_close(got, expected)
    q, k, v = _draw((), 20, 30, 16)
    torch.testing.assert_close(
        ts.entmax_attention(q, k, v, alpha=1.0), functional.scaled_dot_product_attention(q, k, v)
    )
    alpha = torch.linspace(1.1, 1.9, 12, dtype=torch.float64).reshape(3, 4)
    _compare(_draw((2, 3, 4), 20, 30, 16), alpha=alpha)
    _compare(_draw((5,), 20, 30, 16), alpha=torch.linspace(1.1, 1.9, 5, dtype=torch.float64))


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("causal", [False, True])
def test_packed_sequences_keep_to_themselves(causal: bool) -> None:
    ends_q, ends_k = torch.tensor([0, 30, 30, 71, 80]), torch.tensor([0, 20, 25, 25, 90])
    inputs = [x.requires_grad_() for x in _draw((2, 4), 80, 90, 16)]
    alpha = torch.full((4,), 1.4, dtype=torch.float64, requires_grad=True)
    got = ts.entmax_attention(*inputs, is_causal=causal, alpha=alpha, cu_seqlens_q=ends_q, cu_seqlens_k=ends_k)
    parts = []
    for a, b, c, d in zip(ends_q, ends_q[1:], ends_k, ends_k[1:], strict=False):
        q, k, v = inputs[0][..., a:b, :], inputs[1][..., c:d, :], inputs[2][..., c:d, :]
        parts.append(ts.entmax_attention(q, k, v, is_causal=causal, alpha=alpha) if c < d else torch.zeros_like(q))
    expected = torch.cat(parts, -2)
    torch.testing.assert_close(got, expected)
    pair = [torch.autograd.grad(x.square().sum(), [*inputs, alpha]) for x in (got, expected)]
    for a, b in zip(*pair, strict=True):
        torch.testing.assert_close(a, b)


def test_statistics_are_those_of_the_rows() -> None:
    q, k, v = _draw((2, 4), 50, 70, 16)
    keep = torch.rand(50, 70) < 0.8
    keep[3] = False
    out, stats = ts.entmax_attention(q, k, v, keep, return_stats=True)
    z = (q @ k.mT / 4).masked_fill(~keep, -torch.inf)
    solution = ts.solve("entmax", z, alpha=1.5)
    assert torch.equal(stats.support_size, solution.support_size)
    torch.testing.assert_close(stats.threshold[..., 4:], solution.threshold[..., 4:])
    assert stats.residual.shape == (2, 4, 50)
    assert float(stats.residual.max()) < 1e-12
    assert not stats.support_size[..., 3].any()
    assert not out[..., 3, :].any()


def test_two_strong_keys_over_a_flat_background_sum_to_one() -> None:
    q, k, v = torch.zeros(1, 1, 64, 16), torch.zeros(1, 1, 4096, 16), torch.ones(1, 1, 4096, 16)
    q[..., 0], k[:, :, :2, 0] = 4.0, torch.tensor([3.9, 4.0])
    k[..., 1] = 1e-3 * torch.randn(4096)
    q[..., 1] = 1.0
    for alpha in (1.1, 1.3, 1.5, 1.8, 2.0):
        out, stats = ts.entmax_attention(q, k, v, alpha=alpha, return_stats=True)
        assert float((out - 1).abs().max()) <= 1e-5
        assert float(stats.residual.max()) <= 1e-5


def test_no_key_is_dropped_from_large_supports() -> None:
    """Thousands of keys within reach of the largest score, in a few of many rows."""
    q, k, v = (x.float() for x in _draw((1, 1), 300, 4096, 16, factor=8.0))
    q[:, :, ::50] *= 1e-3
    _, stats = ts.entmax_attention(q, k, v, return_stats=True)
    assert int(stats.support_size.max()) > 3000
    assert int(stats.support_size.min()) < 20
    # Gradients of the formula itself, all of it in float32, are off by 2.6e-5 here: scores are rounded.
    _compare([q.double(), k.double(), v.double()], dtype=torch.float32, tolerance=4e-5)


def test_second_derivatives_and_transforms() -> None:
    inputs = [x.requires_grad_() for x in _draw((1, 2), 4, 5, 3, factor=1.0)]
    alpha = torch.tensor([1.3, 1.7], dtype=torch.float64, requires_grad=True)

    def attend(*own: Tensor) -> Tensor:
        return ts.entmax_attention(*own[:3], alpha=own[3])

    assert torch.autograd.gradcheck(attend, (*inputs, alpha))
    assert torch.autograd.gradgradcheck(attend, (*inputs, alpha))
    q, k, v = (x.detach() for x in inputs)
    expected = ts.entmax_attention(q, k, v)
    with pytest.raises(TsallisError, match="return_stats"):
        torch.vmap(lambda q: ts.entmax_attention(q, q, q, return_stats=True))(q)
    each = torch.vmap(lambda q, k, v: ts.entmax_attention(q, k, v), in_dims=1, out_dims=1)(q, k, v)
    torch.testing.assert_close(each, expected)


@pytest.mark.usefixtures("ways")
def test_inputs_may_be_one_tensor_or_made_of_each_other() -> None:
    """The differentiable backward pass counts what flows through an input once."""
    x = torch.randn(1, 2, 40, 8, dtype=torch.float64, requires_grad=True)
    for k in (x, 0.7 * x):
        out = ts.entmax_attention(2 * x, k, x, alpha=1.4).square().sum()
        plain = torch.autograd.grad(out, x, retain_graph=True)[0]
        torch.testing.assert_close(torch.autograd.grad(out, x, create_graph=True)[0].detach(), plain)


def test_what_is_saved_is_watched_moved_and_let_go() -> None:
    q, k, v = (x.float().requires_grad_() for x in _draw((1, 2), 600, 1200, 16))
    keep = torch.rand(600, 1200) < 0.9
    expected = torch.autograd.grad(ts.entmax_attention(q, k, v, keep).square().sum(), (q, k, v))
    # Laid out otherwise, and elsewhere in memory.

    def elsewhere(t: Tensor) -> Tensor:
        return t.clone().mT.contiguous().mT if t.dim() > 1 else t.clone()

    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, elsewhere):
        got = torch.autograd.grad(ts.entmax_attention(q, k, v, keep).square().sum(), (q, k, v))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)
    out = ts.entmax_attention(q, k, v, keep)
    keep.fill_(True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
    own = q.detach().clone().requires_grad_()
    scaled = own * 2
    gone = weakref.ref(scaled)
    out = ts.entmax_attention(scaled, k, v)
    del scaled
    out.sum().backward()
    assert gone() is None


def test_heads_with_large_supports_give_their_room_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from tsallis.kernels.cpu import attention_calls

    monkeypatch.setattr(blocks, "CACHED", 2**14)
    monkeypatch.setattr(blocks, "FEWEST", 8)
    monkeypatch.setattr(attention_calls, "ARENA", 64)
    inputs = _draw((1, 6), 64, 300, 8, factor=5.0)
    for budget in (2**29, 30_000):
        monkeypatch.setattr(blocked, "BUDGET", budget)
        # Every other head is dense in its last queries.
        inputs[0][:, ::2, 40:] *= 1e-3
        _compare(inputs)


def test_dropout_drops_the_same_keys_in_both_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "CACHED", 2**14)
    monkeypatch.setattr(blocks, "FEWEST", 8)
    q, k, _ = _draw((2, 2), 60, 60, 8, factor=0.3)
    v = torch.eye(60, dtype=torch.float64).expand(2, 2, 60, 60).clone().requires_grad_()
    out = ts.entmax_attention(q, k, v, dropout_p=0.25)
    share = float((out == 0).double().mean())
    full = ts.entmax_attention(q, k, v)
    assert share == pytest.approx(0.25 + 0.75 * float((full == 0).double().mean()), abs=0.02)
    kept = out != 0
    torch.testing.assert_close(out[kept], full[kept] / 0.75)
    # d sum out / dv_j = sum_i p_ij, with what was dropped.
    (slope,) = torch.autograd.grad(out.sum(), v)
    torch.testing.assert_close(slope[..., 0], out.detach().sum(-2))
    assert not torch.equal(ts.entmax_attention(q, k, v, dropout_p=0.25) == 0, out == 0)
    assert not ts.entmax_attention(q, k, v, dropout_p=1.0).any()
    q.requires_grad_()
    torch.manual_seed(1)
    first = torch.autograd.grad(ts.entmax_attention(q, k, v, dropout_p=0.25).square().sum(), q)[0]
    torch.manual_seed(1)
    again = torch.autograd.grad(ts.entmax_attention(q, k, v, dropout_p=0.25).square().sum(), q, create_graph=True)[0]
    torch.testing.assert_close(first, again)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    inputs = [x.float().requires_grad_() for x in _draw((1, 1), 600, 2000, 16)]
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out = ts.entmax_attention(*inputs)
            results.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_planted_alphas_are_found_by_gradient_descent() -> None:
    q, k, v = (x.float() for x in _draw((1, 2), 64, 64, 16))
    goal = ts.entmax_attention(q, k, v, alpha=torch.tensor([1.2, 1.8]))
    alpha = ts.nn.Alpha(1.5, (2,))
    optimiser = torch.optim.Adam(alpha.parameters(), 0.05)
    for _ in range(150):
        optimiser.zero_grad()
        (ts.entmax_attention(q, k, v, alpha=alpha()) - goal).square().mean().backward()
        optimiser.step()
    assert alpha().tolist() == pytest.approx([1.2, 1.8], abs=0.01)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"key": torch.rand(2, 3, 6, 5)}, ShapeError, "one width"),
        ({"value": torch.rand(2, 3, 7, 4)}, ShapeError, "as many values as keys"),
        ({"key": torch.rand(2, 1, 6, 4), "value": torch.rand(2, 1, 6, 4)}, ShapeError, "enable_gqa"),
        ({"key": torch.rand(2, 2, 6, 4), "value": torch.rand(2, 2, 6, 4), "enable_gqa": True}, ShapeError, "multiple"),
        ({"key": torch.rand(1, 3, 6, 4), "value": torch.rand(1, 3, 6, 4)}, ShapeError, "one batch"),
        ({"attn_mask": torch.ones(4, 6, dtype=torch.bool)}, ShapeError, "broadcasts"),
        ({"attn_mask": torch.ones(5, 6, dtype=torch.long)}, ShapeError, "torch.bool"),
        ({"query": torch.rand(2, 0, 5, 4), "enable_gqa": True}, ShapeError, "multiple"),
        ({"alpha": -1.0}, ParameterError, "alpha"),
        ({"alpha": torch.ones(4)}, ShapeError, "one number per head"),
        ({"dropout_p": 1.5}, ParameterError, "probability"),
        ({"scale": "big"}, ParameterError, "scale"),
        ({"query": torch.rand(2, 3, 5, 4).double()}, ShapeError, "one floating dtype"),
        ({"cu_seqlens_q": torch.tensor([0, 5])}, ShapeError, "Pass both"),
        ({"cu_seqlens_q": torch.tensor([0, 4]), "cu_seqlens_k": torch.tensor([0, 6])}, ShapeError, "ascend"),
        ({"cu_seqlens_q": torch.tensor([0, 5]), "cu_seqlens_k": torch.tensor([0, 2, 6])}, ShapeError, "as many"),
    ],
)
def test_errors_say_what_to_do(change: dict[str, Any], error: type[Exception], words: str) -> None:
    arguments: dict[str, Any] = {
        "query": torch.rand(2, 3, 5, 4), "key": torch.rand(2, 3, 6, 4), "value": torch.rand(2, 3, 6, 4)
    }  # fmt: skip
    with pytest.raises(error, match=words):
        ts.entmax_attention(**arguments | change)


def test_nothing_to_attend_with() -> None:
    for n, m in ((0, 5), (5, 0)):
        inputs = [
            torch.rand(2, 3, n, 4, requires_grad=True),
            *(torch.rand(2, 3, m, 4, requires_grad=True) for _ in "kv"),
        ]
        out = ts.entmax_attention(*inputs)
        assert out.shape == (2, 3, n, 4)
        assert not out.any()
        assert all(not g.any() for g in torch.autograd.grad(out.sum(), inputs))


_MEMORY = """
import resource, torch, tsallis as ts
q, k, v = (torch.randn(1, 8, 4096, 64, generator=torch.Generator().manual_seed(i)) for i in range(3))
q = (12 * q).requires_grad_()
ts.entmax_attention(q[:, :, :512], k, v).sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ts.entmax_attention(q, k, v).sum().backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_scores_are_never_held_together() -> None:
    done = subprocess.run([sys.executable, "-c", _MEMORY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    # All scores would be 512 MB, and several times so; results and gradients are 32 MB.
    assert int(done.stdout) < 128
