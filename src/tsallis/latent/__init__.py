"""Expectations over discrete latent variables, and their estimators."""

from .estimators import Estimator, Marginal
from .expectation import Expectation, expectation

__all__ = ["Estimator", "Expectation", "Marginal", "expectation"]
