"""Logarithms of entmax: no zeros but those of entmax."""

from __future__ import annotations

import math
from functools import cache

import mpmath
import pytest
import torch

import tsallis as ts
from tsallis.decoding import log_entmax

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
ALPHAS = [0.0, 0.5, 0.9, 0.999, 1.0, 1.0 + 1e-9, 1.001, 1.01, 1.1, 1.2, 1.25, 1.5, 2.0, 3.0]


def exact(row: list[float], alpha: float) -> list[float]:
    """log p by bisection for the threshold with 60 digits, from the definition."""
    with mpmath.workdps(60):
        a = mpmath.mpf(alpha) - 1
        z = [mpmath.mpf(x) for x in row if x > -math.inf]
        if a == 0:
            total = mpmath.log(mpmath.fsum(mpmath.exp(x - max(z)) for x in z)) + max(z)
            return [float(mpmath.mpf(x) - total) if x > -math.inf else -math.inf for x in row]

        def log_p(x: mpmath.mpf, level: mpmath.mpf) -> mpmath.mpf | None:
            inside = 1 + a * (x - level)
            return mpmath.log(inside) / a if inside > 0 else None

        def mass(level: mpmath.mpf) -> mpmath.mpf:
            return mpmath.fsum(mpmath.exp(y) for y in (log_p(x, level) for x in z) if y is not None)

        # At lambda = max z the largest probability is 1; above max z - ln_alpha(1/n), all are 1/n at most.
        low = max(z)
        high = low - (mpmath.mpf(len(z)) ** -a - 1) / a
        for _ in range(190):
            middle = (low + high) / 2
            low, high = (middle, high) if mass(middle) > 1 else (low, middle)
        found = [log_p(mpmath.mpf(x), high) if x > -math.inf else None for x in row]
        return [-math.inf if y is None else float(y) for y in found]


ROWS = [
    [0.0, -30.0, -60.0, -90.0],
    [0.0, -0.5, -1.0, -8.0],
    [3.0, 3.0, -5.0, -math.inf],
    [0.0, -700.0, -900.0, -4864.0],
    [0.0, -30.0, -60.0, -70.0],
    [1000.0, 968.0, 912.0, -math.inf],
]


@cache
def expected_rows(alpha: float) -> list[list[float]]:
    return [exact(row, alpha) for row in ROWS]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_against_sixty_digits(alpha: float, dtype: torch.dtype) -> None:
    z = torch.tensor(ROWS).to(dtype)
    assert z.tolist() == ROWS
    expected = torch.tensor(expected_rows(alpha), dtype=torch.float64)
    found = log_entmax(z, alpha)
    assert found.dtype == (dtype if dtype == torch.float64 else torch.float32)
    assert torch.equal(found == -math.inf, expected == -math.inf)
    eps = torch.finfo(found.dtype).eps
    torch.testing.assert_close(found.double(), expected, rtol=16 * eps, atol=16 * eps)
    alone = torch.stack([log_entmax(row, alpha) for row in z])
    torch.testing.assert_close(alone, found, rtol=16 * eps, atol=16 * eps)
    narrow = log_entmax(z, alpha, dtype)
    assert narrow.dtype == dtype
    assert torch.equal(narrow == -math.inf, expected == -math.inf)


def test_what_was_a_false_zero() -> None:
    z = torch.tensor([0.0, -30.0, -60.0, -90.0])
    assert (ts.entmax(z, 1.01) == 0).tolist() == [False, False, True, True]
    # [1 - 0.01 * 60]^100 and [1 - 0.01 * 90]^100, as the rest of the row has nearly no mass.
    expected = [100 * math.log(0.4), 100 * math.log(0.1)]
    assert log_entmax(z, 1.01)[2:].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [0.5, 1.01, 1.1, 1.2, 1.25, 1.5, 2.0])
def test_long_rows(alpha: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    z = (4 * torch.randn(5, 4000, generator=generator, dtype=torch.float64)).to(dtype)
    p = ts.entmax(z.double(), alpha)
    found = log_entmax(z, alpha)
    torch.testing.assert_close(found.exp().double(), p, rtol=1e-4 if dtype == torch.float32 else 1e-11, atol=1e-9)
    # What is on the edge of the support to the last digit may be on either side.
    differ = (found == -math.inf) != (p == 0)
    assert p[differ].sum() < torch.finfo(dtype).eps
    assert (found == -math.inf).any() == (alpha > 1.01)


def test_every_row_that_can_be() -> None:
    inf, nan = math.inf, math.nan
    z = torch.tensor([[-inf, -inf], [nan, 0.0], [inf, 0.0], [-inf, 2.0], [0.0, 0.0]])
    for alpha in (0.5, 1.0, 1.01, 1.5):
        found = log_entmax(z, alpha)
        assert (found[0] == -inf).all()
        assert found[1:3].isnan().all()
        torch.testing.assert_close(found[3:], torch.tensor([[-inf, 0.0], [-math.log(2), -math.log(2)]]))
        assert log_entmax(z[:, :0], alpha).shape == (5, 0)
        assert torch.equal(log_entmax(z[3:, :1], alpha), torch.tensor([[-inf], [0.0]]))


@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_whole_numbers(alpha: float) -> None:
    z = torch.tensor([3, 1, 0])
    assert torch.equal(log_entmax(z, alpha), log_entmax(z.float(), alpha))


def test_values_beyond_the_range_are_no_zeros() -> None:
    low = torch.finfo(torch.float16).min
    assert log_entmax(torch.tensor([-low, low], dtype=torch.float16), 1.0, torch.float16).tolist() == [0.0, low]
    wide = torch.finfo(torch.float32).max
    assert log_entmax(torch.tensor([wide, -wide]), 0.5).isfinite().all()
    assert log_entmax(torch.tensor([wide, -wide]), 1.01).tolist() == [0.0, -math.inf]
