"""One file per mapping; importing the package registers them."""

from ..kernels import cpu, native, triton
from .budget import budget
from .entmax import entmax
from .entmax15 import entmax15
from .fusedmax import fusedmax
from .grids import TvmaxReport, tvmax
from .normmax import normmax
from .oscarmax import oscarmax
from .softmax import softmax
from .sparsemax import sparsemax
from .topk_sparsemax import topk_sparsemax

cpu.offer_all()
triton.offer_all()
native.offer_all()

__all__ = [
    "TvmaxReport",
    "budget",
    "entmax",
    "entmax15",
    "fusedmax",
    "normmax",
    "oscarmax",
    "softmax",
    "sparsemax",
    "topk_sparsemax",
    "tvmax",
]
