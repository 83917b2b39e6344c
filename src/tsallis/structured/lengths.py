"""Lengths of the items of a padded batch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import ParameterError, ShapeError
from ..core.inputs import check_tensor


def checked_lengths(lengths: object, batch: int, longest: int, like: Tensor) -> Tensor:
    """(B) lengths of items, on the device of the scores: a copy, which kernels read again for gradients."""
    found = check_tensor(lengths, "lengths")
    if tuple(found.shape) != (batch,) or found.is_floating_point() or found.dtype == torch.bool:
        raise ShapeError(f"lengths of shape {tuple(found.shape)}, {found.dtype}", f"({batch},) integers", "Pass those")
    if batch and not 0 <= int(found.min()) <= int(found.max()) <= longest:
        raise ParameterError(
            f"lengths from {int(found.min())} to {int(found.max())}", f"0 to {longest}", "Correct them"
        )
    return found.to(like.device, torch.int64, copy=True).contiguous()
