"""One call for the expected loss under a discrete latent variable."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Num
from torch import Tensor

from ..core.errors import ParameterError, ShapeError
from ..core.numerics import safe_log
from .estimators import Estimator, Marginal, TableFunction
from .packing import LossFunction


@dataclass(frozen=True)
class Expectation:
    """The result of `expectation`.

    Attributes:
        objective: batch mean of the surrogate minus entropy_weight times the entropy; call backward on it.
        loss: expected loss of each example, (B,).
        probs: the distribution in use, (B, K).
        entropy: its Shannon entropy in nats, (B,).
        marginal_entropy: sum of the entropies of single bits, for bit vectors; None for categories.
        support_size: number of values with probability, (B,).
        rows: how many rows the loss function really saw.
    """

    objective: Tensor
    loss: Tensor
    probs: Tensor
    entropy: Tensor
    marginal_entropy: Tensor | None
    support_size: Tensor
    rows: int


def expectation(
    scores: Num[Tensor, "batch values"],
    loss_fn: LossFunction | None,
    estimator: str | Estimator = "sparsemax",
    *,
    entropy_weight: float | Float[Tensor, ""] = 0.0,
    max_rows: int | None = None,
    table_fn: TableFunction | None = None,
    generator: torch.Generator | None = None,
) -> Expectation:
    r"""The expected loss under a categorical latent variable, and its gradient, at the price of the support.

    $$L_b = \sum_z p_z(s_b)\, \ell(b, z), \qquad \text{objective} = \tfrac1B \sum_b L_b - w\, H(p(s_b))$$

    With a sparse mapping most $p_z$ are exactly zero: the sum is exact, differentiable and needs no sampling, yet the
    loss is evaluated at a few values only.

    Args:
        scores: (B, K).
        loss_fn: called with ``index`` (R,) long, ascending, positions in the batch, and ``z`` (R,) long, the values; it
            returns R losses. Called once, on all pairs with probability.
        estimator: name of a mapping onto the simplex (``"softmax"`` is dense), or an `Estimator` such as
            ``Marginal("entmax", {"alpha": alpha})``.
        entropy_weight: w; the entropy is Shannon's, in nats.
        max_rows: at most so many rows per call of loss_fn; it is then called ceil(R/max_rows) times under activation
            checkpointing, and peak memory is that of one call.
        table_fn: for ``"softmax"`` only, instead of loss_fn: returns all losses (B, K) at once; counts as B K rows.
        generator: for sampling estimators; exact ones refuse it.

    Returns:
        `Expectation`. The mean over an empty batch is NaN. A row of scores with NaN gives a NaN loss; a fully masked
        row (all -inf) gives 0.

    Raises:
        ShapeError: scores that are not (B, K), or a loss of another shape than (R,).
        ParameterError: an estimator that is no mapping onto the simplex, max_rows < 1, table_fn or generator where they
            have no meaning.
        RegistryError: an unknown name.

    Differentiability:
        as loss_fn; of any order in scores.

    Complexity:
        one mapping, one call of loss_fn on R = sum of supports rows. Waits for the device once. Under torch.compile
        the graph breaks in one place, where R becomes known.

    Example:
        >>> import torch, tsallis as ts
        >>> scores = torch.tensor([[0.0, 2.0, 1.8], [3.0, 0.0, 0.0]])
        >>> e = ts.latent.expectation(scores, lambda index, z: z.float())
        >>> e.loss, e.rows
        (tensor([1.4000, 0.0000]), 3)

    References:
        correia2020efficient
    """
    if scores.dim() != 2:
        raise ShapeError(f"Scores of shape {tuple(scores.shape)}", "(B, K)", "Flatten the batch dimensions")
    if max_rows is not None and max_rows < 1:
        raise ParameterError(f"max_rows={max_rows}", "at least 1, or None", "Choose how many rows fit into memory")
    if loss_fn is not None and table_fn is not None:
        raise ParameterError("Both loss_fn and table_fn", "one of them", "Pass loss_fn=None beside table_fn")
    if max_rows is not None and table_fn is not None:
        raise ParameterError("max_rows with table_fn", "loss_fn: a table is one call", "Leave max_rows out")
    method = Marginal(estimator) if isinstance(estimator, str) else estimator
    estimate = method(scores, loss_fn, max_rows=max_rows, table_fn=table_fn, generator=generator)
    entropy = -(estimate.probs * safe_log(estimate.probs)).sum(-1)
    return Expectation(
        objective=(estimate.surrogate - entropy_weight * entropy).mean(),
        loss=estimate.loss,
        probs=estimate.probs,
        entropy=entropy,
        marginal_entropy=None,
        support_size=(estimate.probs > 0).sum(-1),
        rows=estimate.rows,
    )
