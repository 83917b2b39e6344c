"""Independent solvers: scipy on the optimisation problem itself, torch's softmax, sorting; and hypothesis looking for
counterexamples.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize as opt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tsallis as ts
from tsallis.core import registry
from tsallis.core.dispatch import backends
from tsallis.core.domains import CappedSimplex
from tsallis.testing import FAMILIES, draw
from tsallis.testing.harness import settings as settings_of


def _solve_dense(setting, z: torch.Tensor) -> np.ndarray:
    """SLSQP on <p, z> - Omega(p) over the box and the sum, from the middle of it; knows no thresholds."""
    n = z.shape[-1]
    total = setting.values["k"] if isinstance(setting.mapping.domain, CappedSimplex) else 1.0
    values = setting.tensors(z)

    def negative(p: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.tensor(p.clip(1e-12), dtype=torch.float64, requires_grad=True)
        value = (point * z).sum() - setting.mapping.omega(point, **values)
        return -float(value.detach()), -torch.autograd.grad(value, point)[0].numpy()

    found = opt.minimize(
        negative,
        np.full(n, total / n),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * n,
        options={"ftol": 1e-15, "maxiter": 500},
        constraints={"type": "eq", "fun": lambda p: p.sum() - total, "jac": lambda p: np.ones(n)},
    )
    return found.x


@pytest.mark.parametrize("name", [n for n in registry.names() if "duality_gap" not in registry.get(n).exempt])
def test_dense_solver_agrees(name: str) -> None:
    for setting in settings_of(registry.get(name)):
        for seed in range(3):
            z = draw("normal", 1, 5, seed=seed)[0]
            # The optimum is flat where p^alpha is nearly linear, so SLSQP finds p only to about the root of its
            # tolerance.
            assert np.abs(_solve_dense(setting, z) - setting(z).numpy()).max() < 1e-4, (str(setting), seed)


def test_enumerated_supports_agree_with_topk() -> None:
    """Top-k sparsemax is the best projection over all supports of size k."""
    from itertools import combinations

    for seed in range(20):
        z = draw("normal", 1, 6, seed=seed)[0]
        for k in (1, 2, 3):
            best = max(
                (float((p * z[list(s)]).sum() - p.square().sum() / 2), s, p)
                for s in combinations(range(6), k)
                for p in [ts.sparsemax(z[list(s)])]
            )
            expected = torch.zeros(6, dtype=z.dtype).scatter(0, torch.tensor(best[1]), best[2])
            assert torch.allclose(ts.topk_sparsemax(z, k), expected)


def _sparsemax_by_sorting(z: torch.Tensor) -> torch.Tensor:
    ordered = z.sort(descending=True).values
    sums = ordered.cumsum(-1)
    size = int((1 + torch.arange(1, len(z) + 1) * ordered > sums).sum())
    return (z - (sums[size - 1] - 1) / size).clamp_min(0)


def _entmax15_by_sorting(z: torch.Tensor) -> torch.Tensor:
    ordered = (z / 2).sort(descending=True).values
    for size in range(len(z), 0, -1):
        head = ordered[:size]
        rest = (1 - size * head.var(unbiased=False)) / size
        if rest >= 0 and (tau := head.mean() - rest.sqrt()) <= head[-1]:
            return (z / 2 - tau).clamp_min(0).square()
    raise AssertionError


@pytest.mark.parametrize("name", FAMILIES)
def test_sorting_agrees(name: str) -> None:
    for z in draw(name, 5, 300):
        assert torch.allclose(ts.sparsemax(z), _sparsemax_by_sorting(z), atol=1e-13)
        assert torch.allclose(ts.entmax15(z), _entmax15_by_sorting(z), atol=1e-11)
        assert torch.allclose(ts.softmax(z), torch.softmax(z, -1), atol=1e-15)
        assert torch.allclose(ts.entmax(z, 1.0), torch.softmax(z, -1), atol=1e-14)


def test_clustered_float32_rows() -> None:
    """One maximum above 128k scores at the edge of the support: other float32 solvers lose the sum and the small
    entries.
    """
    z = draw("cluster", 2, 131072, dtype=torch.float32)
    for alpha in (1.5, 2.0):
        exact = ts.entmax(z.double(), alpha, backend="reference")
        inside, a = exact > 0, alpha - 1
        for backend in {"cpu", "reference"}.intersection(backends("entmax")):
            p = ts.entmax(z, alpha, backend=backend).double()
            assert (p.sum(-1) - 1).abs().max() < 2e-6
            # p^a is linear in the threshold: computed in float32 it is off by what the sum is, over 2^17 slopes.
            assert ((p**a - exact**a).abs() <= 1e-6 * exact**a + 1e-8).all()
        p = ts.entmax(z, alpha, backend="reference").double()
        assert ((p - exact).abs()[inside] / exact[inside]).max() < 1e-6


@pytest.mark.parametrize("k", [1, 2, 3])
def test_topk_certificate(k: int) -> None:
    z = draw("normal", 200, 6)
    solution = ts.solve("topk_sparsemax", z, k=k)
    assert torch.equal(solution.exact, (ts.topk_sparsemax(z, k) - ts.sparsemax(z)).abs().amax(-1) < 1e-14)
    assert solution.exact.any()
    assert not solution.exact.all()


def test_topk_ties_and_large_k() -> None:
    z = torch.tensor([0.5, 0.5, 0.5, 0.0])
    assert ts.topk_sparsemax(z, 2).tolist() == [0.5, 0.5, 0.0, 0.0]
    assert torch.equal(ts.topk_sparsemax(z, 100), ts.sparsemax(z))
    per_row = ts.topk_sparsemax(z.expand(3, 4), torch.tensor([[1], [2], [9]]))
    assert (per_row > 0).sum(-1).tolist() == [1, 2, 3]
    with pytest.raises(ts.core.errors.ParameterError, match="k=0"):
        ts.topk_sparsemax(z, 0)


def test_budget_limits() -> None:
    z = torch.randn(4, 5)
    mask = torch.tensor([True, True, True, False, False])
    assert torch.equal(ts.budget(z, 3, mask=mask), mask.float().expand(4, 5))
    assert ts.budget(z, 4, mask=mask).isnan().all()
    assert "parameter" in str(ts.solve("budget", z, k=4, mask=mask).result)
    with pytest.raises(ts.core.errors.ParameterError, match="k=6"):
        ts.budget(z, 6)
    z = z.double()
    assert torch.allclose(ts.budget(z, 1, alpha=1.4), ts.entmax(z, 1.4), atol=1e-14)


def test_alpha_per_head() -> None:
    z = torch.randn(2, 3, 4, 5)
    alpha = torch.tensor([1.0, 1.5, 2.0]).reshape(3, 1, 1)
    p = ts.entmax(z, alpha)
    for h, each in enumerate((ts.softmax, ts.entmax15, ts.sparsemax)):
        assert torch.allclose(p[:, h], each(z[:, h]), atol=1e-6)
    with pytest.raises(ts.core.errors.ShapeError, match=r"broadcasts to \(2, 3, 4, 1\)"):
        ts.entmax(z, torch.ones(2, 3, 4))


scores = st.lists(
    st.one_of(st.floats(-50, 50, width=32), st.integers(-3, 3).map(float), st.just(float("-inf"))),
    min_size=1,
    max_size=12,
)


cases = given(
    row=scores,
    alpha=st.one_of(st.floats(0, 6), st.floats(6, 1000)),
    other=st.one_of(st.floats(1.01, 20), st.floats(20, 1000)),
    share=st.floats(0.01, 1),
)


def _holds_for_any_row(row: list[float], alpha: float, other: float, share: float) -> None:
    z = torch.tensor(row, dtype=torch.float64)
    kept = int((z > -torch.inf).sum())
    for p in (
        ts.entmax(z, alpha),
        ts.normmax(z, other),
        ts.budget(z, max(share * kept, 0.01), alpha, mask=z > -torch.inf) if kept else z * 0,
    ):
        assert p.isfinite().all() or kept == 0
        assert (p >= 0).all() or kept == 0
        assert (p[z == -torch.inf] == 0).all() or kept == 0
        order = z.argsort()
        assert (p[order].diff() >= -1e-12).all() or kept == 0
    if kept:
        assert abs(float(ts.entmax(z, alpha).sum()) - 1) < 1e-12
        assert abs(float(ts.normmax(z, other).sum()) - 1) < 1e-12
        assert abs(float(ts.budget(z, max(share * kept, 0.01), alpha).sum()) - max(share * kept, 0.01)) < 1e-12
        assert float(ts.entmax_loss(z, z.argmax(), alpha)) >= 0 if alpha > 0 else True
    else:
        assert (ts.entmax(z, alpha) == 0).all()


test_any_row = settings(max_examples=300, deadline=None, derandomize=True)(cases(_holds_for_any_row))
test_any_row_full = pytest.mark.full(
    pytest.mark.timeout(3600)(settings(max_examples=20_000, deadline=None)(cases(_holds_for_any_row)))
)
