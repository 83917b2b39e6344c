"""SparseMAP by a kernel that is compiled, where there is one, with its derivatives."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..core.dispatch import active_set
from ..core.fused import is_plain
from ..core.structures import ActiveSet, Start, Structures, Supports
from .factor import Factor, Scores


def described(factor: Factor) -> Structures | None:
    """A factor in words of kernels; None where `best` is somebody else's than the description."""
    return factor.described() if _fits(type(factor)) else None


@cache
def _fits(kind: type[Factor]) -> bool:
    return _author(kind, "best") is _author(kind, "described")


def _author(kind: type, name: str) -> type:
    return next(parent for parent in kind.__mro__ if name in vars(parent))


def kernel_for(given: Scores, structures: Structures | None, most: int, whole: bool) -> ActiveSet | None:
    """The kernel that serves these scores; None where the reference does."""
    if structures is None or not len(given.unary) or not (is_plain(given.unary) and is_plain(given.additional)):
        return None
    kernel = active_set(given.unary, None)
    return None if kernel is None or kernel.refuses(structures, most, whole) is not None else kernel


class Derived:
    """What was found, with derivatives: linear maps on a support and a face that stay.

    Attributes:
        kernel, found: the kernel and what it found.
        slots: how many weights there are.
        scale: by which scores were multiplied.
        slopes: of marginals by their own scores, where that is known; else None.
    """

    def __init__(self, kernel: ActiveSet, found: Supports, slots: int, scale: float, slopes: Tensor | None) -> None:
        self.kernel, self.found, self.slots, self.scale, self.slopes = kernel, found, slots, scale, slopes

    def to_scores(self, g_mu: Tensor | None, g_nu: Tensor | None, g_weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """The gradient in scores."""
        found, parts = self.found, []
        if g_mu is not None or g_nu is not None:
            g_mu = torch.zeros_like(found.marginals) if g_mu is None else g_mu
            g_nu = torch.zeros_like(found.pairs) if g_nu is None else g_nu
            if self.slopes is not None:
                parts.append((self.slopes * g_mu, g_nu))
            else:
                parts.append(_Symmetric.apply(self, g_mu, g_nu))
        if g_weights is not None:
            parts.append(_ScoresOfWeights.apply(self, g_weights))
        if not parts:
            return torch.zeros_like(found.marginals), torch.zeros_like(found.pairs)
        return tuple(sum(part) for part in zip(*parts, strict=True))  # pyright: ignore[reportReturnType]


class Solved(torch.autograd.Function):
    """(what was found, weights, unary scores, those of pairs) -> (weights, marginals, pairs)."""

    @staticmethod
    def forward(ctx: Any, derived: Derived, weights: Tensor, unary: Tensor, additional: Tensor) -> tuple[Tensor, ...]:
        ctx.derived = derived
        ctx.set_materialize_grads(False)
        return weights, derived.found.marginals, derived.found.pairs

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        return None, None, *ctx.derived.to_scores(grads[1], grads[2], grads[0])


class _Symmetric(torch.autograd.Function):
    """The derivative of marginals and pairs in a direction of scores; its own transpose."""

    @staticmethod
    def forward(ctx: Any, derived: Derived, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        ctx.derived = derived
        return derived.kernel.marginals_of_scores(derived.found, x, y, derived.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        return None, *_Symmetric.apply(ctx.derived, *grads)  # pyright: ignore[reportGeneralTypeIssues]


class _ScoresOfWeights(torch.autograd.Function):
    """The gradient in scores from that in weights; its transpose is the derivative of weights."""

    @staticmethod
    def forward(ctx: Any, derived: Derived, weights: Tensor) -> tuple[Tensor, Tensor]:
        ctx.derived = derived
        return derived.kernel.scores_of_weights(derived.found, weights, derived.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        return None, _WeightsOfScores.apply(ctx.derived, *grads)


class _WeightsOfScores(torch.autograd.Function):
    """The derivative of weights in a direction of scores."""

    @staticmethod
    def forward(ctx: Any, derived: Derived, x: Tensor, y: Tensor) -> Tensor:
        ctx.derived = derived
        return derived.kernel.weights_of_scores(derived.found, x, y, derived.slots, derived.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        return None, *_ScoresOfWeights.apply(ctx.derived, *grads)  # pyright: ignore[reportGeneralTypeIssues]


def begin(inner: Scores, drawn: Scores | None, again: tuple[Tensor, Tensor, Tensor] | None) -> Start:
    """Where a kernel starts: from other scores, or from structures with weights as far as they are used."""
    if drawn is not None:
        return Start(drawn.unary.contiguous(), drawn.additional.contiguous())
    if again is not None:
        structures, weights, used = again
        d = inner.unary.shape[1]
        return Start(
            structures=structures[..., :d].cpu().contiguous(), weights=weights.cpu().contiguous(),
            used=used.cpu().contiguous(),
        )  # fmt: skip
    return Start()
