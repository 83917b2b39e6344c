"""Whether a call may use several threads, and why not.

numba shares work through OpenMP or TBB, or through a queue of its own, which aborts the process if two Python threads
use it at once. OpenMP in turn cannot be used in a forked child of a process that has used it. Then one thread serves.
"""

from __future__ import annotations

import importlib
import os

import numba

_PROCESS = os.getpid()


def _available(layer: str) -> bool:
    try:
        importlib.import_module(f"numba.np.ufunc.{layer}pool")
    except ImportError:
        return False
    return True


def _layer() -> str:
    """The layer numba uses, or would."""
    wanted = numba.config.THREADING_LAYER  # pyright: ignore[reportAttributeAccessIssue]
    # It takes the first that is there, unless told otherwise.
    candidates = ("tbb", "omp") if wanted in ("default", "threadsafe", "safe") else (wanted,)
    return next((name for name in candidates if name in ("tbb", "omp") and _available(name)), "workqueue")


def layer() -> str:
    """The layer numba uses, or would."""
    try:
        return numba.threading_layer()
    except ValueError:
        return _layer()


def reason_against() -> str | None:
    """None if calls may be shared among threads."""
    if os.getpid() != _PROCESS:
        return "this is a forked process"
    if layer() == "workqueue":
        return "numba has neither OpenMP nor TBB here, and its own queue is not safe with several Python threads"
    return None
