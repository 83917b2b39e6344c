"""Outcomes as data: what happened in every row, and a switch that turns bad outcomes into errors."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor

from .errors import NumericalError


class Outcome(IntEnum):
    """What happened in a row."""

    SUCCESS = 0
    FULLY_MASKED = 1
    NAN_SCORE = 2
    INFINITE_SCORE = 3
    PARAMETER_NOT_ADMISSIBLE = 4
    INACCURATE = 5
    NO_SUCH_CLASS = 6
    NO_FINITE_LOGIT = 7
    INFEASIBLE = 8
    GAP_LEFT = 9
    NOT_CONVERGED = 10

    @property
    def message(self) -> str:
        return _MESSAGES[self]

    @property
    def usable(self) -> bool:
        """Whether the row holds a result that was asked for."""
        return self <= Outcome.FULLY_MASKED


_MESSAGES = {
    Outcome.SUCCESS: "solved",
    Outcome.FULLY_MASKED: "no entry is kept; the row is all zero",
    Outcome.NAN_SCORE: "a kept score is NaN; the row is NaN",
    Outcome.INFINITE_SCORE: "a kept score is +inf; the row is NaN",
    Outcome.PARAMETER_NOT_ADMISSIBLE: "a parameter lies outside its interval; the row is NaN",
    Outcome.INACCURATE: "the constraint is violated by more than rounding",
    Outcome.NO_SUCH_CLASS: "the target names a class that does not exist; the loss is NaN",
    Outcome.NO_FINITE_LOGIT: "all logits of a target are -inf; the loss is NaN",
    Outcome.INFEASIBLE: "every structure is ruled out; the result is NaN",
    Outcome.GAP_LEFT: "the gap was above the tolerance when it ended, by its limit or by rounding; see the gap",
    Outcome.NOT_CONVERGED: "factors and variables did not agree within the tolerance at the limit; see the residuals",
}


@dataclass(frozen=True)
class Result:
    """The outcome of every row: ``codes`` (...) int8 holds `Outcome` values."""

    codes: Tensor

    @property
    def ok(self) -> bool:
        """True iff every row is solved or fully masked. Reads one value on the host."""
        return bool((self.codes <= Outcome.FULLY_MASKED).all())

    def outcomes(self) -> dict[Outcome, int]:
        """How many rows ended in which way."""
        return {o: count for o in Outcome if (count := int((self.codes == o).sum()))}

    def __str__(self) -> str:
        return "; ".join(f"{count} rows: {o.message}" for o, count in self.outcomes().items()) or "no rows"

    def raise_if_failed(self) -> None:
        """Raise `NumericalError` if some row has no usable result."""
        if not self.ok:
            raise NumericalError(
                f"Rows without a result ({self})",
                "finite scores, admissible parameters and classes that exist",
                "Look at ts.solve(...).result.codes, or at the loss with reduction='none'",
            )


@dataclass(frozen=True)
class Solution:
    """A solved mapping with what certifies it. Row quantities have the shape of z without `dim`.

    Attributes:
        p: the result, differentiable.
        threshold: the multiplier lambda of the sum constraint (None for a domain without one), not differentiable.
        tau: the threshold in the mapping's other convention, (alpha-1) lambda - 1 for the entmax family; None where
            there is none.
        support_size: number of non-zeros.
        residual: largest violation of a constraint.
        exact: whether p is proven to be the optimum of the un-approximated problem.
        result: what happened in each row.
    """

    p: Tensor
    threshold: Tensor | None
    tau: Tensor | None
    support_size: Tensor
    residual: Tensor
    exact: Tensor
    result: Result
