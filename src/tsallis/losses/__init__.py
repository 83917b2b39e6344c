"""Targets and options around Fenchel-Young losses."""

from .cross_entropy import entmax15_loss, entmax_loss, sparsemax_loss
from .fenchel_young import fenchel_young_loss

__all__ = ["entmax15_loss", "entmax_loss", "fenchel_young_loss", "sparsemax_loss"]
