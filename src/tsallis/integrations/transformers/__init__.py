"""Models of Hugging Face's transformers with sparse attention."""

from ...core.errors import TsallisError

try:
    import transformers as _
except ImportError as error:
    raise TsallisError(
        "No package transformers", "version 5 of it", "Run: pip install 'tsallis[transformers]'"
    ) from error

from .attention import register
from .model import alpha_parameters, alphas, sparsify

__all__ = ["alpha_parameters", "alphas", "register", "sparsify"]
