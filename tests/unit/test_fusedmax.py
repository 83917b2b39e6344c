"""fusedmax and tvmax against dense solvers that know nothing of chains, and at their limits."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear, minimize
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import tsallis as ts
from tsallis.core.errors import NumericalError, ParameterError, ShapeError
from tsallis.core.status import Outcome
from tsallis.kernels.reference.variation import chain
from tsallis.testing import FAMILIES, draw

Z = torch.tensor([1.2, 1.0, 0.1, -0.3, 0.9, 0.85, -0.5], dtype=torch.float64)
GRID = torch.tensor([[0.9, 0.8, 0.1, -0.2], [0.7, 1.0, 0.2, -0.4], [-0.3, 0.1, 0.6, 0.5]], dtype=torch.float64)


def steps(height: int, width: int, there: np.ndarray | None = None) -> np.ndarray:
    """A matrix of the differences of neighbours on a grid; a chain is one of height 1."""
    there = np.ones((height, width), dtype=bool) if there is None else there
    found = []
    for i, j in np.ndindex(height, width):
        for a, b in ((i, j + 1), (i + 1, j)):
            if a < height and b < width and there[i, j] and there[a, b]:
                line = np.zeros(height * width)
                line[i * width + j], line[a * width + b] = -1, 1
                found.append(line)
    return np.array(found).reshape(-1, height * width)


def denoised(z: Tensor, lam: float, differences: np.ndarray) -> Tensor:
    """The proximal point by its dual: min |z - D'u|^2 over |u| <= lam."""
    flat = z.flatten().numpy()
    if lam == 0 or not len(differences):
        return z
    u = lsq_linear(differences.T, flat, bounds=(-lam, lam), method="bvls", tol=1e-15).x
    return torch.from_numpy(flat - differences.T @ u).reshape(z.shape)


def by_quadratic_program(z: Tensor, lam: float, differences: np.ndarray) -> Tensor:
    """p itself by SLSQP, with |D p| <= t: nothing about proximal points is assumed."""
    flat, (edges, n) = z.flatten().numpy(), differences.shape

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        p, t = x[:n], x[n:]
        return p @ p / 2 - p @ flat + lam * t.sum(), np.concatenate([p - flat, np.full(edges, lam)])

    above = np.block([[-differences, np.eye(edges)], [differences, np.eye(edges)]])
    total = np.concatenate([np.ones(n), np.zeros(edges)])
    found = minimize(
        objective, np.concatenate([np.full(n, 1 / n), np.zeros(edges)]), jac=True, method="SLSQP",
        bounds=[(0, 1)] * n + [(0, None)] * edges, options={"ftol": 1e-15, "maxiter": 1000},
        constraints=[
            {"type": "ineq", "fun": lambda x: above @ x, "jac": lambda x: above},
            {"type": "eq", "fun": lambda x: total @ x - 1, "jac": lambda x: total},
        ],
    )  # fmt: skip
    return torch.from_numpy(found.x[:n]).reshape(z.shape)


@pytest.mark.parametrize("lam", [0.1, 0.25, 0.6, 2.0])
@pytest.mark.parametrize("shape", [(1, 7), (3, 3)])
def test_quadratic_program_agrees(shape: tuple[int, int], lam: float) -> None:
    seen = set()
    for seed in range(2):
        z = draw("normal", *shape, seed=seed)
        p = ts.tvmax(z, lam) if shape[0] > 1 else ts.fusedmax(z, lam)
        assert (p - by_quadratic_program(z, lam, steps(*shape))).abs().max() < 2e-7
        seen |= {len(p[p > 0].unique())}
    assert max(seen) > 1 or lam > 0.5


@pytest.mark.parametrize("name", FAMILIES)
def test_chains_are_the_dense_solution(name: str) -> None:
    for n in (1, 2, 3, 12):
        z = draw(name, 3, n, seed=n)
        lam = torch.tensor([[0.0], [0.3], [1.5]], dtype=torch.float64)
        x = chain(z, lam).x
        for i in range(3):
            expected = denoised(z[i], float(lam[i]), steps(1, n))
            assert (x[i] - expected).abs().max() < 1e-12 * (1 + z[i].abs().max()), (n, i)


def optimality(z: Tensor, lam: float, x: Tensor) -> float:
    """How far chains (R, n) are from the conditions of optimality: z - x = D'u, |u| <= lam, u = lam sign D x."""
    u = (x - z).cumsum(-1)
    slack = lam * x.diff().abs() - u[:, :-1] * x.diff()
    return float(torch.stack([(u.abs() - lam).amax(), u[:, -1].abs().amax(), slack.abs().amax()]).max())


@pytest.mark.parametrize("lam", [1e-3, 0.1, 1.0, 10.0, 1e3])
def test_long_chains_are_optimal(lam: float) -> None:
    for z in (
        draw("normal", 5, 2000),
        draw("heavy_tailed", 5, 2000),
        draw("normal", 5, 2000).cumsum(-1),
        draw("ties", 5, 2000),
    ):
        column = torch.tensor([[lam]], dtype=z.dtype)
        assert optimality(z, lam, chain(z, column).x) < 1e-10 * (1 + float(z.abs().max()) + lam)


def test_chains_whose_duals_are_at_lam_everywhere() -> None:
    """Rows and columns of a grid in turn: near the end rounding decides in chains, and must not make steps."""
    z = draw("normal", 64, 64).cumsum(0) / 8
    lam, part = torch.tensor([[2.0]], dtype=z.dtype), torch.zeros_like(z)
    for _ in range(120):
        x = chain((z - part).T, lam).x
        assert optimality((z - part).T, 2.0, x) < 1e-10
        part = (z - part - x.T).T.contiguous().T
        x = chain(z - part, lam).x
        assert optimality(z - part, 2.0, x) < 1e-10
        part = z - part - x


def test_groups_are_connected_and_pull_is_their_boundary() -> None:
    found = chain(torch.tensor([[1.2, 1.0, 0.1, -0.3, 0.9, 0.85, -0.5]], dtype=torch.float64), torch.tensor([[0.25]]))
    assert torch.allclose(found.x, torch.tensor([[0.975, 0.975, 0.15, 0.15, 0.625, 0.625, -0.25]]).double())
    assert found.group.tolist() == [[0, 0, 2, 2, 4, 4, 6]]
    assert found.pull.tolist() == [[0, 1, -1, -1, 1, 1, -1]]
    # Equal values that are not neighbours are two groups.
    apart = chain(torch.tensor([[1.0, -9.0, 1.0]], dtype=torch.float64), torch.tensor([[0.1]]))
    assert apart.group.tolist() == [[0, 1, 2]]


def test_limits() -> None:
    z = draw("normal", 5, 9)
    assert torch.allclose(ts.fusedmax(z, 0.0), ts.sparsemax(z), atol=1e-15)
    assert torch.allclose(ts.fusedmax(z, 1e6), torch.full_like(z, 1 / 9), atol=1e-15)
    keep = torch.arange(9) < 4
    assert torch.allclose(ts.fusedmax(z, 1e300, mask=keep)[:, :4], torch.full((5, 4), 0.25).double(), atol=1e-15)
    assert torch.equal(ts.fusedmax(torch.zeros(3, 4)), torch.full((3, 4), 0.25))
    assert ts.fusedmax(torch.tensor([-3.0])).tolist() == [1.0]
    grid = draw("normal", 2, 12).reshape(2, 3, 4)
    assert torch.allclose(ts.tvmax(grid, 0.0).flatten(1), ts.sparsemax(grid.flatten(1)), atol=1e-15)
    assert torch.allclose(ts.tvmax(grid, 1e6), torch.full_like(grid, 1 / 12), atol=1e-14)
    # One row, or one column, is a chain.
    assert torch.allclose(ts.tvmax(z[:, None], 0.3)[:, 0], ts.fusedmax(z, 0.3), atol=1e-14)
    assert torch.allclose(ts.tvmax(z[:, :, None], 0.3)[..., 0], ts.fusedmax(z, 0.3), atol=1e-14)


def test_removed_entries_leave_their_neighbours_neighbours() -> None:
    z = torch.tensor([1.0, 5.0, 0.2, 0.9], dtype=torch.float64)
    mask = torch.tensor([True, False, True, True])
    together = ts.fusedmax(z[mask], 0.2)
    assert torch.equal(ts.fusedmax(z, 0.2, mask=mask)[mask], together)
    # A gap between them would have let the first entry have more.
    assert (
        together - ts.sparsemax(torch.cat([chain(part[None], torch.tensor([[0.2]])).x[0] for part in (z[:1], z[2:])]))
    ).abs().max() > 0.05


@pytest.mark.parametrize("gap", [slice(1, 2), slice(3, 5)])
def test_losses_of_rows_with_gaps(gap: slice) -> None:
    """The loss is that of the row without its gaps, in value and gradients, and never negative."""
    mask = torch.ones(6, dtype=torch.bool)
    mask[gap] = False
    z, t = draw("normal", 3, 6), torch.zeros(3, 6, dtype=torch.float64)
    t[:, mask] = torch.softmax(draw("normal", 3, int(mask.sum()), seed=1), -1)
    values = []
    for scores, target, keep in ((z, t, mask), (z[:, mask], t[:, mask], None)):
        leaf, lam = scores.clone().requires_grad_(), torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
        loss = ts.fenchel_young_loss("fusedmax", leaf, target, mask=keep, lam=lam, reduction="none")
        slopes = torch.autograd.grad(loss.sum(), (leaf, lam))
        values.append((loss.detach(), slopes[0] if keep is None else slopes[0][:, mask], slopes[1]))
    for got, expected in zip(*values, strict=True):
        assert torch.allclose(got, expected, atol=1e-12)
    assert (values[0][0] > 0.01).all()
    assert values[0][2].abs() > 0.01


def test_a_low_score_pulls_and_a_removed_one_does_not() -> None:
    z = torch.tensor([1.0, 0.9, -1e9, 0.9], dtype=torch.float64)
    low, removed = ts.fusedmax(z, 0.1), ts.fusedmax(z, 0.1, mask=z > -1e8)
    assert low[2] == 0
    assert (low - removed).abs().max() > 0.05
    for floor in (-1e300, torch.finfo(z.dtype).min):
        z[2] = floor
        assert torch.allclose(ts.fusedmax(z, 0.1), low, atol=1e-12)
    grid = draw("normal", 4, 5)
    grid[1, 2] = grid[3, 3] = -50.0
    low = ts.tvmax(grid, 0.3)
    assert (low - ts.tvmax(grid, 0.3, mask=grid > -50)).abs().max() > 0.05
    for floor in (-1e9, torch.finfo(z.dtype).min):
        grid[1, 2] = grid[3, 3] = floor
        leaf = grid.clone().requires_grad_()
        p, report = ts.tvmax(leaf, 0.3, return_report=True)
        assert torch.allclose(p, low, atol=1e-12)
        assert report.gap < 1e-12
        assert torch.autograd.grad(p.square().sum(), leaf)[0].isfinite().all()


def test_gradients_at_large_lam_are_finite() -> None:
    """Two segments far apart in scores, which lam brings near each other."""
    z = torch.tensor([[100.3, 100.3, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    lam = torch.tensor(100.0, dtype=torch.float64, requires_grad=True)
    p = ts.fusedmax(z, lam)
    assert torch.allclose(p, torch.tensor([[0.4, 0.4, 0.1, 0.1]], dtype=torch.float64), atol=1e-13)
    slopes = torch.autograd.grad((p * torch.arange(4)).sum(), (z, lam))
    assert torch.allclose(slopes[0], torch.tensor([[-1.0, -1.0, 1.0, 1.0]], dtype=torch.float64))
    assert torch.allclose(slopes[1], torch.tensor(2.0, dtype=torch.float64))


def as_grid(z: Tensor, lam: float | Tensor) -> Tensor:
    return ts.tvmax(z.unflatten(-1, (2, -1)), lam).flatten(-2)


@pytest.mark.parametrize("mapping", [ts.fusedmax, ts.oscarmax, as_grid])
def test_nothing_holds_ties_together_without_a_price(mapping: Callable[..., Tensor]) -> None:
    """At lam = 0 it is sparsemax, in its derivatives too; that in lam is the limit from above."""
    z = torch.tensor([[1.0, 1.0, 0.6, 0.6, 0.6, -3.0]], dtype=torch.float64)
    # A row at 0 beside one that is not.
    rows, lam = z.repeat(2, 1).requires_grad_(), torch.tensor([[0.0], [0.05]], dtype=z.dtype)
    p = mapping(rows, lam[..., None] if mapping is as_grid else lam)
    weights = torch.arange(6).square()
    (slope,) = torch.autograd.grad((p * weights).sum(), rows)
    expected = torch.autograd.functional.jacobian(lambda x: (ts.sparsemax(x) * weights).sum(), z)
    assert torch.allclose(slope[:1], expected, atol=1e-14)
    assert slope[0, 0] != slope[0, 1]
    assert torch.allclose(slope[1, 0], slope[1, 1], atol=1e-14)
    price, step = torch.tensor(0.0, dtype=z.dtype, requires_grad=True), 1e-4
    (slope,) = torch.autograd.grad((mapping(z, price) * weights).sum(), price)
    ahead = ((mapping(z, step) - mapping(z, 0.0)) * weights).sum() / step
    assert torch.allclose(slope, ahead, atol=1e-9)
    assert slope.abs() > 0.1


def test_derivatives_of_grids() -> None:
    # Two groups of three and one entries in the support.
    z = GRID[:, :3].clone().requires_grad_()
    lam = torch.tensor(0.06, dtype=torch.float64, requires_grad=True)
    assert gradcheck(ts.tvmax, (z, lam), check_forward_ad=True)
    assert gradgradcheck(ts.tvmax, (z[:2, :2].detach().requires_grad_(), lam))
    slopes = torch.autograd.grad((ts.tvmax(z, lam) * torch.arange(3)).sum(), (z, lam))
    assert all(s.abs().max() > 1e-3 for s in slopes)
    J = torch.autograd.functional.jacobian(lambda x: ts.tvmax(x, 0.06), z.detach()).reshape(9, 9)
    assert torch.allclose(J, J.T, atol=1e-13)
    assert torch.linalg.eigvalsh((J + J.T) / 2).min() > -1e-13


def test_equal_values_that_are_not_connected_are_different_groups() -> None:
    z = torch.tensor([[1.0, -2.0], [-2.0, 1.0]], dtype=torch.float64)
    J = torch.autograd.functional.jacobian(lambda x: ts.tvmax(x, 0.1), z).reshape(4, 4)
    assert ts.tvmax(z, 0.1).tolist() == [[0.5, 0.0], [0.0, 0.5]]
    assert J[0].tolist() == [0.5, 0.0, 0.0, -0.5]


@pytest.mark.parametrize("lam", [0.05, 0.3, 1.0])
def test_grids_are_the_dense_solution(lam: float) -> None:
    there = torch.ones(3, 5, 4, dtype=torch.bool)
    there[1, 2, 1] = there[1, 0, 3] = there[2, :, 3] = False
    z = draw("normal", 3, 20, seed=5).reshape(3, 5, 4)
    p, report = ts.tvmax(z, lam, mask=there, return_report=True)
    assert report.result.ok
    assert report.gap.max() < 1e-12
    for i in range(3):
        x = denoised(torch.where(there[i], z[i], 0.0), lam, steps(5, 4, there[i].numpy()))
        expected = ts.sparsemax(torch.where(there[i], x, -torch.inf).flatten()).reshape(5, 4)
        assert (p[i] - expected).abs().max() < 1e-12


def test_the_gap_is_a_certificate() -> None:
    """Ended early, it bounds the distance to the solution, and the outcome says so; items do not change each other."""
    z = draw("normal", 3, 144).reshape(3, 12, 12)
    best = ts.tvmax(z, 0.5)
    for limit in (1, 3, 9):
        p, report = ts.tvmax(z, 0.5, max_iter=limit, return_report=True)
        assert ((p - best).square().sum((1, 2)) <= 2 * report.gap + 1e-12).all()
        assert (report.iterations <= limit).all()
    p, report = ts.tvmax(z, 0.5, max_iter=1, return_report=True)
    assert (report.result.codes == Outcome.GAP_LEFT).all()
    assert ((p - best).abs().amax((1, 2)) > 0.1).any()
    # With such a gap no two entries are known to differ: joining them all would be worse in some items.
    assert (p.amax((1, 2)) > 0.1).any()
    each = ts.tvmax(z, 0.5, return_report=True)[1].iterations
    assert each.tolist() == [int(ts.tvmax(x, 0.5, return_report=True)[1].iterations) for x in z]
    assert len(each.unique()) > 1
    loose = ts.tvmax(z, 0.5, tol=0.1, return_report=True)[1]
    assert loose.iterations.max() < ts.tvmax(z, 0.5, return_report=True)[1].iterations.min()
    alone = torch.stack([ts.tvmax(x, 0.5) for x in z])
    assert torch.allclose(alone, best, atol=1e-14)
    large = 0.3 * draw("normal", 40, 40).cumsum(0).cumsum(1)
    p, report = ts.tvmax(large, 2.0, return_report=True)
    assert report.result.ok
    assert report.gap < 1e-9
    assert 1 < (p > 0).sum() < 1600


def test_bad_grids() -> None:
    z = 0.3 * draw("normal", 5, 6).reshape(5, 2, 3)
    z[1, 0, 0], z[2, 1, 1] = torch.nan, torch.inf
    mask = torch.ones_like(z, dtype=torch.bool)
    mask[3], mask[4, 0, 1] = False, False
    lam = torch.tensor([0.05, 0.2, 0.2, 0.2, -1.0], dtype=z.dtype).reshape(5, 1, 1)
    z.requires_grad_()
    p, report = ts.tvmax(z, lam, mask=mask, return_report=True)
    codes = [Outcome.SUCCESS, Outcome.NAN_SCORE, Outcome.INFINITE_SCORE, Outcome.FULLY_MASKED]
    assert report.result.codes.tolist() == [*codes, Outcome.PARAMETER_NOT_ADMISSIBLE]
    assert report.gap.isnan().tolist() == [False, True, True, False, True]
    assert p.isnan().flatten(1).all(1).tolist() == [False, True, True, False, True]
    assert torch.equal(p[0], ts.tvmax(z[0], 0.05))
    assert (p[3] == 0).all()
    (slope,) = torch.autograd.grad((p * torch.arange(3)).sum(), z)
    assert slope.isnan().flatten(1).any(1).tolist() == [False, True, True, False, True]
    assert (slope[3] == 0).all()
    assert slope[0].abs().max() > 0.01
    with ts.debug_checks(True), pytest.raises(NumericalError, match="NaN"):
        ts.tvmax(z[1], 0.2)


def test_dims_dtypes_and_layouts_of_grids() -> None:
    z = draw("normal", 8, 15).reshape(2, 4, 3, 5)
    p = ts.tvmax(z, 0.2)
    assert torch.allclose(ts.tvmax(z.permute(2, 0, 3, 1), 0.2, dim=(0, 2)), p.permute(2, 0, 3, 1), atol=1e-14)
    assert torch.allclose(ts.tvmax(z.mT, 0.2, dim=(-1, -2)), p.mT, atol=1e-13)
    assert torch.allclose(p.sum((-1, -2)), torch.ones(2, 4, dtype=p.dtype))
    lam = torch.rand(4, 1, 1, dtype=z.dtype)
    assert torch.allclose(ts.tvmax(z, lam)[1, 2], ts.tvmax(z[1, 2], float(lam[2])), atol=1e-14)
    moved = ts.tvmax(z.permute(2, 0, 3, 1), lam.reshape(1, 1, 4), dim=(0, 2))
    assert torch.allclose(moved.permute(1, 3, 0, 2), ts.tvmax(z, lam), atol=1e-14)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        low = z.to(dtype)
        assert torch.equal(ts.tvmax(low, 0.2), ts.tvmax(low.double(), 0.2).to(dtype))
    assert ts.tvmax(torch.tensor([[1, 2], [0, 2]]), 0.1).dtype == torch.get_default_dtype()
    for shape in ((0, 3, 4), (2, 0, 4), (2, 3, 0)):
        empty = torch.zeros(shape, requires_grad=True)
        out, report = ts.tvmax(empty, return_report=True)
        assert out.shape == shape
        assert report.gap.shape == shape[:1]
        out.sum().backward()
    assert ts.tvmax(torch.tensor([[2.0]])).tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda z: ts.tvmax(z, -0.1), ParameterError),
        (lambda z: ts.tvmax(z, "1"), ParameterError),
        (lambda z: ts.tvmax(z, tol=-1.0), ParameterError),
        (lambda z: ts.tvmax(z, max_iter=0), ParameterError),
        (lambda z: ts.tvmax(z, dim=-1), ShapeError),
        (lambda z: ts.tvmax(z, dim=(0, -2)), ShapeError),
        (lambda z: ts.tvmax(z, dim=(0, 5)), ShapeError),
        (lambda z: ts.tvmax(z[0]), ShapeError),
        (lambda z: ts.tvmax(z, torch.ones(3)), ShapeError),
        (lambda z: ts.tvmax(z, mask=torch.ones(3, 4)), ShapeError),
        (lambda z: ts.fusedmax(z, -0.1), ParameterError),
        (lambda z: ts.fusedmax(z, dim=(0, 1)), ShapeError),
    ],
)
def test_what_is_refused(call: Callable[[Tensor], object], error: type[Exception]) -> None:
    with pytest.raises(error, match="Expected"):
        call(GRID)


@pytest.mark.parametrize("mapping", [ts.fusedmax, ts.oscarmax, as_grid])
def test_nothing_that_gpus_refuse_to_do_deterministically(
    mapping: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `torch.use_deterministic_algorithms` cumsum raises there, but for integers."""
    cumsum = Tensor.cumsum

    def guarded(x: Tensor, *args: int) -> Tensor:
        assert not x.is_floating_point()
        return cumsum(x, *args)

    z = draw("normal", 3, 6)
    expected = mapping(z, 0.1)
    monkeypatch.setattr(Tensor, "cumsum", guarded)
    assert torch.equal(mapping(z.requires_grad_(), 0.1), expected)
    mapping(z, 0.1).square().sum().backward()


def test_modules() -> None:
    module = ts.nn.Fusedmax(lam=torch.nn.Parameter(torch.tensor(0.3)))
    z = torch.randn(3, 6)
    module(z).square().sum().backward()
    assert module.lam.grad is not None
    assert torch.equal(copy.deepcopy(module)(z), module(z))
    grid = ts.nn.Tvmax(lam=torch.nn.Parameter(torch.tensor(0.1)))
    image = torch.randn(2, 3, 4)
    mask = torch.rand(2, 3, 4) > 0.3
    grid(image, mask).square().sum().backward()
    assert grid.lam.grad.abs() > 0
    assert torch.equal(grid(image, mask), ts.tvmax(image, 0.1, mask=mask))
    assert set(grid.state_dict()) == {"lam"}
    assert "dim=(-2, -1)" in repr(ts.nn.Tvmax(0.5))
    assert torch.equal(copy.deepcopy(grid)(image), grid(image))
