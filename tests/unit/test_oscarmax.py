"""oscarmax against a quadratic program, finite differences, and its limits."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.autograd import gradcheck

import tsallis as ts
from tsallis.kernels.reference.isotonic import pairs
from tsallis.testing import FAMILIES, draw


def by_quadratic_program(z: np.ndarray, lam: float) -> np.ndarray:
    """SLSQP on <p, z> - |p|^2/2 - lam sum t, each t at least the absolute values of its pair; knows no order."""
    n, both = len(z), list(combinations(range(len(z)), 2))
    above = np.zeros((2 * len(both), n + len(both)))
    for e, pair in enumerate(both):
        for row, i in enumerate(pair):
            above[2 * e + row, i], above[2 * e + row, n + e] = -1, 1
    total = np.concatenate([np.ones(n), np.zeros(len(both))])

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        p = x[:n]
        return p @ p / 2 - p @ z + lam * x[n:].sum(), np.concatenate([p - z, np.full(len(both), lam)])

    found = minimize(
        objective, np.full(n + len(both), 1 / n), jac=True, method="SLSQP",
        bounds=[(0, None)] * (n + len(both)), options={"ftol": 1e-15, "maxiter": 500},
        constraints=[
            {"type": "ineq", "fun": lambda x: above @ x, "jac": lambda x: above},
            {"type": "eq", "fun": lambda x: total @ x - 1, "jac": lambda x: total},
        ],
    )  # fmt: skip
    return found.x[:n]


@pytest.mark.parametrize("lam", [0.01, 0.1, 0.3, 1.0])
def test_quadratic_program_agrees(lam: float) -> None:
    """Negative scores and ties too: the order is that of the scores, not of their absolute values."""
    several = 0
    for seed in range(6):
        generator = np.random.default_rng(seed)
        z = generator.normal(size=2 + seed % 4) * (0.3, 1.0, 3.0)[seed % 3] - 2 * (seed % 2)
        z = np.round(4 * z) / 4 if seed > 3 else z
        p = ts.oscarmax(torch.tensor(z), lam)
        assert np.abs(p.numpy() - by_quadratic_program(z, lam)).max() < 1e-7
        several += len(p[p > 0].unique()) > 1
    assert several > 0


def by_pools(z: Tensor, lam: float) -> Tensor:
    """The proximal point by pooling neighbours that are out of order, one after the other."""
    order = z.argsort(descending=True)
    pools: list[list[float]] = []
    for rank, value in enumerate(z[order].tolist()):
        pools.append([value - lam * (len(z) - 1 - rank), 1])
        while len(pools) > 1 and pools[-2][0] <= pools[-1][0]:
            (b, m), (a, k) = pools.pop(), pools.pop()
            pools.append([(a * k + b * m) / (k + m), k + m])
    flat = torch.cat([torch.full((int(k),), value, dtype=z.dtype) for value, k in pools])
    return torch.empty_like(z).scatter_(0, order, flat)


@pytest.mark.parametrize("name", FAMILIES)
def test_pooling_agrees(name: str) -> None:
    for n in (1, 2, 7, 500):
        for lam in (0.0, 1e-4, 0.1, 5.0):
            for z in draw(name, 3, n, seed=n):
                x = pairs(z[None], torch.tensor([[lam]], dtype=z.dtype)).x[0]
                assert (x - by_pools(z, lam)).abs().max() < 1e-12 * (1 + float(z.abs().max()) + lam * n)


def test_derivatives_by_finite_differences() -> None:
    z = torch.tensor([1.0, -0.5, 0.6, 0.95, 0.55], dtype=torch.float64, requires_grad=True)
    lam = torch.tensor(0.08, dtype=torch.float64, requires_grad=True)
    p = ts.oscarmax(z, lam)
    assert p[0] == p[3] > p[2] == p[4] > 0
    assert gradcheck(ts.oscarmax, (z, lam), check_forward_ad=True)
    slopes = torch.autograd.grad((p * torch.arange(5).square()).sum(), (z, lam))
    assert all(s.abs().max() > 0.1 for s in slopes)


def test_it_is_fusedmax_of_neighbours_where_there_are_two() -> None:
    """max(a, b) = (a + b + |a - b|)/2: for two entries, and half the price."""
    z = draw("normal", 9, 2)
    assert torch.allclose(ts.oscarmax(z, 0.6), ts.fusedmax(z, 0.3), atol=1e-14)


def test_limits() -> None:
    z = draw("normal", 5, 9)
    assert torch.allclose(ts.oscarmax(z, 0.0), ts.sparsemax(z), atol=1e-15)
    for lam in (1e3, 1e300, 1.7e308):
        assert torch.allclose(ts.oscarmax(z, lam), torch.full_like(z, 1 / 9), atol=1e-13)
    # The least price at which these are equal, and one below it.
    pair = torch.tensor([1.0, 0.0, 0.0], dtype=z.dtype)
    assert torch.allclose(ts.oscarmax(pair, 2 / 3), torch.full_like(pair, 1 / 3), atol=1e-14)
    assert ts.oscarmax(pair, 0.6)[0] > 0.34
    keep = torch.arange(9) % 2 == 0
    masked = ts.oscarmax(z, 1e3, mask=keep)
    assert torch.allclose(masked, keep.double().expand(5, 9) / 5, atol=1e-13)
    t = torch.softmax(draw("normal", 5, 5, seed=2), -1)
    full = torch.zeros(5, 9, dtype=z.dtype)
    full[:, keep] = t
    loss = ts.fenchel_young_loss("oscarmax", z, full, mask=keep, lam=0.1, reduction="none")
    assert torch.allclose(loss, ts.fenchel_young_loss("oscarmax", z[:, keep], t, lam=0.1, reduction="none"), atol=1e-13)
    assert (loss > 0.01).all()
