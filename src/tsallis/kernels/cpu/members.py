"""The members of the family in the words of these kernels."""

from __future__ import annotations

from ..members import compiled_with
from . import arithmetic, powers
from .compiler import device
from .simd import INF

members = compiled_with(
    {
        "choose": arithmetic.choose,
        "greater": arithmetic.greater,
        "like": arithmetic.like,
        "root": arithmetic.root,
        "log2": powers.log2,
        "log2_1p": powers.log2_1p,
        "exp2": powers.exp2,
        "lost": arithmetic.lost,
        "psi_series": powers.psi_series,
        "INF": INF,
    },
    device,
)
# Compiled code looks names up in modules only.
accelerate = members.accelerate
tsallis_log, tsallis_log_slope = members.tsallis_log, members.tsallis_log_slope
