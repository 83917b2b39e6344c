"""What an estimator of an expectation is, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ParameterError
from ..core.guard import debugging
from .latents import Bits, Categories, Kind, Latent, check_kind, latent_of
from .packing import LossFunction, across_processes, evaluate, name_bad_rows, scatter, tracing
from .steps import Lesson, learn

TableFunction = Callable[[], Tensor]


@dataclass(eq=False)
class Problem:
    """A call of `expectation`: the loss, how it may be evaluated, and how often it was.

    Attributes:
        loss_fn, table_fn, max_rows, generator: as there.
        dtype: of the floating values that loss_fn gets; None for that of the estimator.
        rows, calls: evaluations so far.
        batch: how many examples the call has, for messages; -1 if that is not known.
    """

    loss_fn: LossFunction | None
    max_rows: int | None = None
    table_fn: TableFunction | None = None
    generator: torch.Generator | None = None
    dtype: torch.dtype | None = None
    rows: int = 0
    calls: int = 0
    batch: int = -1

    def losses(self, index: Tensor, z: Tensor) -> Tensor:
        """Losses (R,) of the pairs, one at least."""
        if self.loss_fn is None:
            raise ParameterError("Neither loss_fn nor table_fn", "a loss_fn(index, z)", "Pass one")
        rows = index.shape[0]
        self.rows += rows
        self.calls += 1 if self.max_rows is None else -(-rows // self.max_rows)
        if z.is_floating_point() and self.dtype is not None:
            z = z.to(self.dtype)
        # Nothing is traced where nothing is named: compiled code cannot break within a try.
        loss_fn = tracing(self.loss_fn, self.batch) if debugging(z) else self.loss_fn
        losses = evaluate(loss_fn, index, z, self.max_rows)
        name_bad_rows(losses, index, z, self.batch)
        return losses

    def expected(self, index: Tensor, z: Tensor, weights: Tensor, batch: int) -> Tensor:
        """Sums of weights times losses over the pairs of each example, (B,)."""
        if not index.shape[0]:
            return self.idle(z, weights, batch)
        losses = self.losses(index, z)
        common = torch.promote_types(losses.dtype, weights.dtype)
        return scatter(weights.to(common) * losses.to(common), index, batch)

    def idle(self, z: Tensor, weights: Tensor, batch: int) -> Tensor:
        """Zeros (B,) where no example has a pair, with the graph of the weights of none. Where other processes may have
        rows, one with weight zero keeps their collectives company.
        """
        zeros = weights.new_zeros(batch) + 0 * weights.sum()
        if not batch or not across_processes():
            return zeros
        index = torch.zeros(1, dtype=torch.long, device=weights.device)
        losses = self.losses(index, z.new_zeros(1, *z.shape[1:]))
        return zeros + torch.where(losses.isfinite(), 0 * losses, 0.0).sum()

    def refuse_table(self, name: str) -> None:
        """For estimators that do not evaluate every value."""
        if self.table_fn is not None:
            raise ParameterError(
                f"table_fn with the estimator {name}",
                "the dense estimator 'softmax': a table evaluates every value",
                "Pass loss_fn, which is called on the support only",
            )


class _Carried(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(loss: Tensor, term: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Nothing is needed."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        return grads[0], grads[0]


def carried(loss: Tensor, term: Tensor) -> Tensor:
    """A loss with the gradient of a term besides its own. As loss + (term - term.detach()), but for terms that are
    infinite too, whose difference is NaN.
    """
    common = torch.promote_types(loss.dtype, term.dtype)
    return _Carried.apply(loss.to(common), term.to(common))  # pyright: ignore[reportReturnType]


@dataclass(frozen=True, eq=False)
class Estimate:
    """What an estimator returns.

    Attributes:
        surrogate: (B,) with the loss as value and the estimate's gradient.
        loss: (B,).
        latent: the distribution in use.
        exact: (B,) whether nothing with probability was left out, where that can be in question.
    """

    surrogate: Tensor
    loss: Tensor
    latent: Latent
    exact: Tensor | None = None


class Estimator(ABC):
    """An estimator of E_p[loss], p a distribution made from scores, for `expectation`.

    Those that learn or count something are modules too: as a part of the model they are saved with it. In training mode
    each call is a step; in evaluation mode nothing changes.
    """

    @abstractmethod
    def estimate(self, scores: Tensor, problem: Problem) -> Estimate:
        """Estimate the expectation for scores."""

    def given(self, x: Tensor) -> Estimator:
        """This estimator for examples x (B, ...), which some learn from; most do not look at them."""
        return self


class Sampling(nn.Module, Estimator):
    """Estimators that draw from softmax(scores), or from independent bits with probabilities sigmoid(scores)."""

    def __init__(self, latent: Kind = "categories") -> None:
        super().__init__()
        check_kind(latent)
        self.latent: Kind = latent

    def begin(self, scores: Tensor, problem: Problem) -> tuple[Categories | Bits, Tensor, Categories | Bits]:
        """The distribution, which examples can be drawn from, and the distribution of these."""
        problem.refuse_table(type(self).__name__)
        latent = latent_of(self.latent, scores)
        index = latent.usable.nonzero()[:, 0]
        return latent, index, latent if len(index) == len(scores) else latent.rows(index)

    def learn(self, lesson: Lesson, losses: Tensor) -> None:
        """Take in the losses of this call, if it is a step of training."""
        if self.training and torch.is_grad_enabled():
            learn(self, lesson, losses.detach())

    def extra_repr(self) -> str:
        return f"latent={self.latent!r}"
