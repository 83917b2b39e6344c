"""Run all laws on a mapping and report, without a test runner."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..core.mapping import Mapping
from .harness import CheckFailed, cases
from .oracles import ROWS, check_row


@dataclass(frozen=True)
class Report:
    """The result of one law on one setting; ``failure`` is None if it holds."""

    law: str
    setting: str
    failure: str | None


def check(mapping: Mapping, *, slow: bool = True) -> Iterator[Report]:
    """Check a mapping against every law it does not declare itself exempt from, and against the frozen values that
    exist for it.

    Example:
        >>> import tsallis as ts
        >>> from tsallis.core import registry
        >>> from tsallis.testing import check
        >>> all(report.failure is None for report in check(registry.get("sparsemax"), slow=False))
        True
    """
    for law, setting in cases(mapping):
        if slow or not law.slow:
            yield Report(law.name, str(setting), _failure(lambda law=law, setting=setting: law.check(setting)))
    for row in ROWS:
        if row.mapping == mapping.name:
            values = ", ".join(f"{k}={v:g}" for k, v in row.values.items())
            yield Report("frozen_values", values, _failure(lambda row=row: check_row(row)))


def _failure(work: Callable[[], None]) -> str | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            work()
        except CheckFailed as broken:
            return str(broken)
        except Exception as error:  # noqa: BLE001  (a mapping may break in any way; the report says how, nothing is hidden)
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None
