"""One file per mapping; importing the package registers them."""

from ..kernels import cpu, native, triton
from .budget import budget
from .entmax import entmax
from .entmax15 import entmax15
from .normmax import normmax
from .softmax import softmax
from .sparsemax import sparsemax
from .topk_sparsemax import topk_sparsemax

cpu.offer_all()
triton.offer_all()
native.offer_all()

__all__ = ["budget", "entmax", "entmax15", "normmax", "softmax", "sparsemax", "topk_sparsemax"]
