"""What comes through the public door, checked once: numbers, scores, dim and mask."""

from __future__ import annotations

import numbers
from typing import TypeGuard

import torch
from torch import Tensor

from .errors import ParameterError, ShapeError

HALF = (torch.float16, torch.bfloat16)


def is_number(value: object) -> TypeGuard[float]:
    """Whether the value is a real Python number, or a scalar of numpy."""
    # Dynamo knows the first test only.
    return not isinstance(value, bool) if isinstance(value, int | float) else isinstance(value, numbers.Real)


def is_integer(value: object) -> TypeGuard[int]:
    """Whether the value is a Python integer, or one of numpy."""
    return not isinstance(value, bool) if isinstance(value, int) else isinstance(value, numbers.Integral)


def constant_alpha(alpha: object) -> float:
    """A number in [0, inf), also in a tensor that is not learned, as a float."""
    if isinstance(alpha, Tensor) and alpha.numel() == 1 and not alpha.requires_grad:
        alpha = alpha.item()
    if not (is_number(alpha) and 0 <= alpha < float("inf")):
        raise ParameterError(
            f"alpha={alpha!r}",
            "a number in [0, inf)",
            "Pass the alpha of the model",
        )
    return float(alpha)


def check_tensor(value: object, what: str) -> Tensor:
    """The value, if it is a tensor of a real dtype."""
    if not isinstance(value, Tensor):
        raise ShapeError(f"{what} of type {type(value).__name__}", "a torch.Tensor", "Pass torch.as_tensor(...)")
    if value.is_complex():
        raise ShapeError(f"{what} of dtype {value.dtype}", "a real dtype", "Pass its .real or .abs()")
    return value


def check_scores(z: object, what: str = "Scores") -> Tensor:
    """Scores with at least one dimension; integers and booleans become the default dtype."""
    z = check_tensor(z, what)
    if z.dim() == 0:
        raise ShapeError(f"{what} of shape ()", "at least one dimension", "Pass z.unsqueeze(0)")
    return z if z.is_floating_point() else z.to(torch.get_default_dtype())


def widened(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.float() if x.dtype in HALF else x


def check_dim(dim: object, z: Tensor) -> int:
    """A dimension of z."""
    if not is_integer(dim):
        raise ShapeError(f"dim={dim!r} of type {type(dim).__name__}", "one integer", "Name a single dimension")
    if not -z.dim() <= dim < z.dim():
        raise ShapeError(
            f"dim={dim} for scores of shape {tuple(z.shape)}",
            f"dim in [{-z.dim()}, {z.dim() - 1}]",
            "Choose another dim",
        )
    return int(dim)


def checked_mask(z: Tensor, mask: object) -> Tensor:
    """A boolean mask that broadcasts to z."""
    mask = check_tensor(mask, "mask")
    if mask.dtype != torch.bool:
        raise ShapeError(
            f"mask of dtype {mask.dtype}", "torch.bool, True = keep", "Pass mask.bool(), or add an additive mask to z"
        )
    if mask.device != z.device:
        raise ShapeError(
            f"mask on {mask.device} for scores on {z.device}", "both on one device", "Move the mask with .to()"
        )
    try:
        fits = torch.broadcast_shapes(mask.shape, z.shape) == z.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ShapeError(
            f"mask of shape {tuple(mask.shape)} for scores of shape {tuple(z.shape)}",
            "a mask that broadcasts to the scores",
            "Reshape it",
        )
    return mask


def masked(z: Tensor, mask: object) -> Tensor:
    """z with -inf where the mask is False."""
    return z.masked_fill(~checked_mask(z, mask), -torch.inf)
