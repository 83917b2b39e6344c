"""Euclidean projections onto the hulls of logic factors, a stack of factors at once, with the faces they end on.

Three forms are enough. Negated variables (t for 1 - t) make the others of them: exactly one with the output negated is
`XorOut`, at least one with the inputs negated is `Imply`, `OrOut` with all negated is `AndOut`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Face:
    """Directions in which a projection moves when what is projected does: a piece of a piecewise linear map.

    Attributes:
        own: (..., n) coordinates that move by themselves.
        tied: (..., n) of 0, 1 and -1: those that one equation binds, which are `own` too unless they move together.
        together: (..., 1) whether tied ones move together; otherwise their sum stays.
        slope: (..., n, e) derivatives of pairs by the coordinates, along these directions.
    """

    own: Tensor
    tied: Tensor
    together: Tensor
    slope: Tensor

    def along(self, v: Tensor) -> Tensor:
        """The orthogonal projection of v onto these directions."""
        share = (self.tied * v).sum(-1, keepdim=True) / self.tied.square().sum(-1, keepdim=True).clamp_min(1.0)
        return self.own * v + torch.where(self.together, share, -share) * self.tied

    def pairs(self, v: Tensor) -> Tensor:
        """How pairs move along v, one of these directions."""
        return (self.slope * v[..., None]).sum(-2)

    def back(self, w: Tensor) -> Tensor:
        """The transpose of `pairs`, up to what `along` takes away."""
        return (self.slope * w[..., None, :]).sum(-1)


def _inside(x: Tensor) -> Tensor:
    return (x > 0) & (x < 1)


def counted(t: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Face]:
    """Nearest points with entries in [0, 1] and a sum from low to high, whole numbers (..., 1).

    The entries are clamp(t - tau, 0, 1), with tau = 0 unless a bound binds.
    """
    total = t.clamp(0, 1).sum(-1, keepdim=True)
    k = torch.minimum(torch.maximum(total, low), high)
    binds = k != total
    moved = t - torch.where(binds, _threshold(t, k), 0.0)
    own = _inside(moved).to(t.dtype)
    face = Face(own, own * binds, torch.zeros_like(binds), t.new_zeros(*t.shape, 0))
    return moved.clamp(0, 1), face


def _threshold(t: Tensor, k: Tensor) -> Tensor:
    """tau with sum clamp(t - tau, 0, 1) = k, (..., 1): the sum is linear between the points t and t - 1."""
    n = t.shape[-1]
    points, order = torch.cat([t, t - 1], -1).sort(dim=-1, descending=True)
    rising = torch.where(order < n, 1.0, -1.0).to(t.dtype).cumsum(-1)
    rise = rising[..., :-1] * (points[..., :-1] - points[..., 1:])
    reached = torch.nn.functional.pad(rise.cumsum(-1), (1, 0))
    last = ((reached <= k).sum(-1, keepdim=True) - 1).clamp_min(0)
    first = points.gather(-1, last)
    tau = first - (k - reached.gather(-1, last)) / rising.gather(-1, last).clamp_min(1.0)
    # Once more, without the rounding of what was added up on the way.
    inside, whole = _inside(t - tau), (t - tau >= 1).sum(-1, keepdim=True)
    count = inside.sum(-1, keepdim=True)
    exact = (torch.where(inside, t, 0.0).sum(-1, keepdim=True) + whole - k) / count.clamp_min(1)
    return torch.where(count > 0, exact, tau)


def or_out(t: Tensor) -> tuple[Tensor, Face]:
    """Nearest points with entries in [0, 1] of which the first is at least each other one, and at most their sum.

    Without the last condition inputs above a common level come down to it, and the output up: the level is the highest
    mean of the output and the largest inputs. If the condition does not hold then, it binds, and implies the others.
    """
    out, ins = t[..., :1], t[..., 1:]
    largest = ins.sort(dim=-1, descending=True).values.cumsum(-1)
    sizes = torch.arange(1, t.shape[-1] + 1, dtype=t.dtype, device=t.device)
    level = (torch.cat([out, out + largest], -1) / sizes).amax(-1, keepdim=True)
    met = torch.cat([torch.ones_like(out, dtype=torch.bool), ins > level], -1)
    apart = torch.where(met, level, t).clamp(0, 1)
    binds = apart[..., 1:].sum(-1, keepdim=True) < apart[..., :1]
    # Exactly one of the inputs and what the output is short of 1.
    flip = torch.ones_like(sizes)
    flip[0] = -1
    shift = (1 - flip) / 2
    one = torch.ones_like(out)
    summed, face = counted(flip * t + shift, one, one)
    tied = torch.where(binds, flip * face.tied, (met & _inside(level)).to(t.dtype))
    own = torch.where(binds, face.own, (~met & _inside(t)).to(t.dtype))
    return torch.where(binds, flip * summed + shift, apart), Face(own, tied, ~binds, face.slope)


def pair(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Face]:
    """Nearest points of (..., 2), and their pair (..., 1), with a score y for it.

    The pair is the smaller of both if y >= 0. Otherwise it is what the first has above what the second leaves of 1:
    with 1 - t for the second, the first as it is minus a pair with -y.
    """
    first, second = t[..., :1], t[..., 1:]
    # Beyond this a score changes nothing more.
    most = 4 + 2 * (first.abs() + second.abs())
    y = torch.minimum(torch.maximum(y, -most), most)
    against = y < 0
    a, b = torch.where(against, first + y, first), torch.where(against, 1 - second, second)
    c = y.abs()
    left, right = a > b + c, b > a + c
    mean = (a + b + c) / 2
    a, b = torch.where(left, a, torch.where(right, a + c, mean)), torch.where(left, b + c, torch.where(right, b, mean))
    inside = _inside(torch.cat([a, b], -1)).to(t.dtype)
    a, b = a.clamp(0, 1), b.clamp(0, 1)
    apart = left | right
    tied = torch.where(apart, 0.0, inside * torch.where(against, t.new_tensor([1.0, -1.0]), 1.0))
    lower = a <= b
    # Of a pair by both.
    slope = torch.cat([(lower ^ against), ~lower], -1).to(t.dtype)
    nu = torch.minimum(a, b)
    mu = torch.cat([a, torch.where(against, 1 - b, b)], -1)
    face = Face(inside * apart, tied, ~apart, slope[..., None])
    return mu, torch.where(against, a - nu, nu), face
