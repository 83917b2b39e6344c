"""The dropout of this library's layers."""

from __future__ import annotations

from torch import Tensor, nn

from ..core.dropping import dropped


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` that draws other random numbers."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.inplace or not 0 <= self.p <= 1:
            return super().forward(input)
        return dropped(input, self.p)
