"""CPU kernels where the laws do not reach: long rows, layouts, masks, several parameters, extremes."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis.core import dispatch
from tsallis.testing import FAMILIES, draw

numba = pytest.importorskip("numba")

CALLS = {
    "sparsemax": {},
    "entmax15": {},
    "entmax": {"alpha": 1.3},
    "entmax 1.7": {"alpha": 1.7},
    "entmax 1": {"alpha": 1.0},
    "entmax 0.5": {"alpha": 0.5},
    "normmax": {"alpha": 2.0},
    "normmax 4": {"alpha": 4.0},
    "topk_sparsemax": {"k": 7},
    "budget": {"k": 2.5},
}
LENGTHS = (257, 1000, 4096, 4097, 40000)


def _run(call: str, z: Tensor, backend: str, **keywords: object) -> tuple[Tensor, Tensor]:
    name, z = call.split()[0], z.clone().requires_grad_()
    return _gradients(getattr(ts, name)(z, backend=backend, **CALLS[call], **keywords), z)


def _gradients(p: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    weights = torch.arange(z.shape[-1], dtype=z.dtype).cos()
    return p.detach(), torch.autograd.grad((p * weights).sum(), z)[0]


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("call", CALLS)
def test_long_rows_equal_the_reference(call: str, n: int) -> None:
    """Around every length at which the method changes, packed and dense, with notes for the backward pass."""
    if call in ("budget", "topk_sparsemax") and n > 5000:
        n = 5000
    for family in ("normal", "near_uniform", "peaked", "two_level", "cluster", "ties", "constant"):
        z = draw(family, 3, n)
        for got, expected in zip(_run(call, z, "cpu"), _run(call, z, "reference"), strict=True):
            scale = max(1.0, float(expected.abs().max()))
            assert float((got - expected).abs().max()) <= 1e-11 * scale, family
        p, _ = _run(call, z.float(), "cpu")
        total = CALLS[call].get("k", 1) if call == "budget" else 1
        assert float((p.double().sum(-1) - total).abs().max()) <= 4e-6 * total, family


def _shapes() -> list[tuple[str, Tensor, int]]:
    z = draw("normal", 24, 70).reshape(2, 3, 4, 70)
    return [
        ("last", z, -1),
        ("first", z.movedim(-1, 0).contiguous(), 0),
        ("middle", z.movedim(-1, 1).contiguous(), 1),
        ("transposed view", z.transpose(0, 2), -1),
        ("every second entry", draw("normal", 24, 140).reshape(2, 3, 4, 140)[..., ::2], -1),
        ("expanded", z[:1, :, :1].expand(2, 3, 4, 70), -1),
        ("part of a wider tensor", draw("normal", 24, 90).reshape(2, 3, 4, 90)[..., 5:75], -1),
        ("one row", z[0, 0, 0], 0),
    ]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("z", "dim"), [pytest.param(z, d, id=name) for name, z, d in _shapes()])
def test_layouts(call: str, z: Tensor, dim: int) -> None:
    name, results = call.split()[0], []
    for backend in ("cpu", "reference"):
        leaf = z.clone(memory_format=torch.preserve_format).requires_grad_()
        p = getattr(ts, name)(leaf, dim=dim, backend=backend, **CALLS[call])
        assert p.is_contiguous()
        results.append((p.detach(), torch.autograd.grad((p * z.cos()).sum(), leaf)[0]))
    direct = getattr(ts, name)(z, dim=dim, backend="cpu", **CALLS[call])
    for got, expected in (*zip(*results, strict=True), (direct, results[1][0])):
        assert torch.allclose(got, expected, atol=1e-12, rtol=0)


MASKS = {
    "full": (2, 3, 4, 70),
    "keys of each batch": (2, 1, 1, 70),
    "causal": (4, 70),
    "heads apart": (2, 1, 4, 70),
    "one row for all": (70,),
    "whole rows": (2, 3, 4, 1),
}


@pytest.mark.parametrize("shape", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("call", CALLS)
def test_masks_of_every_shape(call: str, shape: tuple[int, ...]) -> None:
    name = call.split()[0]
    keep = torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.3
    if shape[-1] > 1:
        keep[..., :3] = True
    z = draw("normal", 24, 70).reshape(2, 3, 4, 70)
    dirty = z.masked_fill(~keep.expand(z.shape), float("nan"))
    for scores, dim, mask in (
        (dirty, -1, keep),
        (dirty.movedim(-1, 1).contiguous(), 1, keep.expand(z.shape).movedim(-1, 1)),
    ):
        results = []
        for backend in ("cpu", "reference"):
            leaf = scores.clone().requires_grad_()
            p = getattr(ts, name)(leaf, dim=dim, mask=mask, backend=backend, **CALLS[call])
            weights = torch.linspace(-1, 1, p.numel(), dtype=p.dtype).reshape(p.shape)
            results.append((p.detach(), torch.autograd.grad((p * weights).sum(), leaf)[0]))
        for got, expected in zip(*results, strict=True):
            assert torch.allclose(got, expected, atol=1e-12, rtol=0)


ALPHAS = {"one": (), "heads": (3, 1, 1), "batch and head": (2, 3, 1, 1), "rows": (2, 3, 4, 1), "last but one": (4, 1)}


@pytest.mark.parametrize("shape", ALPHAS.values(), ids=ALPHAS)
@pytest.mark.parametrize(("name", "low", "high"), [("entmax", 0.5, 3.0), ("normmax", 1.1, 12.0), ("budget", 0.5, 3.0)])
@pytest.mark.parametrize("n", [20, 300])
def test_alpha_of_every_shape_has_its_gradient(name: str, low: float, high: float, shape: tuple, n: int) -> None:
    """Among them 1, 1.5, 2 and values above 2, in one call."""
    z = draw("normal", 24, n).reshape(2, 3, 4, n)
    alpha = torch.linspace(low, high, max(1, int(np.prod(shape))), dtype=torch.float64).reshape(shape)
    if alpha.numel() > 3 and name != "normmax":
        alpha.view(-1)[:3] = torch.tensor([1.0, 1.5, 2.0])
    extra = {"k": torch.tensor([[[1.5], [2.0], [0.3], [4.0]]], dtype=torch.float64)} if name == "budget" else {}
    for dim in (-1, 1):
        results = []
        for backend in ("cpu", "reference"):
            leaf = (z if dim == -1 else z.movedim(-1, 1).contiguous()).clone().requires_grad_()
            a = (alpha if dim == -1 or alpha.dim() == 0 else alpha.expand(2, 3, 4, 1).movedim(-1, 1)).clone()
            values = {
                key: (v if dim == -1 else v.expand(2, 3, 4, 1).movedim(-1, 1)).clone() for key, v in extra.items()
            }
            leaves = [leaf, *(v.requires_grad_() for v in (a, *values.values()))]
            p = getattr(ts, name)(leaf, alpha=a, dim=dim, backend=backend, **values)
            weights = torch.linspace(-1, 1, p.numel(), dtype=p.dtype).reshape(p.shape)
            results.append((p.detach(), *torch.autograd.grad((p * weights).sum(), leaves)))
        for got, expected in zip(*results, strict=True):
            assert torch.allclose(got, expected, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("n", [5, 300, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("call", CALLS)
def test_extremes(call: str, n: int, dtype: torch.dtype) -> None:
    """Rows of huge, tiny, infinite and missing scores, among others that stay as they are."""
    z = draw("normal", 8, n, dtype=dtype)
    expected, _ = _run(call, z, "cpu")
    dirty = z.clone()
    dirty[1, n // 2] = float("nan")
    dirty[2, -1] = float("inf")
    dirty[3] = float("-inf")
    dirty[4, 1:] = float("-inf")
    dirty[5] *= torch.finfo(dtype).max / 8
    dirty[6] = 1e4 + dirty[6]
    p, grad = _run(call, dirty, "cpu")
    assert p[1].isnan().all()
    assert p[2].isnan().all()
    assert (p[3] == 0).all()
    if call != "budget":
        assert p[4, 0] == 1
        assert p[4, 1:].eq(0).all()
    assert p[[0, 5, 6, 7]].isfinite().all()
    assert torch.equal(p[[0, 7]], expected[[0, 7]])
    assert grad[[1, 2]].isnan().all()
    assert grad[3].eq(0).all()
    assert grad[[0, 6, 7]].isfinite().all()


def test_negated_views_are_not_read_as_they_lie() -> None:
    z = torch.randn(3, 5, dtype=torch.complex128).conj().imag
    assert z.is_neg()
    assert torch.allclose(ts.entmax15(z), ts.entmax15(z.clone(), backend="reference"))


def test_a_negated_alpha_is_not_read_as_it_lies() -> None:
    alpha = torch.complex(torch.zeros(3, 1, dtype=torch.float64), torch.full((3, 1), -1.3, dtype=torch.float64))
    alpha, z = alpha.conj().imag, torch.randn(3, 5, dtype=torch.float64)
    assert torch.allclose(ts.entmax(z, alpha), ts.entmax(z, 1.3))


def test_gradients_under_a_mask_are_zero_also_in_rows_that_are_nan() -> None:
    z = torch.tensor([[1.0, float("nan"), 2.0, 3.0]], requires_grad=True)
    mask = torch.tensor([[True, True, True, False]])
    for backend in ("cpu", "reference"):
        (grad,) = torch.autograd.grad(ts.sparsemax(z, mask=mask, backend=backend).sum(), z)
        assert grad.isnan().tolist() == [[True, True, True, False]]


def test_saved_tensors_may_come_back_with_other_strides() -> None:
    z, g = torch.randn(40, 30, requires_grad=True), torch.randn(40, 30)
    (expected,) = torch.autograd.grad((ts.sparsemax(z) * g).sum(), z)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.t().contiguous(), lambda t: t.t()):
        p = ts.sparsemax(z)
    assert torch.equal(torch.autograd.grad((p * g).sum(), z)[0], expected)


def test_a_default_device_does_not_move_scratch_memory() -> None:
    z = torch.randn(4, 512, requires_grad=True)
    with torch.device("meta"):
        (grad,) = torch.autograd.grad(ts.sparsemax(z).square().sum(), z)
    assert torch.equal(grad, torch.autograd.grad(ts.sparsemax(z).square().sum(), z)[0])


def test_a_mask_elsewhere_is_refused() -> None:
    with pytest.raises(ts.core.errors.ShapeError, match="both on one device"):
        ts.sparsemax(torch.randn(2, 3), mask=torch.ones(2, 3, dtype=torch.bool, device="meta"))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace.*:DeprecationWarning")
def test_jit_trace() -> None:
    z = torch.randn(3, 5)
    traced = torch.jit.trace(lambda z: ts.sparsemax(z * 2), z)
    assert torch.allclose(traced(2 * z), ts.sparsemax(4 * z))


def test_the_kernels_are_chosen_and_named() -> None:
    for name in ("sparsemax", "entmax15", "entmax", "normmax", "budget", "topk_sparsemax"):
        assert dispatch.backends(name) == ("cpu", "triton", "reference")
        assert str(ts.explain_backend(name, torch.zeros(2, 4))).startswith("-> cpu")
        assert "at least one row" in str(ts.explain_backend(name, torch.zeros(0, 4)))


def _apply(function: object, x: np.ndarray) -> np.ndarray:
    from tsallis.kernels.cpu.compiler import device
    from tsallis.kernels.cpu.simd import lanes, load, pointer, store

    @device
    def run(source, target, n, one):
        x, y = pointer(source, one), pointer(target, one)
        for j in range(0, n, lanes(x)):
            store(y, j, function(load(x, j)))

    out = np.empty_like(x)
    run(x.ctypes.data, out.ctypes.data, x.size, x.dtype.type(1))
    return out


@pytest.mark.parametrize(("dtype", "ulps"), [(np.float32, 4), (np.float64, 4)])
def test_logarithms_and_powers_of_two(dtype: type, ulps: float) -> None:
    """Against 50 digits, over the range and near one."""
    from tsallis.kernels.cpu import powers

    info = np.finfo(dtype)
    rng = np.random.default_rng(0)
    y = np.concatenate([2.0 ** rng.uniform(info.minexp, info.maxexp, 512), 1 + rng.uniform(-0.3, 0.4, 512)]).astype(
        dtype
    )
    exact = np.array([float(mp.log(mp.mpf(float(v)), 2)) for v in y])
    assert np.all(np.abs(_apply(powers.log2, y) - exact) <= ulps * info.eps * np.maximum(np.abs(exact), 1e-30))
    x = rng.uniform(info.minexp, 4, 1024).astype(dtype)
    exact = np.array([float(mp.mpf(2) ** mp.mpf(float(v))) for v in x])
    assert np.all(np.abs(_apply(powers.exp2, x) / exact - 1) <= ulps * info.eps)
    assert np.all(_apply(powers.exp2, np.full(64, info.minexp - 1, dtype)) == 0)


def test_every_family_sums_to_one_in_float32() -> None:
    for name in FAMILIES:
        for n in (64, 1024, 131072):
            z = draw(name, 2, n, dtype=torch.float32)
            for alpha in (1.3, 1.5, 1.7, 2.0):
                total = ts.entmax(z, alpha).double().sum(-1)
                assert float((total - 1).abs().max()) <= 4e-6, (name, n, alpha)


@pytest.mark.parametrize(("background", "alpha"), [(-2.2088335, 1.28342), (-2.311252, 1.27503)])
def test_long_rows_whose_start_is_far_right_of_the_root(background: float, alpha: float) -> None:
    """Then entries of the support were not moved to the others, and the row is solved as it is."""
    z = draw("normal", 2, 5000) * 1e-5 + background
    z[:, :5] = 0.0
    p, expected = (ts.entmax(z, alpha, backend=backend) for backend in ("cpu", "reference"))
    assert (expected > 0).all(), "the flat background is part of the support"
    assert float((p - expected).abs().max()) <= 1e-12


@pytest.mark.parametrize("alpha", [1.5, 3.0, 6.0, 16.0])
def test_normmax_in_float32_is_right_at_the_edge_of_its_support(alpha: float) -> None:
    """There p is the 1/(alpha - 1) th power of a small number; in float32 both lose 3 to 6 digits."""
    for n in (1000, 32000):
        z = draw("near_uniform", 2, n, dtype=torch.float32)
        (p, dz), (expected, expected_dz) = (
            _gradients(ts.normmax(x, alpha, backend=backend), x)
            for x, backend in ((z.requires_grad_(), "cpu"), (z.detach().double().requires_grad_(), "reference"))
        )
        assert float((p - expected).abs().max() / expected.max()) <= 2e-7
        assert float((dz - expected_dz).abs().max() / expected_dz.abs().max()) <= 2e-5
