"""Modules. ``ts.nn.Entmax`` and its kind are made from the registry: a mapping registered by anyone appears here by
itself.
"""

from ..core import registry as _registry
from .alignment import Alignment
from .alpha import Alpha
from .attention import MultiheadAttention, TransformerDecoderLayer, TransformerEncoderLayer
from .losses import EntmaxLoss, FenchelYoungLoss, LinearEntmaxLoss
from .mapping import MappingModule, Tvmax, module_class
from .seq2seq import Seq2Seq
from .seq2seq_lstm import LSTMSeq2Seq
from .seq2seq_transformer import TransformerSeq2Seq
from .structured_attention import MatchingAttention, SequenceAttention, StructuredAttention
from .watch import watch_heads

__all__ = [
    "Alignment",
    "Alpha",
    "EntmaxLoss",
    "FenchelYoungLoss",
    "LSTMSeq2Seq",
    "LinearEntmaxLoss",
    "MappingModule",
    "MatchingAttention",
    "MultiheadAttention",
    "Seq2Seq",
    "SequenceAttention",
    "StructuredAttention",
    "TransformerDecoderLayer",
    "TransformerEncoderLayer",
    "TransformerSeq2Seq",
    "Tvmax",
    "module_class",
    "watch_heads",
]


def _by_class_name() -> dict[str, str]:
    return {module_class(name).__name__: name for name in _registry.names()}


def __getattr__(name: str) -> type[MappingModule]:
    mapping = _by_class_name().get(name)
    if mapping is None:
        raise AttributeError(
            f"module 'tsallis.nn' has no attribute {name!r}; mappings here: {', '.join(_by_class_name())}"
        )
    return module_class(mapping)


def __dir__() -> list[str]:
    return sorted([*__all__, *_by_class_name()])
