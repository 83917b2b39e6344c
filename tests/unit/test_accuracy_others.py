"""Budget and normmax against 50-digit arithmetic, values and derivatives, and what holds where p is too steep."""

import mpmath as mp
import numpy as np
import pytest
import torch

import tsallis as ts
from tsallis.testing import FAMILIES, draw

from . import mpmath_others as oracle

VALUE = {torch.float64: 1e-12, torch.float32: 1e-6}
# Derivatives are computed from p as it was rounded: relative to the largest entry.
SLOPE = {torch.float64: 1e-10, torch.float32: 1e-4}


def _worst(actual: torch.Tensor, expected: list) -> float:
    return max(float(abs(mp.mpf(float(x)) - y)) for x, y in zip(actual, expected, strict=True))


def _size(expected: list) -> float:
    return max(float(abs(x)) for x in expected)


def _compare(exact: oracle.Exact, z: torch.Tensor, solve, parameters: dict[str, torch.Tensor]) -> None:
    leaf = z.clone().requires_grad_()
    p = solve(leaf, *parameters.values())
    assert _worst(p.detach(), exact.p) <= VALUE[z.dtype]
    (dz,) = torch.autograd.grad((p * _weights(z)).sum(), leaf)
    assert _worst(dz, exact.vjp) <= SLOPE[z.dtype] * (1e-3 + _size(exact.vjp))
    for i, name in enumerate(parameters):
        wanted = {"alpha": exact.dalpha, "k": exact.dk}[name]
        moved = torch.func.jacfwd(solve, argnums=1 + i)(z, *parameters.values())
        assert _worst(moved, wanted) <= SLOPE[z.dtype] * (1e-3 + _size(wanted)), name


def _weights(z: torch.Tensor) -> torch.Tensor:
    return torch.arange(1.0, len(z) + 1, dtype=z.dtype).cos()


def _lists(z: torch.Tensor) -> tuple[list[float], list[float]]:
    return z.tolist(), _weights(z).tolist()


@pytest.mark.parametrize("dtype", VALUE)
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.0 + 1e-7, 1.5, 2.0, 2.5])
@pytest.mark.parametrize(("n", "k"), [(5, 0.25), (5, 1.0), (5, 2.3125), (12, 11.5)])
def test_budget(n: int, k: float, alpha: float, scale: float, dtype: torch.dtype) -> None:
    z = draw("normal", 1, n).mul(scale).to(dtype)[0]
    values = {"k": torch.tensor(k, dtype=dtype), "alpha": torch.tensor(alpha, dtype=dtype)}
    scores, weights = _lists(z)
    exact = oracle.budget(scores, k, float(values["alpha"]), weights)
    _compare(exact, z, lambda z, k, alpha: ts.budget(z, k, alpha), values)


@pytest.mark.parametrize("dtype", VALUE)
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("alpha", [1.0625, 1.5, 2.0, 5.0, 50.0, 1000.0])
@pytest.mark.parametrize("n", [3, 20, 200])
def test_normmax(n: int, alpha: float, scale: float, dtype: torch.dtype) -> None:
    z = draw("normal", 1, n).mul(scale).to(dtype)[0]
    scores, weights = _lists(z)
    exact = oracle.normmax(scores, alpha, weights)
    _compare(exact, z, ts.normmax, {"alpha": torch.tensor(alpha, dtype=dtype)})


def _backward_error(solution, z: torch.Tensor, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
    """|p^a - u| of the free entries, u = 1 + a (z - lambda), and how far capped ones are from u >= 1."""
    p, lam = solution.p.double(), solution.threshold.double().unsqueeze(-1)
    u = 1 + (alpha - 1) * (z.double() - lam)
    free = (p ** (alpha - 1) - u.clamp_min(0)).abs().masked_fill(p >= 1, 0)
    return free, (1 - u).clamp_min(0).masked_fill(p < 1, 0)


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.full) for seed in range(1, 6))]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", VALUE)
@pytest.mark.parametrize("alpha", [3.0, 20.0, 1000.0])
@pytest.mark.parametrize("k", [0.25, 2.3, 17.5])
def test_steep_budget(k: float, alpha: float, dtype: torch.dtype, seed: int) -> None:
    """Above 2.5 p is not Lipschitz in z: it solves a problem an ulp away, and the constraints hold to rounding."""
    eps, a = torch.finfo(dtype).eps, alpha - 1
    for name in FAMILIES:
        for scale in (1e-3, 0.1, 1.0):
            z = (draw(name, 4, 50, seed=seed) * scale).to(dtype)
            solution = ts.solve("budget", z, k=k, alpha=alpha)
            # p is a product of a few rounded factors, its sum right to 4 ulps: less than 8 ulps of p in all, which are
            # 8 a ulps of p^a. Rounding lambda moves u by a half ulps of lambda.
            ulp = torch.from_numpy(np.spacing(solution.threshold.abs().numpy())).double().unsqueeze(-1)
            for error in _backward_error(solution, z, alpha):
                assert (error <= (16 + 8 * a) * eps + a * ulp).all(), name
            assert ((solution.p.double().sum(-1) - k).abs() <= 16 * eps * max(k, 1)).all(), name
            assert ((solution.p >= 0) & (solution.p <= 1)).all()
            order = z.argsort(-1)
            assert (solution.p.gather(-1, order).diff(dim=-1) >= 0).all(), name


def test_budget_of_near_equal_scores_keeps_its_sum() -> None:
    z = torch.tensor(
        [0.08537740838742933, 0.10105971452096525, 0.0037141716859996755, 0.059167572548282914], dtype=torch.float64
    )
    assert float(ts.budget(z, 2, 20.0).sum()) == pytest.approx(2, abs=1e-15)


@pytest.mark.parametrize("shape", [(32, 50, 2.3, 300.0), (32, 4, 1.7, 1000.0)])
@pytest.mark.parametrize("scale", [1e-3, 0.1])
def test_budget_does_not_overflow(shape: tuple, scale: float) -> None:
    rows, n, k, alpha = shape
    p = ts.budget(draw("normal", rows, n) * scale, k, alpha)
    assert ((p.sum(-1) - k).abs() < 1e-14).all()
    # As alpha grows the floor(k) largest entries tend to one and the next takes the rest; all others vanish.
    limit = torch.tensor([1.0] * int(k) + [k % 1] + [0.0] * (n - int(k) - 1), dtype=p.dtype)
    far = ts.budget(draw("normal", rows, n), k, 1e6).sort(-1, descending=True).values
    assert torch.allclose(far, limit.expand_as(far), atol=1e-4)


def test_large_alpha_losses_of_normmax() -> None:
    """p^alpha underflows, |p| does not."""
    z = torch.tensor([[1, 1.2, 1.4, 0]])
    target = torch.tensor([2])
    assert float(ts.fenchel_young_loss("normmax", z, target, alpha=200.0)) == pytest.approx(0.46504, abs=1e-5)
    assert float(ts.fenchel_young_loss("normmax", z.double(), target, alpha=1000.0)) == pytest.approx(0.46634, abs=1e-5)


def test_double_backward_at_large_alpha() -> None:
    z = torch.linspace(0, 0.1, 8, dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor(50.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ts.normmax, (z, alpha), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(ts.normmax, (z, alpha))


@pytest.mark.parametrize(
    ("z", "k", "alpha"),
    [([1.0, 0.5, 0.0], 1e-6, 9.0), ([1.0, 0.5, 0.0], 0.01, 25.0), ([1.0, 0.5, 0.0], 0.5, 200.0)],
)
def test_one_free_entry_of_a_budget_has_no_freedom(z: list[float], k: float, alpha: float) -> None:
    leaves = [torch.tensor(x, requires_grad=True) for x in (z, k, alpha)]
    p = ts.budget(*leaves)
    dz, dk, dalpha = torch.autograd.grad((p * torch.tensor([2.0, 3.0, 5.0])).sum(), leaves)
    assert (dz == 0).all()
    assert dk == 2
    assert dalpha == 0


def test_beyond_the_range_of_the_dtype() -> None:
    """The weights overflow: what is 0 stays 0, what is infinite has its sign, and a heavy entry spoils no light one."""
    inf = float("inf")
    for z, alpha, g, expected in (
        ([0.0] * 8, 50.0, [1.0] * 8, [0.0] * 8),
        ([0.0] * 4, 200.0, [1.0, -1.0, 0.5, -0.5], [inf, -inf, inf, -inf]),
        ([0.0] * 3, 200.0, [0.0, 1.0, -1.0], [0.0, inf, -inf]),
        ([1.0, 1.0, 0.0], 1000.0, [1.0, 1.0, 7.0], [0.0, 0.0, 0.0]),
        ([1.0, 1.0, 0.0], 1000.0, [1.0, 2.0, 7.0], [-inf, inf, 0.0]),
    ):
        leaf, a = torch.tensor(z, requires_grad=True), torch.tensor(alpha, requires_grad=True)
        dz, da = torch.autograd.grad((ts.entmax(leaf, a) * torch.tensor(g)).sum(), (leaf, a))
        assert dz.tolist() == expected
        assert da == 0
    # p = (0.9, 0.1) at alpha = 60: the second weight is 1e58, the true derivative is that of the first.
    exact = ts.entmax(gap := torch.tensor([0.0, -(0.9**59) / 59], dtype=torch.float64), 60.0)
    J = torch.func.jacrev(lambda z: ts.entmax(z, 60.0))
    assert torch.allclose(J(gap.float()).double(), J(gap), rtol=1e-3)
    assert 100 < float(J(gap)[0, 0]) < 1000, exact
