"""Parameters of mappings: their names, admissible values and how they reach a row."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from .errors import ParameterError, ShapeError
from .inputs import is_number

Role = Literal["omega", "domain", "selection"]


@dataclass(frozen=True)
class Param:
    """A number, or one number per row, on which a mapping depends.

    Attributes:
        name: the keyword.
        default: value used when the keyword is left out; None makes it required.
        role: ``omega`` (shapes the regulariser), ``domain`` (shapes the set C) or ``selection`` (discrete, no
            gradient).
        low, high: admissible interval; infinite values are never admissible.
        low_open: whether ``low`` itself is excluded.
        at_most_kept: whether the value may not exceed the number of unmasked entries of its row.
        low_in_losses: whether Omega is finite at ``low``, so that the value is admissible in losses too.
        tried: values beside the default at which the laws of `tsallis.testing` are checked; none leaves the choice to
            them, around 1 and 2, where the formulas of entropies change.
        meaning: one phrase for the documentation.
    """

    name: str
    default: float | None
    role: Role = "omega"
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    at_most_kept: bool = False
    low_in_losses: bool = True
    tried: tuple[float, ...] = ()
    meaning: str = ""

    @property
    def interval(self) -> str:
        upper = "n" if self.at_most_kept else "inf" if self.high == math.inf else f"{self.high:g}"
        return f"{'(' if self.low_open else '['}{self.low:g}, {upper}{']' if upper not in ('inf',) else ')'}"

    @property
    def stand_in(self) -> float:
        """An admissible value for rows whose own is not; their result is replaced."""
        return 1.0 if self.at_most_kept or self.default is None else self.default

    def for_losses(self) -> Param:
        """The parameter as losses see it: they need Omega to be finite."""
        return self if self.low_in_losses else replace(self, low_open=True)

    def admissible(self, value: Tensor, kept: Tensor) -> Tensor:
        """Whether each row's value may be used; `kept` (..., 1) counts unmasked entries."""
        fine = (value > self.low if self.low_open else value >= self.low) & (value <= self.high) & (value < math.inf)
        return fine & (value <= kept) if self.at_most_kept else fine

    def check_number(self, value: float, n: int) -> None:
        """Raise unless a Python number is admissible for rows of n entries."""
        low_ok = value > self.low if self.low_open else value >= self.low
        # Comparisons only: under torch.compile the number may be a symbol.
        if not (low_ok and value <= self.high and -math.inf < value < math.inf):
            advice = "Choose a value inside"
            if not self.low_in_losses and self.low_open:
                advice += f"; {self.name}={self.low:g} has a mapping, but no finite entropy and so no loss"
            raise ParameterError(f"{self.name}={value}", f"{self.name} in {self.interval}", advice)
        if self.at_most_kept and value > n > 0:
            raise ParameterError(
                f"{self.name}={value} for {n} entries", f"{self.name} <= {n}", f"Lower {self.name} or pass more entries"
            )


def as_rows(param: Param, value: object, z: Tensor, dim: int) -> Tensor:
    """A parameter as a tensor that broadcasts against ``z.movedim(dim, -1)`` with size 1 in the last place.

    Python numbers are checked and kept in float64 (a 0-d tensor: it does not promote). Tensors are never read, only
    shaped.
    """
    value = as_number_or_rows(param, value, z, dim)
    if isinstance(value, Tensor):
        return value
    dtype = torch.float32 if z.device.type == "mps" else torch.float64
    return torch.full((), float(value), dtype=dtype, device=z.device)


def as_number_or_rows(param: Param, value: object, z: Tensor, dim: int) -> float | Tensor:
    """The same with a Python number left as it is."""
    if isinstance(value, Tensor):
        return _align(param, value, z, dim)
    if not is_number(value):
        raise ParameterError(
            f"{param.name} of type {type(value).__name__}",
            "a number or a tensor",
            f"Pass {param.name} as float or torch.Tensor",
        )
    number = value if isinstance(value, int | float) else float(value)
    param.check_number(number, z.shape[dim])
    return number


def _align(param: Param, value: Tensor, z: Tensor, dim: int) -> Tensor:
    if value.device != z.device and value.dim() > 0:
        raise ParameterError(
            f"{param.name} on {value.device} with scores on {z.device}",
            "both on one device",
            f"Move {param.name} with .to()",
        )
    if value.is_complex():
        raise ParameterError(f"{param.name} of dtype {value.dtype}", "a real dtype", f"Pass {param.name}.real")
    if param.role == "selection" and value.requires_grad:
        raise ParameterError(
            f"{param.name} that requires a gradient",
            "a constant: the selection is discrete",
            f"Pass {param.name}.detach()",
        )
    if not value.is_floating_point() or value.dtype in (torch.float16, torch.bfloat16):
        value = value.to(torch.float32 if value.is_floating_point() else torch.get_default_dtype())
    if value.dim() == 0:
        return value
    expected = list(z.shape)
    expected[dim] = 1
    padded = value.reshape((1,) * (z.dim() - value.dim()) + tuple(value.shape)) if value.dim() < z.dim() else value
    fits = padded.dim() == z.dim() and all(have in (1, want) for have, want in zip(padded.shape, expected, strict=True))
    if not fits:
        raise ShapeError(
            f"{param.name} of shape {tuple(value.shape)} for scores of shape {tuple(z.shape)} and dim={dim}",
            f"a shape that broadcasts to {tuple(expected)}",
            f"One value per row has size 1 at dim: try {param.name}.unsqueeze({dim})",
        )
    return padded.movedim(dim, -1)
