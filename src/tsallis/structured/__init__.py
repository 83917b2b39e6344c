"""Sparse distributions over structures: sequences, matchings, trees, bits under logic."""

from .decompositions import comonotone, systematic
from .factor import Factor
from .graph import FactorGraph
from .k_best import TopStructures, k_best_bits, topk_sparsemax_bits
from .logic import AndOut, AtMostOne, Bits, Budget, Imply, Or, OrOut, Pair, Simplex, XorOut
from .loss import sparsemap_loss
from .matching import Matching
from .relaxation import GraphSolution
from .sequence import Sequence
from .sparsemap import StructuredSolution, sparsemap
from .tree import DependencyTree
from .variables import Attached, Variables

__all__ = [
    "AndOut",
    "AtMostOne",
    "Attached",
    "Bits",
    "Budget",
    "DependencyTree",
    "Factor",
    "FactorGraph",
    "GraphSolution",
    "Imply",
    "Matching",
    "Or",
    "OrOut",
    "Pair",
    "Sequence",
    "Simplex",
    "StructuredSolution",
    "TopStructures",
    "Variables",
    "XorOut",
    "comonotone",
    "k_best_bits",
    "sparsemap",
    "sparsemap_loss",
    "systematic",
    "topk_sparsemax_bits",
]
