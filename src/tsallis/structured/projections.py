"""Euclidean projections onto the hulls of logic factors, a stack of factors at once, with the faces they end on.

Three forms are enough: bounds on how many are on, `OrOut` and `Pair`. Negated variables (t for 1 - t) make the others
of them: exactly one with the output negated is `XorOut`, at least one with the inputs negated is `Imply`, `OrOut` with
all negated is `AndOut`.
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


def counted(t: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest points with entries in [0, 1] and a sum from low to high, whole numbers (..., 1): they are x clamped to
    [0, 1], where x = t - tau, with tau = 0 unless a bound binds, (..., 1). Returns x and which bind.
    """
    total = t.clamp(0, 1).sum(-1, keepdim=True)
    k = torch.minimum(torch.maximum(total, low), high)
    binds = k != total
    return t - torch.where(binds, _threshold(t, k), 0.0), binds


def _threshold(t: Tensor, k: Tensor) -> Tensor:
    """tau with sum clamp(t - tau, 0, 1) = k, (..., 1): the sum is linear between the points t and t - 1."""
    n = t.shape[-1]
    less = t - 1
    points, order = torch.cat([t, less], -1).sort(dim=-1, descending=True)
    rising = torch.where(order < n, 1.0, -1.0).to(t.dtype).cumsum(-1)
    # The sum at each point but the first, where it is 0.
    reached = (rising[..., :-1] * (points[..., :-1] - points[..., 1:])).cumsum(-1)
    # Up to the first point at which it is k, those between 0 and 1 are the same.
    point = points.gather(-1, (reached < k).sum(-1, keepdim=True).clamp_max(2 * n - 2) + 1)
    point = torch.where(k > 0, point, points[..., :1])
    # Compared with the very numbers that it is one of.
    whole = less > point
    inside = (t > point) & ~whole
    count = inside.sum(-1, keepdim=True)
    tau = (torch.where(inside, t, 0.0).sum(-1, keepdim=True) + whole.sum(-1, keepdim=True) - k) / count.clamp_min(1)
    return torch.where(count > 0, tau, point)


def output(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Nearest points at which each input is at most the output, whose negation comes first; before clamping to [0, 1].

    Inputs above a common level come down to it, and the output up: the level is the highest mean of the output and the
    largest inputs. Returns them, which are at the level, and the level (..., 1).
    """
    out, ins = 1 - t[..., :1], t[..., 1:]
    largest = torch.cat([out, ins.sort(dim=-1, descending=True).values], -1).cumsum(-1)
    level = (largest / torch.arange(1, t.shape[-1] + 1, dtype=t.dtype, device=t.device)).amax(-1, keepdim=True)
    met = ins > level
    first = torch.ones_like(out, dtype=torch.bool)
    return torch.cat([1 - level, torch.where(met, level, ins)], -1), torch.cat([first, met], -1), level


def logic(t: Tensor, low: Tensor, high: Tensor, outputs: int) -> Tensor:
    """Nearest points of (..., F, n): `counted`, and the last so many rows those of `OrOut`, the negated output first.

    If the output is more than the sum of its inputs when they are at most the output, then it is that sum in truth,
    which implies the rest: exactly one of the inputs and the negated output.
    """
    mu = counted(t, low, high)[0].clamp(0, 1)
    if not outputs:
        return mu
    apart, binds, _, _ = _outputs(t, outputs)
    return torch.cat([mu[..., :-outputs, :], torch.where(binds, mu[..., -outputs:, :], apart)], -2)


def _outputs(t: Tensor, outputs: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    own = t[..., -outputs:, :]
    x, met, level = output(own)
    apart = x.clamp(0, 1)
    # An output of 1 - apart exceeds the inputs' sum.
    return apart, apart.sum(-1, keepdim=True) < 1, met, level


def logic_face(t: Tensor, low: Tensor, high: Tensor, outputs: int) -> Face:
    """The face of `logic`."""
    x, binds = counted(t, low, high)
    # An equation holds also where scores meet it by chance.
    binds = binds | (low == high)
    own = _inside(x).to(t.dtype)
    face = Face(own, own * binds, torch.zeros_like(binds), t.new_zeros(*t.shape, 0))
    if not outputs:
        return face
    _, sums, met, level = _outputs(t, outputs)
    # Together, an output's negation moves the other way.
    flip = t.new_ones(t.shape[-1])
    flip[0] = -1
    free, group = ~met & _inside(t[..., -outputs:, :]), flip * (met & _inside(level))

    def last(counting: Tensor, alone: Tensor) -> Tensor:
        chosen = torch.where(sums, counting[..., -outputs:, :], alone.to(counting.dtype))
        return torch.cat([counting[..., :-outputs, :], chosen], -2)

    return Face(last(face.own, free), last(face.tied, group), last(face.together, ~sums), face.slope)


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
