"""TVmax: fusedmax on a grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, overload

import torch
from jaxtyping import Float, Num
from torch import Tensor
from torch.autograd.forward_ad import _set_fwd_grad_enabled

from ...core.errors import ParameterError, ShapeError
from ...core.guard import debugging, row_outcomes
from ...core.inputs import check_dim, check_scores, is_integer, is_number, masked
from ...core.numerics import compute_dtype
from ...core.params import as_rows
from ...core.status import Outcome, Result
from ...kernels.reference.grid import grid
from ...kernels.reference.variation import Fused, group_means, held
from ..fusedmax import FUSEDMAX
from ..sparsemax import SPARSEMAX

LAM = FUSEDMAX.params


@dataclass(frozen=True)
class TvmaxReport:
    """What certifies the result of `tvmax`, each (...), the shape of z without its grid.

    Attributes:
        gap: how far the objective of the denoised scores x may be from the optimum: |p - p*|^2 <= |x - x*|^2 <= 2 gap.
            In float64; NaN where there is no result.
        iterations: how often rows and columns were solved in turn.
        result: what happened.
    """

    gap: Tensor
    iterations: Tensor
    result: Result


@overload
def tvmax(
    z: Num[Tensor, "*shape"],
    lam: float | Num[Tensor, ...] = 1.0,
    dim: tuple[int, int] = (-2, -1),
    *,
    mask: Tensor | None = None,
    tol: float = 1e-12,
    max_iter: int = 1000,
    return_report: Literal[False] = False,
) -> Float[Tensor, "*shape"]: ...


@overload
def tvmax(
    z: Num[Tensor, "*shape"],
    lam: float | Num[Tensor, ...] = 1.0,
    dim: tuple[int, int] = (-2, -1),
    *,
    mask: Tensor | None = None,
    tol: float = 1e-12,
    max_iter: int = 1000,
    return_report: Literal[True],
) -> tuple[Float[Tensor, "*shape"], TvmaxReport]: ...


def tvmax(
    z: Num[Tensor, "*shape"],
    lam: float | Num[Tensor, ...] = 1.0,
    dim: tuple[int, int] = (-2, -1),
    *,
    mask: Tensor | None = None,
    tol: float = 1e-12,
    max_iter: int = 1000,
    return_report: bool = False,
) -> Float[Tensor, "*shape"] | tuple[Float[Tensor, "*shape"], TvmaxReport]:
    r"""`fusedmax` on a grid: sparsemax that selects regions of an image.

    $$p = \arg\max_{p \in \triangle} \langle p, z \rangle - \tfrac12 (\|p\|_2^2 - 1) - \lambda \sum_{i \sim j} |p_i -
    p_j|$$

    over pairs of horizontal and vertical neighbours: sparsemax of the scores denoised by total variation.

    Args:
        z: scores, (..., H, W) with the grid at `dim`. Integers are promoted to the default dtype.
        lam: in [0, inf). A number, or a tensor that broadcasts to z with size 1 at both dimensions, with gradient.
        dim: the two dimensions of the grid, over which p sums to one.
        mask: boolean, broadcastable to z, True = keep. Other entries are never read and get probability 0; they are
            nobody's neighbours. A grid without a kept entry is all zero.
        tol: the duality gap at which an item is done; that of rounding where it is larger.
        max_iter: rows and columns are solved at most so often.
        return_report: whether to return a `TvmaxReport` too.

    Returns:
        p, with the shape and dtype of z, computed in float64; with return_report also what certifies it. A grid with a
        NaN, a +inf or an inadmissible lam is NaN; others are untouched.

    Raises:
        ParameterError: a Python lam < 0 or not finite, or tol or max_iter that cannot be.
        ShapeError: dims that are no two dimensions of z, or lam or mask that do not broadcast.

    Differentiability:
        any order in z and lam, forward and reverse mode, as that of `fusedmax`; the second derivative is zero almost
        everywhere. Inside `torch.vmap` and as one graph of `torch.compile` it does not work: it looks at values to end.

    Complexity:
        per iteration that of `fusedmax` for all rows and all columns. Some 20 to 120 iterations for grids of up to
        64 x 64.

    Example:
        >>> import torch, tsallis as ts
        >>> z = torch.tensor([[0.9, 0.8, 0.1, -0.2], [0.7, 1.0, 0.2, -0.4], [-0.3, 0.1, 0.6, 0.5]])
        >>> ts.tvmax(z, lam=0.05)
        tensor([[0.2667, 0.2667, 0.0000, 0.0000],
                [0.2000, 0.2667, 0.0000, 0.0000],
                [0.0000, 0.0000, 0.0000, 0.0000]])

    References:
        martins2021tvmax, niculae2017regularized
    """
    if not is_number(tol) or not tol >= 0:
        raise ParameterError(f"tol={tol!r}", "a number, 0 or more", "Choose one")
    if not is_integer(max_iter) or max_iter < 1:
        raise ParameterError(f"max_iter={max_iter!r}", "a whole number, 1 at least", "Choose one")
    z = check_scores(z)
    dims = _checked(dim, z)
    laid = (z if mask is None else masked(z, mask)).movedim(dims, (-2, -1))
    rows = laid.flatten(-2).to(compute_dtype(z))
    price = as_rows(LAM[0], _flattened(lam, dims, z), rows, -1).to(rows.dtype)
    x, report = _denoised(rows, price, laid.shape[-2:], float(tol), int(max_iter))
    if debugging(rows):
        report.result.raise_if_failed()
    p = SPARSEMAX(x).to(z.dtype).reshape(laid.shape).movedim((-2, -1), dims)
    return (p, report) if return_report else p


def _checked(dim: object, z: Tensor) -> tuple[int, int]:
    if not isinstance(dim, tuple | list) or len(dim) != 2:
        raise ShapeError(f"dim={dim!r}", "two dimensions", "Name those of the grid; fusedmax takes one")
    first, second = (check_dim(d, z) % z.dim() for d in dim)
    if first == second:
        raise ShapeError(f"dim={dim!r} for scores of shape {tuple(z.shape)}", "two different ones", "Choose another")
    return first, second


def _flattened(lam: object, dims: tuple[int, int], z: Tensor) -> object:
    """A tensor with its grid moved last and made one dimension, for rows of grids."""
    if not isinstance(lam, Tensor) or not lam.dim():
        return lam
    padded = lam.reshape((1,) * (z.dim() - lam.dim()) + tuple(lam.shape))
    if padded.dim() != z.dim() or any(padded.shape[d] != 1 for d in dims):
        raise ShapeError(
            f"lam of shape {tuple(lam.shape)} for scores of shape {tuple(z.shape)} and dim={dims}",
            "a shape that broadcasts to the scores with size 1 at both", "Insert dimensions of size 1",
        )  # fmt: skip
    return padded.movedim(dims, (-2, -1)).flatten(-2)


def _denoised(rows: Tensor, lam: Tensor, shape: torch.Size, tol: float, max_iter: int) -> tuple[Tensor, TvmaxReport]:
    """The proximal point of grids in rows, a linear function of rows and lam on groups that stay, and its report."""
    lam = lam.expand(*rows.shape[:-1], 1)
    batch = rows.shape[:-1]
    with torch.no_grad(), _set_fwd_grad_enabled(False):
        code = row_outcomes(LAM, rows, (lam,))
        fine = code == Outcome.SUCCESS
        found = None
        if rows.numel():
            price = torch.where(fine, lam, 0.0).reshape(-1, 1, 1)
            found = grid(torch.where(fine, rows, 0.0).reshape(-1, *shape), price, tol, max_iter)
    if found is None:
        zeros = rows.new_zeros(batch)
        return rows, TvmaxReport(zeros, zeros.long(), Result(code.squeeze(-1)))
    point, group, pull = held(Fused(*(t.reshape(rows.shape) for t in found.fused)), lam)
    kept = fine & (rows > -torch.inf)
    moved = torch.where(kept, rows - rows.detach(), 0.0) - torch.where(fine, lam - lam.detach(), 0.0) * pull
    # A bad grid stays attached to what made it so; one without entries is -inf, as it came.
    bad = rows * torch.where(fine | (code == Outcome.FULLY_MASKED), 1.0, torch.nan)
    x = torch.where(fine, point + torch.where(kept, group_means(moved, group), 0.0), bad)
    done = found.done.reshape(batch)
    code = code.squeeze(-1)
    code = torch.where(done | (code != Outcome.SUCCESS), code, int(Outcome.GAP_LEFT)).to(torch.int8)
    gap = torch.where(code == Outcome.FULLY_MASKED, 0.0, torch.where(fine[..., 0], found.gap.reshape(batch), torch.nan))
    return x, TvmaxReport(gap.double(), found.iterations.reshape(batch), Result(code))
