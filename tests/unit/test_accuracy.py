"""Against 50-digit arithmetic: alpha-entmax and its alpha-derivative, in float64 and float32."""

import mpmath as mp
import numpy as np
import pytest
import torch

import tsallis as ts
from tsallis.kernels.reference import threshold
from tsallis.kernels.reference.rows import entmax_root
from tsallis.testing import FAMILIES, draw

from . import mpmath_oracle as oracle

SCALES = (0.01, 0.1, 1.0, 10.0, 100.0)
DTYPES = {torch.float64: 1e-12, torch.float32: 1e-6}
TINY = [(alpha, n) for alpha in (0.0, 0.5, 0.9, 1.0, 1.0 + 1e-7, 1.001, 1.1, 1.5, 1.9, 2.0, 2.25, 2.5) for n in (2, 20)]
LONG = [(alpha, 1000) for alpha in (0.0, 1.0, 1.2, 1.5, 1.75, 2.0, 2.5)]


def _scores(n: int, scale: float, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return draw("normal", 1, n, seed=seed).mul(scale).to(dtype)[0]


def _worst(actual: torch.Tensor, expected: list) -> float:
    return max(float(abs(mp.mpf(float(x)) - y)) for x, y in zip(actual, expected, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("alpha", "n"), TINY + LONG)
def test_value(alpha: float, n: int, scale: float, dtype: torch.dtype) -> None:
    z = _scores(n, scale, dtype)
    exact = oracle.entmax(z.double().numpy(), alpha)
    solution = ts.solve("entmax", z, alpha=alpha)
    assert _worst(solution.p, exact.p) <= DTYPES[dtype]
    tolerance = torch.finfo(dtype).eps * 8 * (1 + float(abs(exact.threshold)))
    assert float(abs(mp.mpf(float(solution.threshold)) - exact.threshold)) <= tolerance


SEEDS = [0, 1, *(pytest.param(seed, marks=pytest.mark.full) for seed in range(2, 20))]


def _solves_a_problem_an_ulp_away(z: torch.Tensor, alpha: float) -> None:
    """Rows z: p^a = u within 16 eps, and within what rounding lambda to its dtype moves u by (half of a ulps)."""
    solution, eps, a = ts.solve("entmax", z, alpha=alpha), torch.finfo(z.dtype).eps, alpha - 1
    p, lam = solution.p.double(), solution.threshold
    u = (1 + a * (z.double() - lam.double().unsqueeze(-1))).clamp_min(0)
    ulp = torch.from_numpy(np.spacing(lam.abs().numpy())).double().unsqueeze(-1)
    assert ((p**a - u).abs() <= 16 * eps + a * ulp).all()
    assert ((p.sum(-1) - 1).abs() <= 16 * eps * z.shape[-1] ** 0.5).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("alpha", [2.6, 3.0, 4.0])
def test_backward_error_above_two_and_a_half(alpha: float, name: str, dtype: torch.dtype, seed: int) -> None:
    """There p is not Lipschitz in z: what can be asked is that p solves a problem an ulp away, and sums to one."""
    for n in (2, 20, 1000):
        z = draw(name, 2, n, seed=seed)
        for scale in SCALES[::2]:
            _solves_a_problem_an_ulp_away((z * scale).to(dtype), alpha)


@pytest.mark.parametrize("alpha", [1.0, 1.0 + 1e-7, 1.0 + 1e-3, 1.1, 1.5, 2.0])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("n", [4, 100, 1000])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_alpha_derivative(alpha: float, n: int, scale: float, dtype: torch.dtype, tolerance: float) -> None:
    z = _scores(n, scale, dtype)
    leaf = torch.tensor(alpha, dtype=dtype)
    derivative = torch.func.jacfwd(lambda t: ts.entmax(z, t))(leaf)
    exact = oracle.entmax(z.double().numpy(), float(leaf)).dalpha
    scale_of_result = max(float(abs(x)) for x in exact)
    if scale_of_result == 0:
        assert (derivative == 0).all()
    else:
        assert _worst(derivative, exact) <= tolerance * scale_of_result
        g = torch.linspace(-1, 2, n, dtype=dtype)
        leaf.requires_grad_()
        (pulled,) = torch.autograd.grad((ts.entmax(z, leaf) * g).sum(), leaf)
        wanted = float(mp.fsum(mp.mpf(float(x)) * y for x, y in zip(g, exact, strict=True)))
        size = float(mp.fsum(abs(mp.mpf(float(x)) * y) for x, y in zip(g, exact, strict=True)))
        assert abs(float(pulled) - wanted) <= tolerance * size


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("n", [2, 64, 255, 1024, 131072])
def test_newton_steps(name: str, n: int) -> None:
    """At most 9 steps for 1 <= alpha <= 2, without a bracket, with the work on block maxima counted by its length."""
    z = draw(name, 2 if n > 2000 else 32, n)
    d = z - z.amax(-1, keepdim=True)
    for alpha in (1.0, 1.001, 1.1, 1.25, 1.4, 1.5, 1.6, 1.75, 1.9, 1.99, 2.0):
        root = entmax_root(d, torch.full((len(z), 1), alpha, dtype=z.dtype))
        assert root.steps + root.stage <= 9, f"{root.steps} + {root.stage} steps at alpha = {alpha}"


def test_newton_iterates_stay_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Monotone convergence: sum p falls to one from above, so every iterate's support contains the true one."""
    for name in FAMILIES:
        z = draw(name, 8, 200)
        d = z - z.amax(-1, keepdim=True)
        for alpha in (1.0, 1.3, 1.5, 1.8, 2.0):
            column = torch.full((8, 1), alpha, dtype=z.dtype)
            before = torch.full_like(column, torch.inf)
            support = ts.entmax(z, alpha, backend="reference") > 0
            for cap in range(9):
                monkeypatch.setattr(threshold, "NEWTON_CAP", cap)
                root = threshold.newton(d, column)
                total = root.p.sum(-1, keepdim=True)
                # A step from sum p = n rounds at about n eps.
                assert (total >= 1 - 200 * 2.3e-16).all()
                assert (total <= before * (1 + 1e-14)).all()
                assert (root.p[support] > 0).all()
                before = total


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 1.5, 2.0, 3.0, 10.0, 1000.0])
def test_alpha_is_smooth_and_finite(alpha: float) -> None:
    z = draw("normal", 4, 20)
    p = ts.entmax(z, alpha)
    assert p.isfinite().all()
    assert torch.allclose(p, ts.entmax(z, alpha + 1e-9), atol=1e-7)
    assert np.isclose(float(p.sum()), 4)


def test_large_alpha_tends_to_argmax() -> None:
    z = draw("normal", 4, 20)
    assert torch.equal(ts.entmax(z, 1000.0).argmax(-1), z.argmax(-1))
    gaps = z.sort(-1).values.diff(dim=-1)[:, -1]
    assert (ts.entmax(z, 1000.0).amax(-1)[gaps > 1e-3] == 1).all()
    assert torch.allclose(ts.entmax(torch.tensor([1.0, 1.0, 0.0]), 1000.0), torch.tensor([0.5, 0.5, 0.0]))


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(100))
def test_random_problems(seed: int, dtype: torch.dtype) -> None:
    """The bounds above on random alpha in [0, 4], scale in [0.01, 100], length in [2, 1000] and family."""
    random = np.random.default_rng(seed)
    n, scale = int(random.integers(2, 1000)), 10 ** random.uniform(-2, 2)
    z = draw(str(random.choice(list(FAMILIES))), 1, n, seed=seed).mul(scale).to(dtype)[0]
    low = float(random.uniform(0, 2.5))
    assert _worst(ts.entmax(z, low), oracle.entmax(z.double().numpy(), low).p) <= DTYPES[dtype]
    _solves_a_problem_an_ulp_away(z.unsqueeze(0), float(random.uniform(2.5, 4)))


@pytest.mark.full
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("order", ["as drawn", "ascending", "descending"])
@pytest.mark.parametrize("n", [3, 16, 100, 255, 256, 257, 1000, 4096, 32000, 262144])
def test_newton_steps_full(name: str, order: str, n: int) -> None:
    z = draw(name, 2 if n > 5000 else 32, n, seed=7)
    z = z if order == "as drawn" else z.sort(-1, descending=order == "descending").values
    d = z - z.amax(-1, keepdim=True)
    for alpha in np.linspace(1, 2, 21):
        root = entmax_root(d, torch.full((len(z), 1), float(alpha), dtype=z.dtype))
        assert root.steps + root.stage <= 9, f"{root.steps} + {root.stage} steps at alpha = {alpha}"
