"""Models of Hugging Face's transformers with sparse attention."""

from importlib.util import find_spec

from ...core.errors import TsallisError

if find_spec("transformers") is None:
    raise TsallisError("No package transformers", "version 5 of it", "Run: pip install 'tsallis[transformers]'")

from .attention import Seen, register, seen_weights
from .cache import PagedKeyValues
from .model import alpha_parameters, alphas, sparsify

__all__ = ["PagedKeyValues", "Seen", "alpha_parameters", "alphas", "register", "seen_weights", "sparsify"]
