"""The two entire functions and the deformed logarithm, against mpmath, with derivatives, at the places where closed
forms fail.
"""

from __future__ import annotations

import mpmath as mp
import pytest
import torch

from tsallis.core import numerics

POINTS = [0.0, 1e-300, 1e-17, 1e-9, 1e-4, 0.01, 0.3, 0.999999, 1.0, 1.000001, 3.0, 30.0]


def _exact_phi(x: mp.mpf) -> mp.mpf:
    return mp.expm1(x) / x if x else mp.mpf(1)


def _exact_psi(x: mp.mpf) -> mp.mpf:
    return (x * mp.exp(x) - mp.expm1(x)) / x**2 if x else mp.mpf(1) / 2


@pytest.mark.parametrize(("ours", "exact"), [(numerics.phi, _exact_phi), (numerics.psi, _exact_psi)])
@pytest.mark.parametrize("x", [s * p for p in POINTS for s in (1, -1)])
def test_entire_functions(ours, exact, x: float) -> None:
    with mp.workdps(700):
        wanted = exact(mp.mpf(x))
        for dtype in (torch.float64, torch.float32):
            value = torch.tensor(x, dtype=dtype)
            reference = exact(mp.mpf(float(value)))
            assert abs(float(ours(value)) / float(reference) - 1) < 16 * torch.finfo(dtype).eps
        step = mp.mpf(10) ** -200
        slope = float((exact(mp.mpf(x) + step) - wanted) / step)
        got = float(torch.func.grad(ours)(torch.tensor(x, dtype=torch.float64)))
    assert got == pytest.approx(slope, rel=1e-12)


def test_psi_is_the_derivative_of_phi() -> None:
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    slope = torch.vmap(torch.func.grad(numerics.phi))(x)
    assert torch.allclose(slope, numerics.psi(x), rtol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 1 + 1e-12, 1.0001, 1.5, 2.0, 4.0])
def test_exp_inverts_log(alpha: float) -> None:
    a = torch.tensor(alpha, dtype=torch.float64)
    p = torch.tensor([1e-3, 0.2, 0.7, 1.0], dtype=torch.float64)
    assert torch.allclose(numerics.tsallis_exp(numerics.tsallis_log(p, a), a), p, rtol=1e-12)
    assert numerics.tsallis_exp(torch.tensor(float("-inf"), dtype=torch.float64), a) == 0
    assert torch.autograd.gradcheck(numerics.tsallis_log, (p.clone().requires_grad_(), a.clone().requires_grad_()))
    # At p = 1 the slope in alpha touches zero: finite differences need a looser absolute tolerance there than
    # elsewhere.
    slope = torch.func.jacfwd(lambda t: numerics.tsallis_log(p, t))(a)
    assert torch.allclose(slope, numerics.tsallis_log_slope(p, a), rtol=1e-10, atol=1e-14)


def test_zeros_do_not_leak() -> None:
    """The branch of a `where` that is not taken must not send NaN into any derivative."""
    alpha = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    p = torch.tensor([0.0, 0.4, 0.6], dtype=torch.float64, requires_grad=True)
    for function in (numerics.tsallis_log, numerics.tsallis_log_slope, numerics.tsallis_negentropy, numerics.safe_pow):
        first = torch.autograd.grad(function(p, alpha).sum(), (p, alpha), create_graph=True)
        assert all(g.isfinite().all() for g in first)
        second = torch.autograd.grad(sum(g.sum() for g in first), (p, alpha))
        assert all(g.isfinite().all() for g in second)
    # A tiny probability with a negative exponent is not a zero.
    assert numerics.safe_pow(
        torch.tensor(1e-200, dtype=torch.float64), torch.tensor(-0.5, dtype=torch.float64)
    ) == pytest.approx(1e100)


def test_negentropy_slope_at_zero_is_the_limit() -> None:
    alpha = torch.tensor(1.5, dtype=torch.float64)
    for p in (0.0, 1e-14):
        slope = torch.func.grad(lambda x: numerics.tsallis_negentropy(x, alpha))(torch.tensor(p, dtype=torch.float64))
        assert float(slope) == pytest.approx(-1 / (1.5 * 0.5), abs=1e-6)
