"""One call for the expected loss under a discrete latent variable."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Num
from torch import Tensor

from ..core.errors import ParameterError
from ..core.inputs import check_scores, is_integer, is_number
from .diagnostics import gradient_variance
from .estimators import Estimator, Problem, TableFunction
from .latents import wide
from .marginal import Marginal
from .packing import LossFunction
from .steps import uses


@dataclass(frozen=True, eq=False)
class Expectation:
    """The result of `expectation`.

    Attributes:
        objective: batch mean of the surrogate; call backward on it.
        surrogate: (B,) loss minus entropy_weight times entropy, with the estimate's gradient. A loss_fn may return it:
            so one latent variable hangs on another.
        loss: expected loss of each example, or its estimate, (B,).
        probs: the distribution in use: (B, K) of categories; (B, S) of bit vectors, `vertices`, as far as `mask` goes;
            (B, D) of independent bits.
        entropy: its Shannon entropy in nats, (B,). That of structures depends on which were chosen.
        marginal_entropy: sum of the entropies of single bits, for bit vectors; None for categories.
        support_size: number of values with probability, (B,); float64, where there is that, for independent bits, which
            have up to 2^D.
        rows: how many rows the loss function really saw.
        calls: how often it was called.
        mask: (B, S) which structures there are, or None.
        vertices: (B, S, d) structures, or None.
        exact: (B,) whether nothing with probability was left out, and what is iterative was solved, of estimators where
            that is in question; else None.
        gradient_variance: (B,) of one draw of the gradient in scores, if asked for.
    """

    objective: Tensor
    surrogate: Tensor
    loss: Tensor
    probs: Tensor
    entropy: Tensor
    marginal_entropy: Tensor | None
    support_size: Tensor
    rows: int
    calls: int
    mask: Tensor | None = None
    vertices: Tensor | None = None
    exact: Tensor | None = None
    gradient_variance: Tensor | None = None


def expectation(
    scores: Num[Tensor, ...],
    loss_fn: LossFunction | None,
    estimator: str | Estimator = "sparsemax",
    *,
    entropy_weight: float | Float[Tensor, ""] = 0.0,
    max_rows: int | None = None,
    table_fn: TableFunction | None = None,
    generator: torch.Generator | None = None,
    diagnostics: int = 0,
) -> Expectation:
    r"""The expected loss under a discrete latent variable, and its gradient, at the price of the support.

    $$L_b = \sum_z p_z(s_b)\, \ell(b, z), \qquad \text{objective} = \tfrac1B \sum_b L_b - w\, H(p(s_b))$$

    With a sparse mapping most $p_z$ are exactly zero: the sum is exact, differentiable and needs no sampling, yet the
    loss is evaluated at a few values only. Estimators that sample are called in the same way.

    Args:
        scores: (B, K); (B, D) for bits, or of a factor's natural shape for structures.
        loss_fn: called with ``index`` (R,) long, ascending, positions in the batch, and ``z``, the values: (R,) long
            for categories, (R, D) of the scores' dtype for bits and structures, 0 or 1. Estimators that relax pass
            (R, K) of that dtype for categories, and between 0 and 1 for bits. It returns R losses. Called once, on all
            pairs with probability.
        estimator: name of a mapping onto the simplex (``"softmax"`` is dense), or an `Estimator` such as
            ``Marginal("entmax", {"alpha": alpha})`` or ``ScoreFunction("running")``.
        entropy_weight: w; the entropy is Shannon's, in nats, and never sampled.
        max_rows: at most so many rows per call of loss_fn; it is then called ceil(R/max_rows) times under activation
            checkpointing, and peak memory is that of one call.
        table_fn: for ``"softmax"`` only, instead of loss_fn: returns all losses (B, K) at once; counts as B K rows.
        generator: for sampling estimators; exact ones refuse it.
        diagnostics: from so many repetitions, two at least, the variance of the gradient in scores is measured, which
            costs as many evaluations and backward passes; random states and estimators stay as without. Under
            torch.no_grad() too; in inference mode as far as loss_fn keeps no tensor made in it for its gradient.

    Returns:
        `Expectation`, in float32 at least. The mean over an empty batch is NaN. A row of scores with NaN gives a NaN
        loss; a fully masked row (all -inf) gives 0.

    Raises:
        ShapeError: scores that are not (B, K), or a loss of another shape than (R,).
        ParameterError: an estimator that is no mapping onto the simplex, max_rows < 1, table_fn or generator where they
            have no meaning, diagnostics that inference mode prevents.
        RegistryError: an unknown name.
        NumericalError: under `ts.debug_checks` only: losses with probability that are NaN, with the first examples and
            values; in a hierarchy with those of each call whose rows are the examples of the call within.

    Differentiability:
        as loss_fn; in scores of any order where nothing is sampled, else once.

    Complexity:
        one mapping, one call of loss_fn on R = sum of supports rows. Exact marginalization waits for the device once,
        and under torch.compile its graph breaks in one place, where R becomes known; estimators that look at values
        elsewhere wait there, and break there: a frontier, the search for structures, the rest in `SumAndSample`. A
        running baseline and a falling temperature break it once more.

    Example:
        >>> import torch, tsallis as ts
        >>> scores = torch.tensor([[0.0, 2.0, 1.8], [3.0, 0.0, 0.0]])
        >>> e = ts.latent.expectation(scores, lambda index, z: z.float())
        >>> e.loss, e.rows
        (tensor([1.4000, 0.0000]), 3)

    References:
        correia2020efficient
    """
    scores = check_scores(scores, "scores")
    if max_rows is not None and (not is_integer(max_rows) or max_rows < 1):
        raise ParameterError(
            f"max_rows={max_rows!r}", "a whole number, at least 1, or None", "Choose how many rows fit into memory"
        )
    if not is_number(entropy_weight) and not (isinstance(entropy_weight, Tensor) and entropy_weight.dim() == 0):
        raise ParameterError(f"entropy_weight={entropy_weight!r}", "a number, or a scalar tensor", "Pass one for all")
    if loss_fn is not None and table_fn is not None:
        raise ParameterError("Both loss_fn and table_fn", "one of them", "Pass loss_fn=None beside table_fn")
    if loss_fn is None and table_fn is None:
        raise ParameterError("Neither loss_fn nor table_fn", "a loss_fn(index, z)", "Pass one")
    if max_rows is not None and table_fn is not None:
        raise ParameterError("max_rows with table_fn", "loss_fn: a table is one call", "Leave max_rows out")
    if not is_integer(diagnostics) or diagnostics < 0 or diagnostics == 1:
        raise ParameterError(f"diagnostics={diagnostics!r}", "0, or 2 and more repetitions", "Choose one")
    method = Marginal(estimator) if isinstance(estimator, str) else estimator
    if not isinstance(method, Estimator):
        raise ParameterError(
            f"estimator={estimator!r}", "a name or an Estimator, such as ScoreFunction()", "Pass an instance"
        )
    uses(generator)
    problem = Problem(loss_fn, max_rows, table_fn, generator, scores.dtype, batch=len(scores))
    scores = wide(scores)
    variance = gradient_variance(method, scores, problem, diagnostics) if diagnostics else None
    estimate = method.estimate(scores, problem)
    latent = estimate.latent
    # Packing sees only p > 0, and NaN > 0 is false: a bad row must stay visible.
    bad = latent.probs.detach().sum(-1).isnan()
    loss = torch.where(bad, torch.nan, estimate.loss)
    surrogate = loss if estimate.surrogate is estimate.loss else torch.where(bad, torch.nan, estimate.surrogate)
    entropy = latent.entropy()
    surrogate = surrogate - entropy_weight * entropy
    return Expectation(
        objective=surrogate.mean(),
        surrogate=surrogate,
        loss=loss,
        probs=latent.probs,
        entropy=entropy,
        marginal_entropy=latent.marginal_entropy(),
        support_size=latent.support_size(),
        rows=problem.rows,
        calls=problem.calls,
        mask=latent.mask,
        vertices=latent.vertices,
        exact=estimate.exact,
        gradient_variance=variance,
    )
