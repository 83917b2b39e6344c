"""Errors in three parts: what was given, what was expected, what to do."""

from __future__ import annotations


class TsallisError(ValueError):
    """Raised at the public door for input that cannot be worked with.

    Args:
        given: what came.
        expected: what was expected.
        advice: what to do about it.
    """

    def __init__(self, given: str, expected: str, advice: str) -> None:
        self.given, self.expected, self.advice = given, expected, advice
        super().__init__(f"{given}. Expected {expected}. {advice}.")

    def __reduce__(self) -> tuple[type[TsallisError], tuple[str, str, str]]:
        return type(self), (self.given, self.expected, self.advice)


class ShapeError(TsallisError):
    """A tensor has a shape that does not fit."""


class ParameterError(TsallisError):
    """A parameter lies outside the interval on which the mapping is defined."""


class BackendError(TsallisError):
    """The requested backend cannot serve this call; every backend's reason is in the message."""


class RegistryError(TsallisError):
    """An unknown or already taken name."""


class NumericalError(TsallisError):
    """Raised only under ``debug_checks(True)``: some row has no finite result."""
