"""SparseMAP by a kernel that is compiled, where there is one, with its derivatives."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..core.dispatch import active_set
from ..core.fused import is_plain
from ..core.structures import ActiveSet, Start, Structures, Supports
from .active_set import State, corner
from .factor import Factor, Scores

# By how much of the square of its argument a projection may miss that its rest is orthogonal to it.
PROJECTION = 1e-6
# Of the largest step of a face, what is not rounding.
ALONG = 1e-9


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
        factor, kernel, found: of which structures, the kernel, and what it found.
        slots: how many weights there are.
        scale: by which scores were multiplied.
        slopes: of marginals by their own scores, where that is known; else None.
    """

    def __init__(
        self, factor: Factor, kernel: ActiveSet, found: Supports, slots: int, scale: float, slopes: Tensor | None
    ) -> None:
        self.factor, self.kernel, self.found = factor, kernel, found
        self.slots, self.scale, self.slopes = slots, scale, slopes

    def to_scores(self, g_mu: Tensor | None, g_nu: Tensor | None, g_weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """The gradient in scores."""
        found, parts = self.found, []
        if g_mu is not None or g_nu is not None:
            g_mu = torch.zeros_like(found.marginals) if g_mu is None else g_mu
            g_nu = torch.zeros_like(found.pairs) if g_nu is None else g_nu
            if self.slopes is not None:
                parts.append((self.slopes * g_mu, g_nu))
            else:
                plain = is_plain(g_mu) and is_plain(g_nu)
                parts.append(_Symmetric.apply(self, g_mu, g_nu) if plain else self._symmetric(g_mu, g_nu))
        if g_weights is not None:
            plain = is_plain(g_weights)
            parts.append(_ScoresOfWeights.apply(self, g_weights) if plain else self._of_weights(g_weights))
        if not parts:
            return torch.zeros_like(found.marginals), torch.zeros_like(found.pairs)
        return tuple(sum(part) for part in zip(*parts, strict=True))  # pyright: ignore[reportReturnType]

    # Many gradients at once (`torch.autograd.grad(is_grads_batched=True)`, vmap) have no memory that kernels can read.

    def _symmetric(self, g_mu: Tensor, g_nu: Tensor) -> tuple[Tensor, Tensor]:
        structures, inverse = self._numbers(self.found.sizes[:, 1])
        ahead = structures @ torch.cat([g_mu, g_nu], -1)[..., None]
        return self._split(structures.mT @ (inverse @ ahead))

    def _of_weights(self, g: Tensor) -> tuple[Tensor, Tensor]:
        structures, inverse = self._numbers(self.found.sizes[:, 0])
        return self._split(structures.mT @ (inverse @ g[..., None]))

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x, d = self.scale * x.squeeze(-1), self.factor.variables
        return x.narrow(-1, 0, d), x.narrow(-1, d, self.factor.additional)

    def _numbers(self, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """The first structures of items (B, S, d + e), and the corner of the inverse of their bordered matrix."""
        state = self._state(sizes)
        return state.structures, corner(state, self.factor.variables)

    def projected(self, x: Tensor, items: Tensor) -> Tensor:
        """The derivative of marginals of these items in a direction of their scores: a projection, by singular vectors,
        whatever the structures are.
        """
        state, d = self._state(self.found.sizes[:, 1]), self.factor.variables
        unary = state.structures[items, :, :d]
        steps = torch.where(state.used[items][..., None], unary - unary[:, :1], 0.0)
        size, along = torch.linalg.svd(steps, full_matrices=False)[1:]
        along = along * (size > ALONG * size[:, :1])[..., None]
        return self.scale * (along.mT @ (along @ x[items][..., None]))[..., 0]

    def _state(self, sizes: Tensor) -> State:
        found, d = self.found, self.factor.variables
        slots = max(1, int(sizes.max()))
        used = torch.arange(slots) < sizes[:, None]
        # What lies behind is memory that was never written.
        codes = torch.where(used[..., None], found.vertices[:, :slots], 0)
        if found.factor.kind == "bits":
            unary = (codes[..., None] >> torch.arange(64) & 1).flatten(2)[..., :d].double()
        else:
            n = found.factor.places
            ends = n if found.lengths is None else found.lengths[:, None, None]
            there = used[..., None] & (torch.arange(n) < ends)
            unary = torch.zeros(*used.shape, d, dtype=torch.float64)
            unary.scatter_add_(2, torch.where(there, codes, 0), there.double())
        pairs = self.factor.pairs(unary.flatten(0, 1)).unflatten(0, used.shape)
        return State(torch.cat([unary, pairs], -1), used.double(), used)


class Solved(torch.autograd.Function):
    """(what was found, weights, unary scores, those of pairs) -> (weights, marginals, pairs)."""

    @staticmethod
    def forward(ctx: Any, derived: Derived, weights: Tensor, unary: Tensor, additional: Tensor) -> tuple[Tensor, ...]:
        ctx.derived = derived
        ctx.set_materialize_grads(False)
        # Copies: what this node keeps must not be what leads to it, or nothing of either would ever be freed.
        return weights.clone(), derived.found.marginals.clone(), derived.found.pairs.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        return None, None, *ctx.derived.to_scores(grads[1], grads[2], grads[0])


class _Symmetric(torch.autograd.Function):
    """The derivative of marginals and pairs in a direction of scores; its own transpose."""

    @staticmethod
    def forward(ctx: Any, derived: Derived, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        ctx.derived = derived
        mu, nu = derived.kernel.marginals_of_scores(derived.found, x, y, derived.scale)
        if not y.shape[1]:
            # Of a face whose structures are all but dependent no inverse is good enough, which shows.
            wrong = (mu * (derived.scale * x - mu)).sum(-1).abs() > PROJECTION * (derived.scale * x).square().sum(-1)
            if bool(wrong.any()):
                mu[wrong] = derived.projected(x, wrong)
        return mu, nu

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
