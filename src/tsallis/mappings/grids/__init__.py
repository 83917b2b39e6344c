"""Mappings of more than one dimension: functions beside the protocol, which is that of rows."""

from .tvmax import TvmaxReport, tvmax

__all__ = ["TvmaxReport", "tvmax"]
