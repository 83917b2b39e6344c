"""From tensors to jobs: addresses, strides, scratch memory, threads."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .compiler import Entry
from .threads import reason_against, team

ONES = {torch.float32: np.float32(1), torch.float64: np.float64(1)}
# Below so many entries a second thread costs more than it saves; powers are worth it earlier.
FEW, FEW_POWERS = 8192, 4096
GROUPS = 3


def chunks_of(rows: int, entries: int, few: int, threads: int) -> int:
    """How many of these threads share a call."""
    return min(threads, rows) if entries >= few and reason_against() is None else 1


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
    """N1, N2 and the strides of tensors with rows in the last dimension, as a job lists them (missing tensors have
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


def run(
    entry: Entry, job: Sequence[int], value: float, other: float, dtype: torch.dtype, rows: int, chunks: int
) -> None:
    """Do the job."""
    packed = array("q", job)
    address = packed.buffer_info()[0]
    # A plan made before a fork may speak of threads that are gone.
    if chunks > 1 and (threads := team()) is not None:
        entry.parallel(threads, address, value, other, ONES[dtype], rows, chunks)
    else:
        entry.serial(address, value, other, ONES[dtype], 0, rows, 0)
