"""Attention whose queries attend to few keys, and what heads do."""

from .analysis import HeadReport, HeadStatistics
from .functional import AttentionStats, entmax_attention
from .paged import PagedCache, PagedStats

__all__ = ["AttentionStats", "HeadReport", "HeadStatistics", "PagedCache", "PagedStats", "entmax_attention"]
