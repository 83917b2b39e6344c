"""The public door of the output layer with its loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.errors import ParameterError, ShapeError
from ..core.fused import is_plain
from ..core.inputs import check_tensor
from ..core.mapping import HALF, Mapping
from ..core.params import as_number_or_rows
from ..core.registry import get
from .linear_layer import Layer, LinearLoss, LinearReport, Method
from .targets import Reduction, checked_index, reduce, row_parameter, smoothing_amount


@overload
def linear_entmax_loss(
    hidden: Float[Tensor, "*batch width"], weight: Float[Tensor, "words width"], target: Int[Tensor, "*batch"],
    bias: Float[Tensor, " words"] | None = ..., *, alpha: float | Float[Tensor, ...] = ..., ignore_index: int = ...,
    reduction: Reduction = ..., label_smoothing: float = ..., sparse_grad: bool = ..., method: Method | None = ...,
    backend: str | None = ..., return_report: Literal[False] = ...,
) -> Float[Tensor, "*loss"]: ...  # fmt: skip


@overload
def linear_entmax_loss(
    hidden: Float[Tensor, "*batch width"], weight: Float[Tensor, "words width"], target: Int[Tensor, "*batch"],
    bias: Float[Tensor, " words"] | None = ..., *, alpha: float | Float[Tensor, ...] = ..., ignore_index: int = ...,
    reduction: Reduction = ..., label_smoothing: float = ..., sparse_grad: bool = ..., method: Method | None = ...,
    backend: str | None = ..., return_report: Literal[True],
) -> tuple[Float[Tensor, "*loss"], LinearReport]: ...  # fmt: skip


def linear_entmax_loss(
    hidden: Float[Tensor, "*batch width"],
    weight: Float[Tensor, "words width"],
    target: Int[Tensor, "*batch"],
    bias: Float[Tensor, " words"] | None = None,
    *,
    alpha: float | Float[Tensor, ...] = 1.5,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    sparse_grad: bool = False,
    method: Method | None = None,
    backend: str | None = None,
    return_report: bool = False,
) -> Tensor | tuple[Tensor, LinearReport]:
    r"""`entmax_loss` of a linear layer's scores, without ever holding them all.

    $$L(W h + b; y), \qquad \nabla_{h} L = W^\top (p - e_y), \qquad \nabla_{W} L = (p - e_y) h^\top$$

    Where p is zero nothing flows back, so only the words in a support are kept, and only their rows of the weight are
    touched. While most words are in the support, as in an untrained model, chunks of dense scores serve instead.

    Args:
        hidden: (..., h) hidden states. Half precision is computed in float32. Under autocast dense chunks multiply in
            its dtype, as `torch.nn.Linear` does, and losses, lists and sums over chunks are in float32.
        weight: (V, h), as in `torch.nn.Linear`; may be tied to an embedding.
        target: class indices of shape (...).
        bias: (V).
        alpha: in (0, inf): a number, a scalar tensor, or one value per target; with gradient.
        ignore_index: targets with this value contribute nothing, and their hidden states are never read.
        reduction: "mean" over targets that are not ignored, "sum" or "none".
        label_smoothing: in [0, 1]; the target becomes (1 - eps) e_y + eps/V.
        sparse_grad: whether the gradient of the weight is a sparse tensor of the rows touched, for
            `torch.optim.SparseAdam`.
        method: "lists" (keep the support; scores are as `torch.mm` makes them, on a GPU in TF32 where that is allowed),
            "screened" (find candidates in bfloat16, with a proven bound on its error, and recompute them), "dense"
            (chunks of all scores), or None, which chooses lists where there are zeros, screened if this machine
            multiplies bfloat16 faster.
        backend: as in `entmax`.
        return_report: whether to return (loss, `LinearReport`), which says what was done and why.

    Returns:
        a scalar, or one loss per target (0 where ignored); in the dtype of ``hidden``. A mean over no target is NaN, a
        sum 0. Hidden states or weights that are not finite give NaN.

    Raises:
        ParameterError: a Python alpha <= 0, label_smoothing outside [0, 1], a target that is no class, an unknown
            reduction or method; label_smoothing with sparse_grad, whose gradient has no zero row.
        ShapeError: shapes that do not fit.

    Differentiability:
        any order in hidden, weight, bias and alpha; from the second on all N x V scores are held.

    Complexity:
        one product of N x V x h, in blocks; the gradients N x (support) x h. Memory: a block of scores, lists of at
        most V/16 words for each of 2048 targets (8192 on a GPU) at a time, and the supports. One graph break under
        `torch.compile`: the size of lists depends on values.

    Example:
        >>> import torch, tsallis as ts
        >>> hidden, weight = torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, -3.0]])
        >>> ts.linear_entmax_loss(hidden, weight, torch.tensor([0, 1]), alpha=2.0)
        tensor(0.0312)

    References:
        peters2019sparse
    """
    whole = _outside_of_graphs if torch.compiler.is_compiling() else _linear_loss
    loss, report = whole(
        hidden, weight, target, bias, alpha, ignore_index, reduction, label_smoothing, sparse_grad, method, backend
    )
    return (loss, report) if return_report else loss


def _linear_loss(
    hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None, alpha: float | Tensor, ignore_index: int,
    reduction: str, label_smoothing: float, sparse_grad: bool, method: Method | None, backend: str | None,
) -> tuple[Tensor, LinearReport]:  # fmt: skip
    mapping, amount = get("entmax"), smoothing_amount(label_smoothing)
    ignore_index = checked_index(ignore_index)
    if method is not None and method not in get_args(Method):
        raise ParameterError(f"method={method!r}", f"one of {', '.join(get_args(Method))}, or None", "Choose one")
    if sparse_grad and amount:
        raise ParameterError(
            f"sparse_grad with label_smoothing={label_smoothing}",
            "no smoothing: it moves every row of the weight",
            "Leave one of them out",
        )
    hidden, weight, target, bias = _checked(hidden, weight, target, bias)
    dtype = hidden.dtype
    alpha = row_parameter(alpha, hidden, "alpha")
    flat, index = hidden.reshape(-1, hidden.shape[-1]), target.reshape(-1).long()
    params = _flat_parameters(mapping, alpha, hidden)
    kept = None
    if bool((index == ignore_index).any()):
        kept = (index != ignore_index).nonzero().squeeze(1)
        flat, index = flat[kept], index[kept]
        params = [x[kept] if isinstance(x, Tensor) and x.dim() else x for x in params]
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(weight):
        raise ParameterError(
            f"Targets from {int(index.min())} to {int(index.max())}",
            f"classes from 0 to {len(weight) - 1}, or ignore_index={ignore_index}",
            "Correct the targets",
        )
    report = LinearReport()
    device = flat.device.type
    factors = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    if torch.float64 in (flat.dtype, weight.dtype) or factors not in HALF:
        factors = None
    layer = Layer(mapping, amount, sparse_grad, method, backend, torch.is_grad_enabled(), factors, report)
    with torch.autocast(device, enabled=False):
        losses = _losses(layer, flat, weight, bias, index, params)
    if reduction != "none":
        loss = reduce(losses, reduction)
    else:
        loss = losses if kept is None else losses.new_zeros(target.numel()).index_copy(0, kept, losses)
        loss = loss.reshape(target.shape)
    return loss.to(dtype), report


# As `torch.compiler.disable`, which would load the compiler when this module is imported.
_outside_of_graphs = torch._disable_dynamo(_linear_loss)  # pyright: ignore[reportPrivateImportUsage]


class Widened(torch.autograd.Function):
    """`Tensor.to` a dtype, whose own backward pass takes no sparse gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = x.dtype
        return x.to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0].to(ctx.dtype), None


def _losses(
    layer: Layer, hidden: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor, params: Sequence[float | Tensor]
) -> Tensor:
    compute = torch.promote_types(hidden.dtype, weight.dtype)
    compute = torch.float32 if compute in HALF else compute
    hidden = hidden.to(compute)
    weight = Widened.apply(weight, compute) if layer.sparse_grad and weight.dtype != compute else weight.to(compute)
    bias = None if bias is None else bias.to(compute)
    if not len(index) or not all(is_plain(x) for x in (hidden, weight, bias, index, *params) if isinstance(x, Tensor)):
        layer.report.reason = "no targets" if not len(index) else "inside a function transform"
        return layer.whole(hidden, weight, bias, index, params)
    return LinearLoss.apply(
        layer,
        hidden.contiguous(),
        weight.contiguous(),
        None if bias is None else bias.contiguous(),
        index.contiguous(),
        *params,
    )  # pyright: ignore[reportReturnType]


def _checked(
    hidden: object, weight: object, target: object, bias: object
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    hidden, weight, target = (
        check_tensor(x, name) for x, name in ((hidden, "hidden"), (weight, "weight"), (target, "target"))
    )
    if not hidden.is_floating_point() or not weight.is_floating_point() or target.is_floating_point():
        raise ParameterError(
            f"hidden {hidden.dtype}, weight {weight.dtype}, target {target.dtype}",
            "floating hidden states and weight, and class indices",
            "Convert them",
        )
    if weight.dim() != 2 or not weight.numel() or hidden.dim() < 1 or hidden.shape[-1] != weight.shape[1]:
        raise ShapeError(
            f"hidden of shape {tuple(hidden.shape)} and weight of shape {tuple(weight.shape)}",
            "(..., h) and (V, h), neither h nor V 0",
            "Check which is which: weight is that of torch.nn.Linear",
        )
    if target.shape != hidden.shape[:-1]:
        raise ShapeError(
            f"target of shape {tuple(target.shape)} for hidden of shape {tuple(hidden.shape)}",
            f"{tuple(hidden.shape[:-1])}",
            "Pass one class per hidden state",
        )
    if bias is not None:
        bias = check_tensor(bias, "bias")
        if tuple(bias.shape) != (len(weight),):
            raise ShapeError(f"bias of shape {tuple(bias.shape)}", f"({len(weight)},)", "Pass one number per class")
    if len({x.device for x in (hidden, weight, target, bias) if isinstance(x, Tensor)}) > 1:
        raise ParameterError("hidden, weight, target and bias on several devices", "one device", "Move them with .to()")
    return hidden, weight, target, bias


def _flat_parameters(mapping: Mapping, alpha: float | Tensor, hidden: Tensor) -> list[float | Tensor]:
    """Parameters as losses want them: numbers, scalars, or (N, 1)."""
    values = {"alpha": alpha}
    found = [as_number_or_rows(p.for_losses(), values[p.name], hidden, -1) for p in mapping.params]
    return [x.expand(*hidden.shape[:-1], 1).reshape(-1, 1) if isinstance(x, Tensor) and x.dim() else x for x in found]
