"""Attention whose queries attend to few keys."""

from .functional import AttentionStats, entmax_attention

__all__ = ["AttentionStats", "entmax_attention"]
