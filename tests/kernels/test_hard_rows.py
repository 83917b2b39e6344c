"""Rows on which Newton's method, its acceleration or its end went wrong once."""

from __future__ import annotations

import time
from itertools import product

import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis.core import registry

from .conftest import DEVICE

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(scope="module", params=["cpu", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    """Kernels of both kinds."""
    pytest.importorskip("numba" if request.param == "cpu" else "triton")
    if request.param == "triton":
        request.getfixturevalue("triton_kernels")
    return request.param


def _error(name: str, z: Tensor, backend: str, **params: float) -> float:
    """Largest error of p relative to the row's largest p, and that of its sum."""
    mapping = registry.get(name)
    z = z.to(DEVICE if backend == "triton" else "cpu")
    p = mapping(z, backend=backend, **params).double()
    expected = mapping(z.double(), backend="reference", **params)
    relative = (p - expected).abs().amax(-1) / expected.amax(-1)
    return float(torch.maximum(relative, (p.sum(-1) - 1).abs()).max())


def _at_the_edge(n: int, alpha: float, share: float, noise: float) -> Tensor:
    """One or two strong scores, all others at a share of the distance at which p becomes 0."""
    generator = torch.Generator().manual_seed(0)
    z = -share / (alpha - 1) + noise * torch.randn(4, n, generator=generator, dtype=torch.float64)
    z[:, 0], z[2:, 1] = 0.0, 0.0
    return z


@pytest.mark.parametrize("alpha", [1.3, 1.7, 1.9, 1.99, 1.9999])
@pytest.mark.parametrize("n", [1000, 8192, 40000])
def test_many_entries_at_the_edge_of_the_support(n: int, alpha: float, backend: str) -> None:
    """A unit in the last place of the unknown moves the sum by n times that: kept in one number, it never fits."""
    slow = backend == "triton" and DEVICE == "cpu"
    if slow and n > 1000:
        pytest.skip("the interpreter would take too long")
    for share, noise in product((0.9, 1.0) if slow else (0.5, 0.9, 0.99, 0.9999, 1.0), (0.0, 1e-6)):
        z = _at_the_edge(n, alpha, share, noise)
        assert _error("entmax", z, backend, alpha=alpha) <= 1e-11, (share, noise)
        assert _error("entmax", z.float(), backend, alpha=alpha) <= 6e-5, (share, noise)


def _groups(n: int, ratio: float, spread: float) -> Tensor:
    """Two top scores in the same lane, and groups that come ever closer together, each half as large as the last."""
    values: list[float] = []
    size, k = n // 2, 0
    while size > 1:
        values += [-0.3 + spread * ratio**k] * size
        size, k = size // 2, k + 1
    z = torch.full((n,), values[-1], dtype=torch.float64)
    z[: len(values)] = torch.tensor(values, dtype=torch.float64)
    z = z.roll(17)
    z[0], z[16] = 0.0, 0.0
    return z[None]


@pytest.mark.parametrize(
    ("name", "alpha"),
    [("entmax", 1.7), ("entmax", 1.9), ("entmax", 1.99), ("entmax", 1.999), ("normmax", 5.0), ("normmax", 50.0)],
)
def test_acceleration_that_oversteps_the_root(name: str, alpha: float, backend: str) -> None:
    """Newton from the right of the root may land far left of it: without memory, in a circle."""
    slow = backend == "triton" and DEVICE == "cpu"
    for n, ratio, spread in product((300,) if slow else (64, 300, 1024), (0.45, 0.6, 0.75), (0.02, 0.1)):
        z = _groups(n, ratio, spread)
        assert _error(name, z, backend, alpha=alpha) <= 2e-11, (n, ratio, spread)
        assert _error(name, z.float(), backend, alpha=alpha) <= 2e-5, (n, ratio, spread)


def _one_group_per_sweep(n: int, share: float) -> Tensor:
    """Sparsemax loses one group of entries at each step of Newton's, and the error shrinks by less than to a fourth."""
    counts, ratios, m = [], [], n
    while m > 2:
        rest = min(m - 1, max(2, round(m * share)))
        counts.append(m - rest)
        ratios.append(rest / m)
        m = rest
    gaps = [1.0]
    for r in ratios[:-1]:
        gaps.append(gaps[-1] * (1 - r) / r)
    left = total = sum(gaps)
    low: list[float] = []
    for count, gap in zip(counts, gaps, strict=True):
        low += [-0.5 - 0.4 * left / total] * count
        left -= gap
    z = torch.zeros(n, dtype=torch.float64)
    place = torch.ones(n, dtype=torch.bool)
    place[0], place[16] = False, False
    z[place] = torch.tensor(low, dtype=torch.float64)
    return z[None]


@pytest.mark.parametrize("n", [128, 1024, 4096, 20000])
def test_sparsemax_that_converges_slowly(n: int, backend: str) -> None:
    """Slow progress is not noise."""
    if backend == "triton" and DEVICE == "cpu" and n > 1024:
        pytest.skip("the interpreter would take too long")
    for share in (0.55, 0.6, 0.65, 0.7, 0.75):
        z = _one_group_per_sweep(n, share)
        assert _error("sparsemax", z, backend) <= 1e-13, share
        assert _error("sparsemax", z.float(), backend) <= 2e-6, share


def test_selection_from_sorted_rows_that_were_rotated_takes_no_longer() -> None:
    """From pivots in fixed places it took ten seconds."""
    pytest.importorskip("numba")
    n = 300_000
    z = (-torch.arange(n).float()).roll(1)[None]
    ts.topk_sparsemax(z[:, :100], 25)
    start = time.perf_counter()
    ts.topk_sparsemax(z, n // 4)
    assert time.perf_counter() - start < 2.0
