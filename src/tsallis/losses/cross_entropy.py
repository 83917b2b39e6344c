"""Generalised cross-entropy Omega*(z) - <t, z>: what replaces `torch.nn.functional.cross_entropy` when an entmax
replaces softmax.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Num
from torch import Tensor

from ..core.fenchel_young import centred, conjugate, non_negative
from ..core.guard import debugging
from ..core.mapping import Mapping
from ..core.registry import get
from ..core.status import Outcome
from .fused import short_way
from .targets import (
    Reduction,
    checked_index,
    class_rows,
    class_weights,
    is_index,
    reduce,
    row_parameter,
    smoothing_amount,
)
from .terms import indexed_terms, raise_at, smoothing_term, spoil, times, weight_of


def generalised_cross_entropy(
    mapping: Mapping,
    z: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    backend: str | None = None,
    **params: float | Tensor,
) -> Tensor:
    """sum_c t_c w_c (Omega*(z) - z_c): affine in the target t, so class weights and smoothing act on t alone."""
    amount, ignore_index = smoothing_amount(label_smoothing), checked_index(ignore_index)
    rows = class_rows(z)
    indexed = is_index(target, rows)
    # Narrow integers would compare with other numbers modulo their range.
    target = target.long() if indexed else target
    weights = class_weights(weight, rows)
    named: dict[str, object] = {name: row_parameter(value, rows, name) for name, value in params.items()}
    dtype = z.dtype if z.is_floating_point() else rows.dtype
    if not indexed:
        excess = _excess(mapping, rows, named, backend)
        t = target.movedim(1, -1) if target.dim() > 1 else target
        t = t.to(rows.dtype) * (1 - amount)
        t = t if weights is None else t * weights
        loss = times(t, excess).sum(-1) + smoothing_term(excess, weights, amount)
        return reduce(loss, reduction, loss.numel()).to(dtype)
    ignored = target == ignore_index

    def formula(rows: Tensor, target: Tensor, ignored: Tensor, named: dict[str, object]) -> Tensor:
        # Scores of ignored targets are never read: neither their NaN nor their gradient gets through.
        excess = _excess(mapping, rows.masked_fill(ignored.unsqueeze(-1), 0), named, backend)
        loss = indexed_terms(excess, target, ignored, weights, smoothing_term(excess, weights, amount), amount)
        return non_negative(loss) if mapping.domain.fixed_sum and weights is None and not amount else loss

    loss = short_way(mapping, rows, target, ignored, weights, amount, named, backend, formula)
    if loss is None:
        loss = formula(rows, target, ignored, named)
    return reduce(loss, reduction, weight_of(target, ignored, weights, rows)).to(dtype)


def _excess(mapping: Mapping, rows: Tensor, named: dict[str, object], backend: str | None) -> Tensor:
    """Omega*(z) - z_c for every class."""
    rows, values = mapping.prepare(rows, -1, None, named, loss=True)
    rows = centred(mapping, rows)
    # Without a finite logit there is nothing to choose from: the maximum that Omega* is does not exist.
    empty = (rows == -torch.inf).all(-1)
    if debugging(rows):
        raise_at(empty, Outcome.NO_FINITE_LOGIT)
    return spoil(conjugate(mapping, rows, values, backend), empty).unsqueeze(-1) - rows


def entmax_loss(
    z: Num[Tensor, "*logits"],
    target: Num[Tensor, "*target"],
    alpha: float | Float[Tensor, ...] = 1.5,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    backend: str | None = None,
) -> Float[Tensor, "*loss"]:
    r"""Cross-entropy for `entmax`: zero as soon as the right class leads by 1/(alpha - 1), and equal to cross-entropy
    at alpha = 1.

    $$L(z; t) = \Omega^*_\alpha(z) - \langle t, z \rangle, \qquad \nabla_z L = \operatorname{entmax}_\alpha(z) - t$$

    Args:
        z: logits (C), (N, C) or (N, C, d1, ...).
        target: class indices of shape (), (N) or (N, d1, ...), or probabilities of the logits' shape.
        alpha: in (0, inf): a number, a scalar tensor, or one value per target; with gradient. A tensor entry outside
            gives NaN for its target.
        weight: (C) factor of each class.
        ignore_index: class indices with this value contribute nothing, and their logits are never read.
        reduction: "mean" (weighted as in `torch.nn.functional.cross_entropy`), "sum" or "none".
        label_smoothing: in [0, 1]; the target becomes (1 - eps) t + eps q, q uniform over the classes whose logit is
            not -inf.
        backend: as in `entmax`.

    Returns:
        a scalar, or one loss per target; in the dtype of z, accumulated in at least float32. A mean over no target is
        NaN. A class index that does not exist, a NaN or +inf among the logits, and logits that are all -inf give NaN
        for their target, in value and gradient; `ts.debug_checks` raises there.

    Raises:
        ParameterError: a Python alpha <= 0, label_smoothing outside [0, 1], an unknown reduction.
        ShapeError: target, weight or alpha do not fit the logits, or there is no class.

    Differentiability:
        any order in z, alpha and probability targets; the Hessian in z is the Jacobian of entmax. First order in a
        program made by `torch.export`.

    Complexity:
        one entmax and two passes. Memory: two saved tensors, the logits and p.

    Example:
        >>> import torch, tsallis as ts
        >>> ts.entmax_loss(torch.tensor([[-1.0, 0.0, 0.5, 1.2]]), torch.tensor([3]), alpha=2.0)
        tensor(0.0225)

    References:
        blondel2020learning, peters2019sparse
    """
    return generalised_cross_entropy(
        get("entmax"), z, target, weight=weight, ignore_index=ignore_index, reduction=reduction,
        label_smoothing=label_smoothing, backend=backend, alpha=alpha,
    )  # fmt: skip


def sparsemax_loss(
    z: Num[Tensor, "*logits"],
    target: Num[Tensor, "*target"],
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    backend: str | None = None,
) -> Float[Tensor, "*loss"]:
    """`entmax_loss` at alpha = 2; arguments, result and errors as there.

    Example:
        >>> import torch, tsallis as ts
        >>> ts.sparsemax_loss(torch.tensor([[-1.0, 0.0, 0.5, 1.2]]), torch.tensor([3]))
        tensor(0.0225)

    References:
        martins2016softmax
    """
    return generalised_cross_entropy(
        get("sparsemax"), z, target, weight=weight, ignore_index=ignore_index, reduction=reduction,
        label_smoothing=label_smoothing, backend=backend,
    )  # fmt: skip


def entmax15_loss(
    z: Num[Tensor, "*logits"],
    target: Num[Tensor, "*target"],
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    backend: str | None = None,
) -> Float[Tensor, "*loss"]:
    """`entmax_loss` at alpha = 1.5; arguments, result and errors as there.

    Example:
        >>> import torch, tsallis as ts
        >>> ts.entmax15_loss(torch.tensor([[-1.0, 0.0, 0.5, 1.2]]), torch.tensor([3]))
        tensor(0.1361)

    References:
        peters2019sparse
    """
    return generalised_cross_entropy(
        get("entmax15"), z, target, weight=weight, ignore_index=ignore_index, reduction=reduction,
        label_smoothing=label_smoothing, backend=backend,
    )  # fmt: skip
