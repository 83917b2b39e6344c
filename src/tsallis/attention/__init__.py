"""Attention whose queries attend to few keys, and what heads do."""

from .analysis import HeadReport, HeadStatistics
from .functional import AttentionStats, entmax_attention
from .paged import PagedCache, PagedStats
from .plots import plot_density, plot_heads, plot_per_head, plot_trajectories

__all__ = [
    "AttentionStats",
    "HeadReport",
    "HeadStatistics",
    "PagedCache",
    "PagedStats",
    "entmax_attention",
    "plot_density",
    "plot_heads",
    "plot_per_head",
    "plot_trajectories",
]
