"""What a check is, on which settings of a mapping it runs, and how it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.mapping import Mapping
from ..core.params import Param

# Values tried for each parameter, as far as they are admissible: both sides of 1 and 2, where solvers and formulas
# change.
_CANDIDATES = (1.0, 0.5, 1.3, 1.5, 1.7, 2.0, 2.5, 4.0)


class CheckFailed(AssertionError):
    """A mapping breaks a law."""


def require(condition: bool | Tensor, message: str) -> None:
    """Fail the running check unless the condition holds (for tensors: everywhere)."""
    if not bool(condition if isinstance(condition, bool) else condition.all()):
        raise CheckFailed(message)


def require_close(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Fail unless two tensors agree absolutely; NaN agrees with NaN."""
    actual, expected = actual.detach(), expected.detach()
    require(actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)} instead of {tuple(expected.shape)}")
    require(bool((actual.isnan() == expected.isnan()).all()), f"{what}: NaN in different places")
    gap = float((actual.double() - expected.double()).nan_to_num(0).abs().max()) if actual.numel() else 0.0
    require(gap <= tolerance, f"{what}: differs by {gap:.3g}, tolerance {tolerance:.3g}")


def require_raises(
    action: Callable[[], object], error: type[Exception] | tuple[type[Exception], ...], what: str
) -> None:
    """Fail unless the action raises the error with a message in three parts."""
    try:
        action()
    except error as caught:
        require("Expected" in str(caught), f"{what}: the message does not say what was expected: {caught}")
    else:
        raise CheckFailed(f"{what}: nothing was raised")


@dataclass(frozen=True)
class Setting:
    """A mapping with one value for each of its parameters."""

    mapping: Mapping
    values: dict[str, Any]

    def __str__(self) -> str:
        return ", ".join(f"{k}={v:g}" for k, v in self.values.items()) or "no parameters"

    def __call__(self, z: Tensor, dim: int = -1, **keywords: Any) -> Tensor:
        return self.mapping(z, dim, **{**self.values, **keywords})

    def at(self, z: Tensor, name: str, value: Any, dim: int = -1) -> Tensor:
        """The mapping with one parameter changed."""
        changed: dict[str, Any] = {name: value}
        return self(z, dim, **changed)

    def tensors(self, z: Tensor) -> dict[str, Tensor]:
        """The values as 0-d tensors beside z."""
        return {name: torch.tensor(value, dtype=z.dtype, device=z.device) for name, value in self.values.items()}

    def differentiable(self) -> list[str]:
        """Names of the parameters that have a derivative."""
        return [p.name for p in self.mapping.params if p.role != "selection"]

    def with_tensors(self, z: Tensor) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
        """A function of (z, *differentiable parameters) and the parameters' values."""
        names = self.differentiable()
        start = self.tensors(z)

        def function(z: Tensor, *values: Tensor) -> Tensor:
            changed: dict[str, Any] = dict(zip(names, values, strict=True))
            return self(z, **changed)

        return function, tuple(start[name] for name in names)


def _values(param: Param, n: int) -> list[float]:
    """The default first, then other admissible values."""
    if param.role == "selection":
        return [2.0, 3.0, 4.0]
    if param.at_most_kept:
        return [1.7, 0.5, 1.0, 2.5, 3.0]
    candidates = param.tried or _CANDIDATES
    fine = [v for v in candidates if bool(param.admissible(torch.tensor(v), torch.tensor(n)))]
    first = param.default if param.default is not None else fine[0]
    return [first, *(v for v in fine if v != first)]


def settings(mapping: Mapping, n: int = 6) -> Iterator[Setting]:
    """The mapping at its first values, then each parameter varied alone."""
    base = {p.name: _values(p, n)[0] for p in mapping.params}
    yield Setting(mapping, base)
    for param in mapping.params:
        for value in _values(param, n)[1:]:
            yield Setting(mapping, base | {param.name: value})


Check = Callable[[Setting], None]


@dataclass(frozen=True)
class Law:
    """A check with its name and its meaning (its docstring)."""

    name: str
    check: Check
    meaning: str
    every_setting: bool
    slow: bool


LAWS: dict[str, Law] = {}


def law(*, every_setting: bool = True, slow: bool = False) -> Callable[[Check], Check]:
    """Register a check as a law every mapping must obey, or declare itself exempt from.

    Args:
        every_setting: run it for each setting, or only for the first.
        slow: takes seconds (compilation).
    """

    def add(check: Check) -> Check:
        meaning = " ".join((check.__doc__ or "").split())
        LAWS[check.__name__] = Law(check.__name__, check, meaning, every_setting, slow)
        return check

    return add


def cases(mapping: Mapping) -> Iterator[tuple[Law, Setting]]:
    """Every law with every setting it applies to."""
    for rule in LAWS.values():
        if rule.name in mapping.exempt:
            continue
        for i, setting in enumerate(settings(mapping)):
            if i == 0 or rule.every_setting:
                yield rule, setting
