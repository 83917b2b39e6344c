"""The SparseMAP loss: structured prediction with a margin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ..core.errors import ParameterError, ShapeError
from ..core.inputs import check_tensor
from .factor import Factor, Scores
from .sparsemap import StructuredSolution, solution, sparsemap


class _Bend(torch.autograd.Function):
    """Zeros (B) whose derivative by scores is zero, and the second one that of marginals.

    The gradient of the loss needs the marginals alone; how they move, which takes much longer to find out, is found out
    where a gradient is differentiated.
    """

    @staticmethod
    def forward(unary: Tensor, additional: Tensor, again: Callable[[Tensor, Tensor], StructuredSolution]) -> Tensor:
        return unary.new_zeros(len(unary))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        unary, additional, ctx.again = inputs
        ctx.save_for_backward(unary, additional)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if not torch.is_grad_enabled():
            return None, None, None
        found = ctx.again(*ctx.saved_tensors)
        g = grads[0][:, None]
        return *(g * (mu - mu.detach()) for mu in (found.marginals.flatten(1), found.pairs)), None


def sparsemap_loss(
    factor: Factor,
    scores: Tensor,
    target: Tensor,
    additional: Tensor | None = None,
    *,
    target_pairs: Tensor | None = None,
    reduction: Literal["none", "mean", "sum"] = "mean",
    **options: Any,
) -> Tensor:
    r"""The Fenchel-Young loss of SparseMAP, with marginals mu of the variables and nu of their pairs:

    $$L(x, y; t) = \max_{(\mu, \nu)} \left[\langle x, \mu \rangle + \langle y, \nu \rangle - \tfrac12 \|\mu\|^2\right]
    - \langle x, \mu_t \rangle - \langle y, \nu_t \rangle + \tfrac12 \|\mu_t\|^2$$

    It is 0 iff the target's score exceeds that of every structure s by $\|\mu_t\|^2 - \langle \mu_t, \mu_s \rangle$, or
    more: where all structures have as many variables on, by half the number of variables that differ.

    Args:
        factor: the set of structures.
        scores: (B, *natural) of variables.
        target: (B, *natural) the right structures, or marginals.
        additional: scores of pairs of variables, as in `sparsemap`.
        target_pairs: (B, e) of the target; None for those that follow from a structure.
        reduction: "mean" and "sum" are over items.
        options: lengths, max_iter and tol of `sparsemap`.

    Returns:
        the loss, (B) without reduction. NaN where `sparsemap` has no result; where max_iter ended it, up to the gap
        too small.

    Raises:
        ShapeError, ParameterError: as in `sparsemap`, and for targets of another shape.

    Differentiability:
        any order in scores: the gradient is mu - mu_t, of the marginals that the loss was computed with; the second
        derivative that of mu, looked for where a gradient is differentiated.

    Complexity:
        as `sparsemap`.

    Example:
        >>> import torch
        >>> from tsallis.structured import Simplex, sparsemap_loss
        >>> sparsemap_loss(Simplex(3), torch.tensor([[1.5, 0.0, -1.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
        tensor(0.)

    References:
        niculae2018sparsemap, blondel2020learning
    """
    if reduction not in ("none", "mean", "sum"):
        raise ParameterError(f"reduction={reduction!r}", '"none", "mean" or "sum"', "Choose one")
    x = check_tensor(scores, "scores")
    t = check_tensor(target, "target")
    if tuple(t.shape) != tuple(x.shape):
        raise ShapeError(f"target of shape {tuple(t.shape)}", f"{tuple(x.shape)}, that of the scores", "Reshape it")
    given = factor.flat(x, additional, options.get("lengths"))
    # What a target has behind its length is padding.
    mu_t = factor.inside(t.reshape(len(t), factor.variables).double(), given.lengths)
    nu_t = factor.pairs(mu_t)
    if target_pairs is not None:
        nu_t = check_tensor(target_pairs, "target_pairs").double()
        if tuple(nu_t.shape) != (len(t), factor.additional):
            raise ShapeError(
                f"target_pairs of shape {tuple(nu_t.shape)}", f"{(len(t), factor.additional)}", "Reshape them"
            )
    with torch.no_grad():
        found = sparsemap(factor, x.double(), None if additional is None else additional.double(), **options)

    def again(unary: Tensor, pairs: Tensor) -> StructuredSolution:
        own = {"max_iter": options.get("max_iter", 1000), "tol": options.get("tol", 1e-9)}
        return solution(factor, Scores(unary, pairs, given.lengths), unary, **own, init=found)

    unary = (given.unary + factor.shift) / factor.spread
    mu, nu = found.marginals.flatten(1), found.pairs
    value = _inner(unary, mu - mu_t) + _inner(given.additional / factor.spread, nu - nu_t)
    value = factor.spread * (value - (mu.square().sum(-1) - mu_t.square().sum(-1)) / 2)
    value = value + _Bend.apply(given.unary, given.additional, again)
    value = value.to(x.dtype if x.is_floating_point() else torch.get_default_dtype())
    return value if reduction == "none" else value.mean() if reduction == "mean" else value.sum()


def _inner(x: Tensor, step: Tensor) -> Tensor:
    """<x, mu - mu_t>; infinite where the target has what is ruled out."""
    out = x == -torch.inf
    value = (torch.where(out, 0.0, x) * step).sum(-1)
    return torch.where((out & (step < 0)).any(-1), torch.inf, value)
