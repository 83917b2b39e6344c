"""One file per mapping; importing the package registers them, in this order."""

from .entmax import entmax
from .softmax import softmax
from .sparsemax import sparsemax
from .entmax15 import entmax15
from .normmax import normmax
from .budget import budget
from .topk_sparsemax import topk_sparsemax

__all__ = ["budget", "entmax", "entmax15", "normmax", "softmax", "sparsemax", "topk_sparsemax"]
