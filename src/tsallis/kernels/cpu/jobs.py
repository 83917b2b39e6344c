"""From tensors to jobs: addresses, strides, scratch memory, threads."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import torch

from .compiler import Entry
from .threads import reason_against, team

ONES = {torch.float32: np.float32(1), torch.float64: np.float64(1)}
# Below so many entries a second thread costs more than it saves; powers are worth it earlier.
FEW, FEW_POWERS = 8192, 4096


def chunks_of(rows: int, entries: int, few: int, threads: int) -> int:
    """How many of these threads share a call."""
    return min(threads, rows) if entries >= few and reason_against() is None else 1


def threads_for(rows: int, work: int) -> int:
    """The same for torch's number of threads and work that is cheap for each of its parts."""
    return chunks_of(rows, work, FEW, torch.get_num_threads())


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
