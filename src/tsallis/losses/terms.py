"""Terms of the generalised cross-entropy, and what happens in rows that have none."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.guard import debugging
from ..core.status import Outcome, Result


def existing(target: Tensor, classes: int, ignored: Tensor | None = None) -> Tensor:
    """Where a class index names a class; raises under `debug_checks` where one is neither that nor ignored."""
    fine = (target >= 0) & (target < classes)
    if debugging(target):
        bad = ~fine if ignored is None else ~fine & ~ignored
        raise_at(bad, Outcome.NO_SUCH_CLASS)
    return fine


def raise_at(bad: Tensor, outcome: Outcome) -> None:
    """Raise `NumericalError` with that outcome for the rows marked."""
    Result(torch.where(bad, outcome, Outcome.SUCCESS)).raise_if_failed()


def spoil(loss: Tensor, bad: Tensor) -> Tensor:
    """NaN in the rows marked, in value and gradient: where it is 0 the training would go on unawares."""
    return loss * torch.where(bad, torch.full_like(loss, torch.nan), 1.0)


def times(t: Tensor, excess: Tensor) -> Tensor:
    """t * excess, where a class without target mass may have an infinite excess (logit -inf)."""
    return t * torch.where((t == 0) & (excess == torch.inf), 0.0, excess)


def smoothing_term(excess: Tensor, weights: Tensor | None, amount: float) -> Tensor | float:
    """amount * sum_c q_c w_c excess_c with q uniform over the classes whose logit is not -inf."""
    if not amount:
        return 0.0
    possible = (excess.detach() < torch.inf).to(excess.dtype)
    q = possible / possible.sum(-1, keepdim=True).clamp_min(1)
    return amount * times(q if weights is None else q * weights, excess).sum(-1)


def indexed_terms(
    excess: Tensor, target: Tensor, ignored: Tensor, weights: Tensor | None, smooth: Tensor | float, amount: float
) -> Tensor:
    """The losses of class indices."""
    valid = existing(target, excess.shape[-1], ignored)
    index = torch.where(valid & ~ignored, target, 0).long()
    w = torch.ones_like(excess[..., 0]) if weights is None else weights[index]
    loss = times((1 - amount) * w, excess.gather(-1, index.unsqueeze(-1)).squeeze(-1)) + smooth
    return torch.where(ignored, 0.0, spoil(loss, ~valid & ~ignored))


def weight_of(target: Tensor, ignored: Tensor, weights: Tensor | None, rows: Tensor) -> Tensor:
    """What the mean of the losses of class indices divides by: the weights of all that are not ignored."""
    if weights is None:
        return (~ignored).sum().to(rows.dtype)
    known = (target >= 0) & (target < rows.shape[-1])
    return torch.where(ignored, 0.0, weights[torch.where(known & ~ignored, target, 0).long()]).sum()
