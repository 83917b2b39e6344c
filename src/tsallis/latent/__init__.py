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
from .estimators import Estimate, Estimator, Problem
from .expectation import Expectation, expectation
from .marginal import Marginal
from .most_probable import MostProbable
from .relaxed import GumbelSoftmax, SparseMixer, sparsemixer
from .score_function import NVIL, ScoreFunction
from .structures import SparseMAP, TopKSparsemax
from .sum_and_sample import SumAndSample

__all__ = [
    "NVIL",
    "Estimate",
    "Estimator",
    "Expectation",
    "FormulaError",
    "GaussianSparsemax",
    "GaussianSparsemaxBit",
    "GumbelSoftmax",
    "HardConcrete",
    "HardKuma",
    "KDHardConcrete",
    "Marginal",
    "MixedDirichlet",
    "MostProbable",
    "Problem",
    "Rectified",
    "ScoreFunction",
    "SparseBitVector",
    "SparseCategorical",
    "SparseDistribution",
    "SparseMAP",
    "SparseMixer",
    "SumAndSample",
    "TopKSparsemax",
    "expectation",
    "sparsemixer",
]
