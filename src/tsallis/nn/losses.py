"""Losses as modules."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..core.registry import get
from ..losses import entmax_loss, fenchel_young_loss
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
