"""How functions become machine code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit, prange

# Sums may not be re-associated, NaN and infinities mean what they are: other flags fold tests for them to False.
FASTMATH = {"contract", "arcp", "nsz", "afn"}
OPTIONS: dict[str, Any] = {"fastmath": FASTMATH, "error_model": "numpy", "nogil": True}
PACKS = True
device = njit(**OPTIONS)


class Entry:
    """A kernel (job, value, other, one, first, last, chunk), on one thread or on several."""

    def __init__(self, function: Callable[..., None]) -> None:
        serial = njit(**OPTIONS)(function)

        def shared(job, value, other, one, rows, chunks):
            for c in prange(chunks):
                serial(job, value, other, one, rows * c // chunks, rows * (c + 1) // chunks, c)

        self.serial = serial
        self.parallel = njit(**OPTIONS, parallel=True)(shared)


def entry(function: Callable[..., None]) -> Entry:
    return Entry(function)
