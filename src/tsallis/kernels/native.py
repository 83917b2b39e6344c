"""Softmax by torch's own kernel, with the row policy around it; on every device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.dispatch import Kernel, Signature, add_kernel

DTYPES = (torch.float32, torch.float64)


def _without_fully_masked(z: Tensor, p: Tensor, dim: int) -> Tensor:
    """p with zeros in rows without a finite score, where torch has NaN. Those are looked for on a CPU only; elsewhere
    looking would wait for the device.
    """
    if p.device.type == "cpu" and not bool(p.select(dim, 0).isnan().any()):
        return p
    return torch.where(z.amax(dim, keepdim=True) == -torch.inf, 0.0, p)


class Softmax:
    """Both forms of the kernel (`core.dispatch`)."""

    def forward(
        self, z: Tensor, dim: int, mask: Tensor | None, params: Sequence[float | Tensor], train: bool
    ) -> tuple[Tensor, Tensor, None]:
        x = z if mask is None else torch.where(mask, z, -torch.inf)
        p = _without_fully_masked(x, torch.softmax(x, dim), dim).contiguous()
        return p, p, None

    def backward(
        self,
        p: Tensor,
        g: Tensor,
        dim: int,
        params: Sequence[float | Tensor],
        kept: Tensor | None,
        wanted: Sequence[bool],
    ) -> tuple[Tensor, list[Tensor | None]]:
        return torch.ops.aten._softmax_backward_data(g, p, dim, p.dtype), []

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        lam = torch.logsumexp(z, -1)
        return self.forward(z, z.dim() - 1, None, (), False)[0], torch.where(lam == torch.inf, torch.nan, lam)


def _supports(signature: Signature) -> str | None:
    if signature.dtype not in DTYPES:
        return f"for float32 and float64, not {signature.dtype}"
    return "for at least one row and one entry" if 0 in signature.shape else None


def offer_all() -> None:
    """Add the kernel."""
    kernel = Softmax()
    add_kernel("softmax", Kernel("torch", kernel, 10, _supports, lambda: kernel))
