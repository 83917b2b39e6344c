"""Where the rows of several tensors lie, as a few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

# Leading dimensions that step differently.
GROUPS = 3


def rows_last(t: Tensor, dim: int) -> Tensor:
    """The tensor with its rows in the last dimension."""
    return t if dim == t.dim() - 1 else t.movedim(dim, -1)


def merge(sizes: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Leading dimensions, united where every tensor steps through two of them as through one."""
    kept: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for i, size in enumerate(sizes):
        if size == 1:
            continue
        if kept and all(s[-1] == t[i] * size for s, t in zip(steps, strides, strict=True)):
            kept[-1] *= size
            for s, t in zip(steps, strides, strict=True):
                s[-1] = t[i]
        else:
            kept.append(size)
            for s, t in zip(steps, strides, strict=True):
                s.append(t[i])
    return kept, steps


def layout(scores: Tensor, result: Tensor, mask: Tensor | None, *params: Tensor | None) -> tuple[int, ...] | None:
    """N1, N2 and the strides of tensors with rows in the last dimension, as jobs list them (missing tensors have
    zeros); None if their leading dimensions are more than a job can hold.
    """
    lead = scores.shape[:-1]
    views = [None if t is None else t.expand(*lead, t.shape[-1]) for t in (scores, result, mask, *params)]
    sizes, steps = merge(lead, [[0] * len(lead) if v is None else v.stride()[:-1] for v in views])
    missing = GROUPS - len(sizes)
    if missing < 0:
        return None
    fields = ([1] * missing + sizes)[1:]
    for i, (view, step) in enumerate(zip(views, steps, strict=True)):
        fields += [0] * missing + step
        if i < 3:
            fields.append(0 if view is None else view.stride(-1))
    return tuple(fields)


def laid_out(z: Tensor, p: Tensor, dim: int, mask: Tensor | None, *params: Tensor | None) -> tuple[Any, ...]:
    """(z, mask, *params, strides of the job), copied only if their strides are more than a job can hold."""
    x, q = rows_last(z, dim), rows_last(p, dim)
    mask = None if mask is None else rows_last(mask.expand(z.shape), dim)
    strides = layout(x, q, mask, *params)
    if strides is None:
        x = x.contiguous()
        mask = None if mask is None else mask.contiguous()
        params = tuple(None if t is None else t.expand(*x.shape[:-1], 1).contiguous() for t in params)
        strides = layout(x, q, mask, *params)
    return x, mask, *params, strides
