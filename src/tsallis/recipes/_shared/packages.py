"""Packages that some recipes need and others do without."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ...core.errors import TsallisError


def require(name: str, purpose: str, advice: str = "Run: pip install 'tsallis[recipes]'") -> Any:
    """A module by its name; where its package is not installed, an error says what it is for and what to do."""
    try:
        return import_module(name)
    except ImportError as error:
        raise TsallisError(f"No package {name.partition('.')[0]}", purpose, advice) from error
