"""Derivatives of factor graphs: which way marginals move on the faces that the method ended on.

With the faces held, marginals z move in V = {v : C_f v lies in the directions of face f, for every factor f}, and

    dz = P (dx + sum_f C_f' T_f' dy_f),    dnu_f = T_f C_f dz,

with P the orthogonal projection onto V and T_f what pairs are of their variables on a face. That map is symmetric, so
it is its own transpose, and constant, so it is its own derivative.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from .layout import Layout
from .stacks import Moves

# What is left of the equations of V, relative to the gradient.
TOLERANCE = 1e-9


def _most(variables: int) -> int:
    """Steps of conjugate gradients: as many as there are variables would do without rounding."""
    return 2 * variables + 10


class Tangent:
    """The map above.

    Args:
        layout: of the graph.
        faces: of each stack.
        free: (B, n + 1) variables that are not fixed.
    """

    def __init__(self, layout: Layout, faces: list[Moves], free: Tensor) -> None:
        self.layout, self.faces, self.free = layout, faces, free.double()

    def __call__(self, dx: Tensor, dy: list[Tensor]) -> tuple[Tensor, ...]:
        """(dz, *dnu)."""
        back = [face.back(w) for face, w in zip(self.faces, dy, strict=True)]
        dz = self._onto(self.free * (dx + self.layout.gathered(self.layout.joined(dx, back))))
        moved = self.layout.parts(self.layout.spread(dz))
        return dz, *(face.pairs(v) for face, v in zip(self.faces, moved, strict=True))

    def _off(self, v: Tensor) -> Tensor:
        """What variables' copies have across their faces: zero on V, and symmetric."""
        moved = self.layout.parts(self.layout.spread(v))
        across = [part - face.along(part) for face, part in zip(self.faces, moved, strict=True)]
        return self.free * self.layout.gathered(self.layout.joined(v, across))

    def _onto(self, g: Tensor) -> Tensor:
        """P g = g - w, where w solves off w = off g in the range of off: conjugate gradients never leave it."""
        v, rest = g.clone(), self._off(g)
        step, size = rest, rest.square().sum(1)
        small = TOLERANCE**2 * g.square().sum(1)
        for _ in range(_most(g.shape[1])):
            live = size > small
            if not bool(live.any()):
                return v
            image = self._off(step)
            length = torch.where(live, size / (step * image).sum(1).clamp_min(1e-300), 0.0)[:, None]
            v, rest = v - length * step, rest - length * image
            new = rest.square().sum(1)
            step = rest + torch.where(live, new / size.clamp_min(1e-300), 0.0)[:, None] * step
            size = torch.where(live, new, size)
        bad = size > small
        if bool(bad.any()):
            left = float((size / small).max().sqrt()) * TOLERANCE
            warnings.warn(
                f"The gradient of {int(bad.sum())} items of a factor graph is off its face by {left:.1e}, relative",
                RuntimeWarning, stacklevel=2,
            )  # fmt: skip
        return v


class Moved(torch.autograd.Function):
    """(tangent, dx, *dy) -> (dz, *dnu), any number of times differentiable."""

    @staticmethod
    def forward(ctx: Any, tangent: Tangent, dx: Tensor, *dy: Tensor) -> tuple[Tensor, ...]:
        ctx.tangent = tangent
        return tangent(dx, list(dy))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *Moved.apply(ctx.tangent, *grads)
