"""Conformance checks, frozen oracle values and input generators, for the mappings here and for your own.

Importing this package registers the laws; `check` runs them on one mapping, `cases` lists them for a test runner.
"""

from . import derived, doors, extremes, gradients, laws, rows, transforms
from .harness import LAWS, CheckFailed, Law, Setting, cases, settings
from .inputs import FAMILIES, draw
from .run import Report, check

__all__ = [
    "FAMILIES",
    "LAWS",
    "CheckFailed",
    "Law",
    "Report",
    "Setting",
    "cases",
    "check",
    "derived",
    "doors",
    "draw",
    "extremes",
    "gradients",
    "laws",
    "rows",
    "settings",
    "transforms",
]
