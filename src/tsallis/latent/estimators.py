"""How the expectation over a latent variable is computed or estimated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.domains import Simplex, SparseSimplex
from ..core.errors import ParameterError, ShapeError
from ..core.mapping import Mapping
from ..core.registry import get
from .packing import LossFunction, evaluate, scatter, support_pairs

TableFunction = Callable[[], Tensor]


@dataclass(frozen=True)
class Estimate:
    """What an estimator returns: a surrogate (B,) whose gradient is the estimate's, the loss (B,), probabilities (B, K)
    and the number of rows the loss function really saw.
    """

    surrogate: Tensor
    loss: Tensor
    probs: Tensor
    rows: int


class Estimator(ABC):
    """An estimator of E_p[loss], p a distribution made from scores."""

    @abstractmethod
    def __call__(
        self,
        scores: Tensor,
        loss_fn: LossFunction | None,
        *,
        max_rows: int | None,
        table_fn: TableFunction | None,
        generator: torch.Generator | None,
    ) -> Estimate:
        """Estimate the expectation for scores (B, K)."""


@dataclass(frozen=True)
class Marginal(Estimator):
    """Exact marginalization: sum over z of p(z) loss(z), evaluated where p(z) > 0 only.

    Args:
        mapping: registered name of a mapping onto the simplex; ``"softmax"`` sums over all K values.
        params: its parameters, as in its function; tensors get gradients.
    """

    mapping: str | Mapping = "sparsemax"
    params: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = get(self.mapping)
        if not isinstance(found.domain, Simplex | SparseSimplex):
            raise ParameterError(
                f"Estimator {found.name!r}", "a mapping onto the simplex", "Use 'softmax', 'sparsemax', 'entmax15', ..."
            )

    def __call__(
        self,
        scores: Tensor,
        loss_fn: LossFunction | None,
        *,
        max_rows: int | None,
        table_fn: TableFunction | None,
        generator: torch.Generator | None,
    ) -> Estimate:
        if generator is not None:
            raise ParameterError(
                "generator with exact marginalization", "none: nothing is sampled", "Leave generator out, or sample"
            )
        probs = get(self.mapping)(scores, **self.params)
        if table_fn is not None:
            loss, rows = self._table(probs, table_fn)
        else:
            loss, rows = self._packed(probs, loss_fn, max_rows)
        # Packing sees only p > 0, and NaN > 0 is false: a bad row must stay visible.
        loss = torch.where(probs.detach().isnan().any(-1), torch.nan, loss)
        return Estimate(loss, loss, probs, rows)

    def _packed(self, probs: Tensor, loss_fn: LossFunction | None, max_rows: int | None) -> tuple[Tensor, int]:
        if loss_fn is None:
            raise ParameterError("Neither loss_fn nor table_fn", "a loss_fn(index, z)", "Pass one")
        index, z = support_pairs(probs)
        if index.shape[0] == 0:
            return probs.sum(-1) * 0, 0
        losses = evaluate(loss_fn, index, z, max_rows)
        weights = probs[index, z]
        common = torch.promote_types(losses.dtype, weights.dtype)
        return scatter(weights.to(common) * losses.to(common), index, probs.shape[0]), index.shape[0]

    def _table(self, probs: Tensor, table_fn: TableFunction) -> tuple[Tensor, int]:
        if get(self.mapping).name != "softmax":
            raise ParameterError(
                f"table_fn with the estimator {get(self.mapping).name!r}",
                "the dense estimator 'softmax': a table evaluates every value",
                "Pass loss_fn, which is called on the support only",
            )
        table = table_fn()
        if table.shape != probs.shape:
            raise ShapeError(
                f"table_fn returned shape {tuple(table.shape)}",
                f"{tuple(probs.shape)}, one loss per value",
                "Reshape it",
            )
        return (probs * torch.where((probs == 0) & ~table.isfinite(), 0.0, table)).sum(-1), table.numel()
