"""Integrals over one variable. Nodes are constants: derivatives are those of the integrand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_HALF_NODES = 100
_EDGE = 40.0  # nodes end where the logistic function is within e^-40 of its limits
_LEVELS = (60.0, 40.0, 40.0)
_CONCAVE_NODES = 192
# Nodes and weights of Gauss and Legendre on [-1, 1], the positive half of 8.
_LEGENDRE = (
    (0.18343464249564978, 0.36268378337836166),
    (0.525532409916329, 0.3137066458778869),
    (0.7966664774136267, 0.22238103445337443),
    (0.9602898564975362, 0.10122853629037706),
)


def unit_nodes(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(u, 1 - u, weights) for integrals over u in (0, 1) of functions that may have logarithms at the ends (tanh-sinh):
    the trapezoidal rule in t, with logit u = pi sinh t.
    """
    end = math.asinh(_EDGE / math.pi)
    t = torch.linspace(-end, end, 2 * _HALF_NODES + 1, dtype=like.dtype, device=like.device)
    x = math.pi * t.sinh()
    u, rest = x.sigmoid(), (-x).sigmoid()
    return u, rest, (end / _HALF_NODES) * math.pi * t.cosh() * u * rest


def smooth_nodes(like: Tensor) -> tuple[Tensor, Tensor]:
    """(nodes, weights) for integrals over [0, 1] of functions that polynomials approximate well (Gauss-Legendre)."""
    pairs = [((1 + side * x) / 2, w / 2) for x, w in _LEGENDRE for side in (-1, 1)]
    nodes, weights = torch.tensor(pairs, dtype=like.dtype, device=like.device).T.reshape(2, -1, *[1] * like.dim())
    return nodes, weights


class _Constant(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.zeros_like(tangent)


def constant(x: Tensor) -> Tensor:
    """x without derivatives, in forward mode too, which neither ``no_grad`` nor ``detach`` concerns."""
    # Dynamo cannot trace a Function with a jvp, and has no forward mode.
    return x.detach() if torch.compiler.is_compiling() else _Constant.apply(x)  # pyright: ignore[reportReturnType]


def _crossing(low: Tensor, high: Tensor, inside: Callable[[Tensor], Tensor], rounds: int) -> Tensor:
    """Where `inside`, true at low, becomes false on the way to high."""
    for _ in range(rounds):
        middle = (low + high) / 2
        yes = inside(middle)
        low, high = torch.where(yes, middle, low), torch.where(yes, high, middle)
    return low


def log_integral(
    h: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, sigma: Tensor
) -> Tensor:
    r"""$\log \int e^{h(x)} dx$ over the reals, for a concave h with $h'' \le -1/\sigma^2$ and maximum in [low, high].

    The left flank may be far steeper than sigma. From the point where h has fallen by 60, nodes go to the right in
    geometric steps: h is concave, so its scale at a distance d from there is not much below d. Measured against
    adaptive quadrature: see docs/theory/mixed.md.
    """
    with torch.no_grad():
        mode = _crossing(low, high, lambda x: slope(x) > 0, 64)
        levels = torch.tensor(_LEVELS, dtype=mode.dtype, device=mode.device).view(-1, *[1] * mode.dim())
        sides = torch.tensor([-1.0, -1.0, 1.0], dtype=mode.dtype, device=mode.device).view_as(levels)
        top = h(mode)
        reach = _crossing(
            torch.zeros_like(sigma).expand_as(levels * sigma),
            (2 * levels).sqrt() * sigma,
            lambda d: h(mode + sides * d) > top - levels,
            40,
        )
        far, near, right = reach
        start = (far - near).clamp_min(torch.finfo(sigma.dtype).eps * sigma).log()
        end = (far + right).log()
        steps = torch.linspace(0, 1, _CONCAVE_NODES, dtype=mode.dtype, device=mode.device)
        log_distance = start + steps.view(-1, *[1] * mode.dim()) * (end - start)
        nodes = mode - far + log_distance.exp()
        log_width = log_distance + ((end - start) / (_CONCAVE_NODES - 1)).log()
    return torch.logsumexp(h(nodes) + log_width, 0)
