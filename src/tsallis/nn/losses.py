"""Losses as modules."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ..core.errors import ShapeError
from ..core.registry import get
from ..losses import LinearReport, entmax_loss, fenchel_young_loss, linear_entmax_loss
from ..losses.linear_layer import Method
from ..losses.targets import Reduction
from .mapping import ParameterHolder


class FenchelYoungLoss(ParameterHolder):
    """`ts.fenchel_young_loss` as a module; arguments as there, parameters as in `ts.nn.Entmax`."""

    def __init__(self, mapping: str, *, dim: int = -1, reduction: Reduction = "mean", **params: Any) -> None:
        super().__init__()
        get(mapping).check_names(params)
        self.mapping, self.dim = mapping, dim
        self.reduction: Reduction = reduction
        self.hold(params)

    def forward(self, z: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        return fenchel_young_loss(self.mapping, z, target, self.dim, mask=mask, reduction=self.reduction, **self.held())

    def extra_repr(self) -> str:
        return ", ".join(filter(None, [repr(self.mapping), super().extra_repr(), f"reduction={self.reduction!r}"]))


class EntmaxLoss(ParameterHolder):
    """`ts.entmax_loss` as a module: where `torch.nn.CrossEntropyLoss` stands, with the same options, plus alpha.

    Args:
        alpha: a number, a tensor (becomes a buffer), an `nn.Parameter`, or `ts.nn.Alpha`.
        weight, ignore_index, reduction, label_smoothing: as in `torch.nn.CrossEntropyLoss`.
    """

    weight: Tensor | None

    def __init__(
        self,
        alpha: float | Tensor | nn.Module = 1.5,
        *,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.hold({"alpha": alpha})
        self.register_buffer("weight", weight)
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing
        self.reduction: Reduction = reduction

    def forward(self, z: Tensor, target: Tensor) -> Tensor:
        return entmax_loss(
            z, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction,
            label_smoothing=self.label_smoothing, **self.held(),
        )  # fmt: skip


class LinearEntmaxLoss(ParameterHolder):
    """An output layer with its loss: `ts.linear_entmax_loss` where `torch.nn.Linear` and a loss stand.

    Args:
        in_features: size of hidden states.
        num_classes: how many scores the layer gives.
        alpha: a number, a tensor (becomes a buffer), an `nn.Parameter`, or `ts.nn.Alpha`.
        bias: whether there is one.
        weight: the parameter (num_classes, in_features) of another module, such as an embedding's, to tie the layer to.
        ignore_index, reduction, label_smoothing, sparse_grad, method: as in `ts.linear_entmax_loss`.

    Attributes:
        report: how the last batch was computed (`ts.losses.LinearReport`).
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        alpha: float | Tensor | nn.Module = 1.5,
        *,
        bias: bool = False,
        weight: nn.Parameter | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        sparse_grad: bool = False,
        method: Method | None = None,
    ) -> None:
        super().__init__()
        self.hold({"alpha": alpha})
        fresh = nn.Linear(in_features, num_classes, bias=bias)
        if weight is not None and weight.shape != fresh.weight.shape:
            raise ShapeError(
                f"weight of shape {tuple(weight.shape)}",
                f"{tuple(fresh.weight.shape)}, (num_classes, in_features)",
                "Pass the parameter to tie to as it is",
            )
        self.weight = fresh.weight if weight is None else weight
        self.bias = fresh.bias if bias else None
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing
        self.reduction: Reduction = reduction
        self.sparse_grad = sparse_grad
        self.method: Method | None = method
        self.report = LinearReport()

    def forward(self, hidden: Tensor, target: Tensor) -> Tensor:
        loss, self.report = linear_entmax_loss(
            hidden, self.weight, target, self.bias, ignore_index=self.ignore_index, reduction=self.reduction,
            label_smoothing=self.label_smoothing, sparse_grad=self.sparse_grad, method=self.method, return_report=True,
            **self.held(),
        )  # fmt: skip
        return loss

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores of all classes, for prediction: `ts.entmax` makes probabilities of them."""
        return functional.linear(hidden, self.weight, self.bias)

    def extra_repr(self) -> str:
        classes, width = self.weight.shape
        return ", ".join(filter(None, [f"{width}, {classes}, bias={self.bias is not None}", super().extra_repr()]))
