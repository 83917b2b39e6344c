"""Attention whose queries attend to few keys, and what heads do."""

from .analysis import HeadReport, HeadStatistics
from .functional import AttentionStats, entmax_attention

__all__ = ["AttentionStats", "HeadReport", "HeadStatistics", "entmax_attention"]
