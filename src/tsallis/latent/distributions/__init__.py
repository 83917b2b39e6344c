"""Distributions with exact zeros, in the style of torch.distributions."""

from .base import FormulaError, SparseDistribution
from .bit_vector import SparseBitVector
from .bits import GaussianSparsemaxBit, HardConcrete, HardKuma
from .categorical import SparseCategorical
from .mixed_dirichlet import MixedDirichlet
from .rectified import Rectified
from .simplex import GaussianSparsemax, KDHardConcrete

__all__ = [
    "FormulaError",
    "GaussianSparsemax",
    "GaussianSparsemaxBit",
    "HardConcrete",
    "HardKuma",
    "KDHardConcrete",
    "MixedDirichlet",
    "Rectified",
    "SparseBitVector",
    "SparseCategorical",
    "SparseDistribution",
]
