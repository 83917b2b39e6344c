"""Targets, weights and reductions with the semantics of `torch.nn.functional.cross_entropy`."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..core.errors import ParameterError, ShapeError
from ..core.inputs import check_scores, check_tensor, constant_alpha, is_integer, is_number

Reduction = Literal["mean", "sum", "none"]


def reduce(loss: Tensor, reduction: str, count: Tensor | int | None = None) -> Tensor:
    """Mean over `count` (default: all losses; over none it is NaN), sum, or as it is."""
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction == "mean":
        return loss.mean() if count is None else loss.sum() / count
    raise ParameterError(f"reduction={reduction!r}", "'mean', 'sum' or 'none'", "Pass one of them")


def class_rows(z: object) -> Tensor:
    """Logits (C), (N, C) or (N, C, d1, ...) with the class dimension last, in at least float32."""
    z = check_scores(z, "Logits")
    if z.dtype in (torch.float16, torch.bfloat16):
        z = z.float()
    return some_class(z.movedim(1, -1) if z.dim() > 1 else z)


def some_class(rows: Tensor) -> Tensor:
    """The rows, if there is anything to choose from in them."""
    if rows.shape[-1] == 0:
        raise ShapeError(f"Scores of shape {tuple(rows.shape)}, classes last", "at least one class", "Check dim")
    return rows


def fixed_alpha(alpha: object) -> float:
    """A number above 0: a loss cannot choose its own alpha."""
    if isinstance(alpha, nn.Module):
        learned = any(p.requires_grad for p in alpha.parameters())
        alpha = alpha if learned else alpha().detach()
    if isinstance(alpha, nn.Module) or (
        alpha.requires_grad if isinstance(alpha, Tensor) else isinstance(alpha, str) and alpha == "learn"
    ):
        raise ParameterError(
            "an alpha of a loss that is learned", "a number: the loss falls as alpha rises, whatever the scores are",
            "Choose it by what the model is for; alphas of attention can be learned",
        )  # fmt: skip
    number = constant_alpha(alpha)
    if not number:
        raise ParameterError("alpha=0", "a number above 0: at 0 the loss is not finite", "Pass 1 for cross-entropy")
    return number


def smoothing_amount(label_smoothing: object) -> float:
    """A checked number in [0, 1]."""
    if not is_number(label_smoothing) or not 0 <= label_smoothing <= 1:
        raise ParameterError(f"label_smoothing={label_smoothing!r}", "a number in [0, 1]", "Choose one inside")
    return float(label_smoothing)


def checked_index(ignore_index: object) -> int:
    """A checked integer."""
    if not is_integer(ignore_index):
        raise ParameterError(f"ignore_index={ignore_index!r}", "an integer", "Choose an integer that is no class")
    return int(ignore_index)


def is_index(target: object, rows: Tensor) -> bool:
    """Whether a target holds class indices (True) or probabilities (False); raises if its shape fits neither."""
    target = check_tensor(target, "Target")
    # Probabilities have the logits' own shape, with the class dimension where the logits have it.
    batch = tuple(rows.shape[:-1])
    probabilities = (*batch[:1], rows.shape[-1], *batch[1:]) if batch else tuple(rows.shape)
    if target.is_floating_point():
        if tuple(target.shape) != probabilities:
            raise ShapeError(
                f"Probability target of shape {tuple(target.shape)}",
                f"the logits' shape {probabilities}",
                "Pass one probability per class",
            )
        return False
    if tuple(target.shape) != batch:
        raise ShapeError(
            f"Class-index target of shape {tuple(target.shape)}",
            f"{batch}, the logits without their class dimension",
            "Reshape it",
        )
    return True


def class_weights(weight: object, rows: Tensor) -> Tensor | None:
    """Checked class weights in the logits' precision."""
    if weight is None:
        return None
    weight = check_tensor(weight, "weight")
    if tuple(weight.shape) != (rows.shape[-1],):
        raise ShapeError(
            f"weight of shape {tuple(weight.shape)}", f"({rows.shape[-1]},), one per class", "Pass one weight per class"
        )
    return weight.to(rows.dtype)


def row_parameter(value: float | Tensor, rows: Tensor, name: str) -> float | Tensor:
    """A parameter given as number, scalar, or one value per target, aligned with rows."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    if tuple(value.shape) != tuple(rows.shape[:-1]):
        raise ShapeError(
            f"{name} of shape {tuple(value.shape)}",
            f"a scalar or the target's shape {tuple(rows.shape[:-1])}",
            f"Expand {name} to one value per target",
        )
    return value.unsqueeze(-1)
