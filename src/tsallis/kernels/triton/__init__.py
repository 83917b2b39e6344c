"""Kernels in Triton, for CUDA devices. Imported when first used, triton with them.

With TRITON_INTERPRET=1 in the environment before that they are interpreted, on tensors of the CPU too: for tests.
"""

from __future__ import annotations

import os
from functools import partial

import torch

from ...core.dispatch import Signature
from ..offers import missing, offer, reason_against

# The oldest that compiles every kernel; torch 2.8 brings it.
LEAST = (3, 4)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def triton_missing() -> str | None:
    """None where Triton is there and new enough."""
    return missing("triton", LEAST)


def _supports(signature: Signature) -> str | None:
    if signature.device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"for CUDA, not {signature.device}"
    if signature.device not in ("cuda", "cpu"):
        return f"for CUDA, or CPU in Triton's interpreter, not {signature.device}"
    if signature.dtype not in DTYPES:
        return f"for floating-point scores, not {signature.dtype}"
    return reason_against(signature) or triton_missing()


def offer_all() -> None:
    """Add every kernel of this folder."""
    add = partial(offer, backend="triton", priority=5, supports=_supports, module="calls")
    add("sparsemax", kind="Simplex", loss="Losses", alpha=2.0)
    add("entmax15", kind="Simplex", loss="Losses", alpha=1.5)
    add("entmax", kind="Simplex", loss="Losses", layer="OutputLayer", whole_attention="Attention")
    add("normmax", kind="Simplex", norm=True)
    add("budget", kind="Budget")
    add("topk_sparsemax", kind="Topk")
