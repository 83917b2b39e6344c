"""Process-wide switches, usable as a call or as a context manager."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Setting(Generic[T]):
    """One switch."""

    def __init__(self, value: T) -> None:
        self.value = value

    def set(self, value: T) -> Restore[T]:
        previous, self.value = self.value, value
        return Restore(self, previous)


class Restore(Generic[T]):
    """Returned by every switch: leaving its ``with`` block restores the former value."""

    def __init__(self, setting: Setting[T], previous: T) -> None:
        self._setting, self._previous = setting, previous

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._setting.value = self._previous


BACKEND: Setting[str | None] = Setting(None)
# Read once: looking it up in every call would take as long as a small softmax.
BACKEND_FROM_ENVIRONMENT: Setting[str | None] = Setting(os.environ.get("TSALLIS_BACKEND") or None)
DEBUG: Setting[bool] = Setting(False)


def use_backend(name: str | None) -> Restore[str | None]:
    """Use one backend for every call that does not name its own; None returns to automatic choice.

    A backend that cannot serve a call raises with its reason: nothing falls back silently. Usable as a statement, or in
    a ``with`` block.

    Example:
        >>> import torch, tsallis as ts
        >>> with ts.use_backend("reference"):
        ...     ts.sparsemax(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.0000, 0.2500, 0.7500])
    """
    return BACKEND.set(name)


def debug_checks(enabled: bool) -> Restore[bool]:
    """Raise `NumericalError` whenever a row comes out as NaN, naming the reason. Off by default: it reads the device.

    Holds for mappings and losses. Inside compiled code and `torch.func` transforms nothing can be read, and it has no
    effect. Usable as a statement or in a ``with`` block.

    Example:
        >>> import torch, tsallis as ts
        >>> with ts.debug_checks(True):
        ...     ts.sparsemax(torch.tensor([0.0, float("nan")]))
        Traceback (most recent call last):
            ...
        tsallis.core.errors.NumericalError: Rows without a result (1 rows: a kept score is NaN; the row is NaN).
        Expected ...
    """
    return DEBUG.set(enabled)
