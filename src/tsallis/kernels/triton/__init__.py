"""Kernels in Triton, for CUDA devices. Imported when first used, triton with them.

With TRITON_INTERPRET=1 in the environment before that they are interpreted, on tensors of the CPU too: for tests.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from ...core.dispatch import Kernel, Signature, add_kernel

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@cache
def triton_missing() -> str | None:
    """None if triton can be imported."""
    try:
        found = find_spec("triton") is not None
    except (ImportError, ValueError):
        # Somebody made it unavailable on purpose.
        found = False
    return None if found else "triton is not installed: pip install triton"


def _supports(signature: Signature) -> str | None:
    if signature.device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"for CUDA, not {signature.device}"
    if signature.device not in ("cuda", "cpu"):
        return f"for CUDA, or CPU in Triton's interpreter, not {signature.device}"
    if signature.dtype not in DTYPES:
        return f"for floating-point scores, not {signature.dtype}"
    if 0 in signature.shape:
        return "for at least one row and one entry"
    if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return "torch.jit.trace records operations of torch only"
    return triton_missing()


def offer(mapping: str, kind: str, **options: Any) -> None:
    """Add the kernel of a mapping: a class of `calls`."""

    @cache
    def make() -> Any:
        return getattr(import_module(".calls", __name__), kind)(**options)

    add_kernel(mapping, Kernel("triton", lambda z, *params: make()(z, *params), 5, _supports, make))


def offer_all() -> None:
    """Add every kernel of this folder."""
    offer("sparsemax", "Simplex", alpha=2.0)
    offer("entmax15", "Simplex", alpha=1.5)
    offer("entmax", "Simplex")
    offer("normmax", "Simplex", norm=True)
    offer("budget", "Budget")
    offer("topk_sparsemax", "Topk")
