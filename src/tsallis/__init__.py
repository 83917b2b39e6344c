"""Sparse communication in neural networks: differentiable, learnable, exactly sparse replacements for softmax."""

from importlib.metadata import version as _version

from . import attention, decoding, integrations, latent, nn, structured
from .attention import entmax_attention
from .core.api import explain_backend, solve
from .core.registry import register
from .core.settings import debug_checks, use_backend
from .losses import entmax15_loss, entmax_loss, fenchel_young_loss, linear_entmax_loss, sparsemax_loss
from .mappings import budget, entmax, entmax15, fusedmax, normmax, oscarmax, softmax, sparsemax, topk_sparsemax, tvmax

__version__ = _version("tsallis")

__all__ = [
    "__version__",
    "attention",
    "budget",
    "debug_checks",
    "decoding",
    "entmax",
    "entmax15",
    "entmax15_loss",
    "entmax_attention",
    "entmax_loss",
    "explain_backend",
    "fenchel_young_loss",
    "fusedmax",
    "integrations",
    "latent",
    "linear_entmax_loss",
    "nn",
    "normmax",
    "oscarmax",
    "register",
    "softmax",
    "solve",
    "sparsemax",
    "sparsemax_loss",
    "structured",
    "topk_sparsemax",
    "tvmax",
    "use_backend",
]
