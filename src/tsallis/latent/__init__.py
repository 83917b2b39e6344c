"""Expectations over discrete latent variables, their estimators, and distributions with exact zeros."""

from .distributions import (
    FormulaError,
    GaussianSparsemax,
    GaussianSparsemaxBit,
    HardConcrete,
    HardKuma,
    KDHardConcrete,
    MixedDirichlet,
    Rectified,
    SparseBitVector,
    SparseCategorical,
    SparseDistribution,
)
from .estimators import Estimator, Marginal
from .expectation import Expectation, expectation

__all__ = [
    "Estimator",
    "Expectation",
    "FormulaError",
    "GaussianSparsemax",
    "GaussianSparsemaxBit",
    "HardConcrete",
    "HardKuma",
    "KDHardConcrete",
    "Marginal",
    "MixedDirichlet",
    "Rectified",
    "SparseBitVector",
    "SparseCategorical",
    "SparseDistribution",
    "expectation",
]
