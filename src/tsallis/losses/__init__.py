"""Targets and options around Fenchel-Young losses."""

from .cross_entropy import entmax15_loss, entmax_loss, sparsemax_loss
from .fenchel_young import fenchel_young_loss
from .linear import linear_entmax_loss
from .linear_layer import LinearReport

__all__ = ["LinearReport", "entmax15_loss", "entmax_loss", "fenchel_young_loss", "linear_entmax_loss", "sparsemax_loss"]
