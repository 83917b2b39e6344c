"""The model of inflection."""

from __future__ import annotations

from ...nn import LSTMSeq2Seq
from .config import Config

# Where a run keeps what its numbers stand for.
VOCABULARIES = "vocabularies.json"


def build(config: Config, source: int, target: int) -> LSTMSeq2Seq:
    """The model of a configuration, for vocabularies of these sizes."""
    return LSTMSeq2Seq(
        source, target, width=config.width, layers=config.layers, dropout=config.dropout,
        attention_alpha=config.attention, output_alpha=config.output, label_smoothing=config.label_smoothing,
    )  # fmt: skip
