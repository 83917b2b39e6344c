"""Triton's kernels on a GPU where there is one, else in its interpreter on the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from tsallis.core import dispatch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module")
def triton_kernels() -> Iterator[None]:
    """Have them serve calls on DEVICE."""
    before = os.environ.get("TRITON_INTERPRET")
    if DEVICE == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    dispatch._FUSED.clear()
    yield
    if before is None:
        os.environ.pop("TRITON_INTERPRET", None)
    dispatch._FUSED.clear()
