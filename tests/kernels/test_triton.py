"""Triton kernels: on a GPU where there is one, else in Triton's interpreter on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis.core import dispatch, registry
from tsallis.testing import draw, settings
from tsallis.testing.harness import Setting
from tsallis.testing.transforms import TOLERANCES, compare_backend

from .conftest import DEVICE

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.usefixtures("triton_kernels"),
    # The interpreter computes with numpy, which warns of infinities on their way to being left out.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

NAMES = [name for name in registry.names() if "triton" in dispatch.backends(name)]


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a few hundred entries go the way of very long ones."""
    from tsallis.kernels.triton import calls

    monkeypatch.setattr(calls, "SOLVED", 512)
    monkeypatch.setattr(calls, "DIFFERENTIATED", 512)
    monkeypatch.setattr(calls, "PART", 128)


def _settings() -> list:
    return [pytest.param(s, id=f"{name}-{s}") for name in NAMES for s in settings(registry.get(name))]


def test_every_mapping_with_kernels_has_triton_kernels() -> None:
    assert [name for name in registry.names() if "cpu" in dispatch.backends(name)] == NAMES


@pytest.mark.parametrize("setting", _settings())
def test_values_and_gradients_equal_the_reference(setting: Setting) -> None:
    for family, n, dtype in (
        ("normal", 1, torch.float32),
        ("near_uniform", 300, torch.float32),
        ("ties", 65, torch.float32),
        ("two_level", 64, torch.float64),
        ("peaked", 300, torch.float64),
    ):
        z = draw(family, 2, n, dtype=dtype)
        compare_backend(setting, "triton", z, TOLERANCES[dtype], DEVICE, family)


@pytest.mark.full
@pytest.mark.parametrize("setting", _settings())
def test_all_families(setting: Setting) -> None:
    from tsallis.testing import FAMILIES

    for family in FAMILIES:
        for n in (63, 1000):
            for dtype, tolerance in TOLERANCES.items():
                compare_backend(setting, "triton", draw(family, 3, n, dtype=dtype), tolerance, DEVICE, family)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sparsemax", {}),
        ("entmax15", {}),
        ("entmax", {"alpha": 1.3}),
        ("entmax", {"alpha": 1.0}),
        ("entmax", {"alpha": 0.5}),
        ("entmax", {"alpha": 3.0}),
        ("normmax", {"alpha": 2.0}),
    ],
)
def test_rows_longer_than_a_tile(name: str, values: dict[str, float]) -> None:
    setting = Setting(registry.get(name), values)
    for family in ("normal", "near_uniform", "two_level", "cluster", "constant"):
        for dtype in (torch.float32, torch.float64):
            compare_backend(setting, "triton", draw(family, 2, 1000, dtype=dtype), TOLERANCES[dtype], DEVICE, family)


CALLS = {
    "sparsemax": {},
    "entmax15": {},
    "entmax": {"alpha": 1.3},
    "entmax steep": {"alpha": 3.0},
    "normmax": {"alpha": 2.0},
    "topk_sparsemax": {"k": 7},
    "budget": {"k": 2.5},
}


def _both(call: str, z: Tensor, dim: int = -1, mask: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
    """Value and gradient by Triton and by the reference."""
    results = []
    for backend, device in (("triton", DEVICE), ("reference", "cpu")):
        leaf = z.clone(memory_format=torch.preserve_format).to(device).requires_grad_()
        keep = None if mask is None else mask.to(device)
        p = getattr(ts, call.split()[0])(leaf, dim=dim, mask=keep, backend=backend, **CALLS[call])
        weights = torch.linspace(-1, 1, p.numel(), dtype=p.dtype, device=device).reshape(p.shape)
        gradient = torch.autograd.grad((p * weights).sum(), leaf)[0]
        results.append((p.detach().cpu(), gradient.cpu()))
    return results


@pytest.mark.parametrize("call", CALLS)
def test_layouts(call: str) -> None:
    z = draw("normal", 8, 40).reshape(2, 2, 2, 40)
    for scores, dim in (
        (z.movedim(-1, 1).contiguous(), 1),
        (z.transpose(0, 2), -1),
        (z[..., ::2], -1),
        (z[:1, :, :1].expand(2, 2, 2, 40), -1),
        (z[0, 0, 0], 0),
    ):
        (p, g), (q, h) = _both(call, scores, dim)
        assert p.is_contiguous()
        assert torch.allclose(p, q, atol=1e-12, rtol=0)
        assert torch.allclose(g, h, atol=1e-11, rtol=0)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("call", ["sparsemax", "entmax", "topk_sparsemax"])
def test_long_rows_along_another_dimension(call: str) -> None:
    (p, g), (q, h) = _both(call, draw("normal", 6, 700).reshape(2, 3, 700).movedim(-1, 1).contiguous(), 1)
    assert torch.allclose(p, q, atol=1e-12, rtol=0)
    assert torch.allclose(g, h, atol=1e-12, rtol=0)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("shape", [(2, 1, 1, 30), (2, 30), (2, 1, 2, 30)], ids=str)
def test_masks(call: str, shape: tuple[int, ...]) -> None:
    keep = torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.3
    keep[..., :8] = True
    z = draw("normal", 8, 30).reshape(2, 2, 2, 30).masked_fill(~keep.expand(2, 2, 2, 30), float("nan"))
    (p, g), (q, h) = _both(call, z, mask=keep)
    assert torch.allclose(p, q, atol=1e-12, rtol=0)
    assert torch.allclose(g, h, atol=1e-11, rtol=0)


@pytest.mark.parametrize("tiles", ["short", "one tile", "parts"])
@pytest.mark.parametrize("call", CALLS)
def test_rows_that_have_no_solution(call: str, tiles: str, request: pytest.FixtureRequest) -> None:
    """NaN, +inf, fully masked and ordinary rows beside each other."""
    if tiles == "parts":
        request.getfixturevalue("small_tiles")
    n = 12 if tiles == "short" else 400
    z = draw("normal", 5, n)
    z[0, 3], z[1, 5], z[2] = float("nan"), float("inf"), -torch.inf
    z[3, :2] = -torch.inf
    (p, g), (q, h) = _both(call, z)
    assert torch.allclose(p, q, atol=1e-12, rtol=0, equal_nan=True)
    assert torch.allclose(g, h, atol=1e-11, rtol=0, equal_nan=True)
    solved = ts.solve(call.split()[0], z.to(DEVICE), backend="triton", **CALLS[call])
    expected = ts.solve(call.split()[0], z, backend="reference", **CALLS[call])
    assert torch.allclose(solved.threshold.cpu(), expected.threshold, atol=1e-11, rtol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("call", CALLS)
def test_half_precision_is_rounded_once(call: str, dtype: torch.dtype) -> None:
    """Kernels read and write half precision; between, and for the backward pass, rows are in float32."""
    z = (draw("normal", 4, 50, dtype=torch.float32)).to(dtype)
    leaf = z.to(DEVICE).requires_grad_()
    function, keywords = getattr(ts, call.split()[0]), CALLS[call]
    p = function(leaf, backend="triton", **keywords)
    wide = z.float().requires_grad_()
    exact = function(wide, backend="reference", **keywords)
    assert p.dtype == dtype
    # The interpreter cuts digits off where a GPU rounds to the nearest bfloat16.
    allowed = torch.finfo(dtype).eps if DEVICE == "cpu" and dtype == torch.bfloat16 else 0.0
    assert torch.allclose(p.detach().cpu(), exact.detach().to(dtype), atol=0, rtol=allowed)
    weights = torch.linspace(-1, 1, p.numel()).reshape(p.shape).to(dtype)
    gradient = torch.autograd.grad((p * weights.to(DEVICE)).sum(), leaf)[0]
    wanted = torch.autograd.grad((exact * weights.float()).sum(), wide)[0]
    assert gradient.dtype == dtype
    assert torch.allclose(gradient.cpu().float(), wanted, atol=1e-5, rtol=2 * torch.finfo(dtype).eps)


def test_learned_alpha_of_every_shape() -> None:
    z = draw("normal", 12, 30).reshape(2, 3, 2, 30)
    for shape in ((), (3, 1, 1), (2, 1, 1, 1), (2, 3, 2, 1)):
        grads = []
        for backend, device in (("triton", DEVICE), ("reference", "cpu")):
            alpha = torch.linspace(1.1, 2.5, max(1, torch.Size(shape).numel()), dtype=z.dtype).reshape(shape)
            alpha = alpha.to(device).requires_grad_()
            p = ts.entmax(z.to(device), alpha, backend=backend)
            grads.append((p.detach().cpu(), torch.autograd.grad((p * z.cos().to(device)).sum(), alpha)[0].cpu()))
        for got, expected in zip(*grads, strict=True):
            assert got.shape == expected.shape
            assert torch.allclose(got, expected, atol=1e-10, rtol=1e-10), shape


def test_inadmissible_parameters_spoil_their_rows_only() -> None:
    z = draw("normal", 4, 9).to(DEVICE)
    alpha = torch.tensor([1.5, -1.0, float("nan"), float("inf")], dtype=z.dtype, device=DEVICE)[:, None]
    k = torch.tensor([2.0, 0.0, 11.0, float("nan")], dtype=z.dtype, device=DEVICE)[:, None]
    for p in (ts.entmax(z, alpha, backend="triton"), ts.budget(z, k, backend="triton")):
        assert p.isnan().all(-1).tolist() == [False, True, True, True]
    assert ts.topk_sparsemax(z, k, backend="triton").isnan().all(-1).tolist() == [False, True, False, True]


def test_ties_across_the_cut_keep_the_lowest_index() -> None:
    z = torch.tensor([[1.0, 0.9, 1.0, 0.9, 0.9, -0.0, 0.0]], dtype=torch.float64)
    (p, _), (q, _) = _both("topk_sparsemax", z[:, 1:].repeat(1, 2))
    assert torch.equal(p > 0, q > 0)


def test_higher_derivatives_use_the_formula() -> None:
    z = draw("normal", 2, 6).to(DEVICE).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: ts.entmax(x, 1.5, backend="triton"), z)
    half = z.detach().half().requires_grad_()
    (g,) = torch.autograd.grad(ts.entmax(half, 1.3, backend="triton").square().sum(), half, create_graph=True)
    (h,) = torch.autograd.grad(g.square().sum(), half)
    assert h.isfinite().all()


def test_functional_transforms_and_compile_get_these_kernels() -> None:
    z = draw("normal", 3, 8).to(DEVICE)
    expected = ts.entmax(z, 1.3, backend="reference")
    got = torch.vmap(lambda x: ts.entmax(x, 1.3, backend="triton"))(z)
    assert torch.allclose(got, expected, atol=1e-12)
    compiled = torch.compile(lambda x: ts.entmax(x, 1.3, backend="triton"), fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(z), expected, atol=1e-12)


def test_alpha_and_sizes_of_batches_are_no_reason_to_compile_again() -> None:
    """Constants of a kernel are its method and the tile; numbers and tensors are arguments."""
    import inspect

    from tsallis.kernels.triton import gradients, simplex, steep, steep_gradients

    for kernel in (simplex.solve, gradients.entmax_gradient, steep.solve_steep, steep_gradients.steep_gradient):
        parameters = inspect.signature(kernel.fn).parameters.values()
        constants = {p.name for p in parameters if "constexpr" in str(p.annotation)}
        assert constants <= {"KIND", "R", "B", "ONE", "COMPUTE", "CAPPED"}
        assert "alpha" in {p.name for p in parameters} - constants
