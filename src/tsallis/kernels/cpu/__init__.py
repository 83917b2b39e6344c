"""Kernels in numba: one pass over a row where the reference takes many. Imported when first used, numba with them."""

from __future__ import annotations

import os
from functools import cache, partial
from importlib import import_module
from typing import Any

import torch

from ...core.dispatch import Kernel, Signature, add_kernel
from ..offers import missing, offer, reason_against

DTYPES = (torch.float32, torch.float64)
# Of `import tsallis`, not of the first call: a child of this process has none of torch's threads.
PROCESS = os.getpid()


@cache
def numba_missing() -> str | None:
    """None if numba can be imported."""
    if (reason := missing("numba")) is not None:
        return reason
    if import_module("numba").config.DISABLE_JIT:
        return "numba is told not to compile (NUMBA_DISABLE_JIT)"
    return None


def _supports(signature: Signature) -> str | None:
    if signature.device != "cpu":
        return f"for CPU, not {signature.device}"
    if signature.dtype not in DTYPES:
        return f"for float32 and float64, not {signature.dtype}"
    return reason_against(signature) or numba_missing()


def offer_all() -> None:
    """Add every kernel of this folder."""
    add = partial(offer, backend="cpu", priority=10, supports=_supports)
    add("sparsemax", module="calls", kind="Simplex", loss="Losses", alpha=2.0)
    add("entmax15", module="calls", kind="Simplex", loss="Losses", alpha=1.5)
    add("entmax", module="calls", kind="Simplex", loss="Losses", layer="OutputLayer", attention="Attention")
    add("normmax", module="calls", kind="Simplex", norm=True)
    add("budget", module="selection_calls", kind="Budget")
    add("topk_sparsemax", module="selection_calls", kind="Topk")
    add_kernel("sparsemap", Kernel("cpu", _rows_only, 10, _supports, active_set=_active_set))


def _rows_only(*_: Any) -> Any:
    raise NotImplementedError("structures are not rows")


@cache
def _active_set() -> Any:
    return import_module(".structured.calls", __package__).ActiveSet()
