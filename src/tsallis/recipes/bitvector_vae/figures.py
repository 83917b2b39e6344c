"""Plots of the bit-vector VAE."""

from __future__ import annotations

from .._shared.runs import Run


def figures(runs: list[Run]) -> dict:
    return {}
