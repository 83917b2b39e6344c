"""Searches that say what they have proved, and draws from sparse sequence models."""

from . import metrics
from .beam import Decoded, beam_search
from .certificates import Certificate, Status
from .exact import exact_search
from .logarithms import log_entmax
from .plots import plot_alignment, plot_tree
from .sampling import sample
from .steps import Hypothesis, Joinable, Selectable
from .trees import Tree, tree

__all__ = [
    "Certificate",
    "Decoded",
    "Hypothesis",
    "Joinable",
    "Selectable",
    "Status",
    "Tree",
    "beam_search",
    "exact_search",
    "log_entmax",
    "metrics",
    "plot_alignment",
    "plot_tree",
    "sample",
    "tree",
]
