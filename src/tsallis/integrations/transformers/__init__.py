"""Models of Hugging Face's transformers with sparse attention."""

from importlib.util import find_spec

from ...core.errors import TsallisError

if find_spec("transformers") is None:
    raise TsallisError("No package transformers", "version 5 of it", "Run: pip install 'tsallis[transformers]'")

from .attention import Seen, register, seen_weights
from .cache import PagedKeyValues
from .generation import EntmaxLogitsProcessor, generation_options
from .model import alpha_parameters, alphas, sparsify
from .search import CertifiedOutput, certified_search
from .training import TrainerLoss, check_trainer, trainer_loss

__all__ = [
    "CertifiedOutput",
    "EntmaxLogitsProcessor",
    "PagedKeyValues",
    "Seen",
    "TrainerLoss",
    "alpha_parameters",
    "alphas",
    "certified_search",
    "check_trainer",
    "generation_options",
    "register",
    "seen_weights",
    "sparsify",
    "trainer_loss",
]
