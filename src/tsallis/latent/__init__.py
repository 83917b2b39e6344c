"""Expectations over discrete latent variables, and their estimators."""

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
    "GumbelSoftmax",
    "Marginal",
    "MostProbable",
    "Problem",
    "ScoreFunction",
    "SparseMAP",
    "SparseMixer",
    "SumAndSample",
    "TopKSparsemax",
    "expectation",
    "sparsemixer",
]
