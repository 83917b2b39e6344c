"""Kernels in numba: one pass over a row where the reference takes many. Imported when first used, numba with them."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from ...core.dispatch import Kernel, Signature, add_kernel

DTYPES = (torch.float32, torch.float64)
# Of `import tsallis`, not of the first call: a child of this process has none of torch's threads.
PROCESS = os.getpid()


@cache
def numba_missing() -> str | None:
    """None if numba can be imported."""
    try:
        found = find_spec("numba") is not None
        if found and import_module("numba").config.DISABLE_JIT:
            return "numba is told not to compile (NUMBA_DISABLE_JIT)"
    except (ImportError, ValueError):
        # Somebody made it unavailable on purpose.
        found = False
    return None if found else "numba is not installed: pip install numba"


def _supports(signature: Signature) -> str | None:
    if signature.device != "cpu":
        return f"for CPU, not {signature.device}"
    if signature.dtype not in DTYPES:
        return f"for float32 and float64, not {signature.dtype}"
    if 0 in signature.shape:
        return "for at least one row and one entry"
    if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return "torch.jit.trace records operations of torch only"
    return numba_missing()


def offer(mapping: str, module: str, kind: str, **options: Any) -> None:
    """Add the kernel of a mapping: a class in a module of this folder, imported when first used."""

    @cache
    def make() -> Any:
        return getattr(import_module(f".{module}", __name__), kind)(**options)

    add_kernel(mapping, Kernel("cpu", lambda z, *params: make()(z, *params), 10, _supports, make))


def offer_all() -> None:
    """Add every kernel of this folder."""
    offer("sparsemax", "calls", "Simplex", alpha=2.0)
    offer("entmax15", "calls", "Simplex", alpha=1.5)
    offer("entmax", "calls", "Simplex")
    offer("normmax", "calls", "Simplex", norm=True)
    offer("budget", "selection_calls", "Budget")
    offer("topk_sparsemax", "selection_calls", "Topk")
