"""Distributions over bit vectors with given marginals. There are many: these are two with few vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import ShapeError
from ..core.inputs import check_tensor


def comonotone(marginals: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors that contain each other: bits are on together as far as their marginals allow.

    The coupling with the largest positive dependence; a linear function of bits does not see it, others do.

    Args:
        marginals: (B, D) in [0, 1].

    Returns:
        vectors (B, D + 1, D), each with the bits of the one before and more, and their probabilities (B, D + 1).

    Raises:
        ShapeError: marginals that are not (B, D).

    Differentiability:
        probabilities, any order, piecewise linear.

    Complexity:
        O(B D log D), and the vectors' D^2.

    Example:
        >>> import torch
        >>> from tsallis.structured import comonotone
        >>> vectors, p = comonotone(torch.tensor([[0.25, 1.0]]))
        >>> vectors[0].tolist(), p[0].tolist()
        ([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [0.0, 0.75, 0.25])
    """
    mu = _checked(marginals)
    ordered, order = mu.sort(dim=-1, descending=True, stable=True)
    rank = order.argsort(dim=-1)
    counts = torch.arange(mu.shape[1] + 1, device=mu.device)
    vectors = (rank[:, None] < counts[:, None]).to(mu.dtype)
    ends = torch.cat([torch.ones_like(mu[:, :1]), ordered, torch.zeros_like(mu[:, :1])], -1)
    return vectors, ends[:, :-1] - ends[:, 1:]


def systematic(marginals: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors with as many bits on as the sum of the marginals, rounded down or up: Madow's systematic sampling.

    Bits lie one after the other on a line, each as long as its marginal; a vector has those that are hit by points at a
    distance of 1. Which bits are on together depends on their order.

    Args:
        marginals: (B, D) in [0, 1].

    Returns:
        vectors (B, D + 1, D) and their probabilities (B, D + 1), some of them 0.

    Raises:
        ShapeError: marginals that are not (B, D).

    Differentiability:
        probabilities, any order, piecewise linear.

    Complexity:
        O(B D^2).

    Example:
        >>> import torch
        >>> from tsallis.structured import systematic
        >>> vectors, p = systematic(torch.tensor([[0.5, 0.75, 0.75]]))
        >>> (p @ vectors).tolist(), sorted(set(vectors[p > 0].sum(-1).tolist()))
        ([[[0.5, 0.75, 0.75]]], [2.0])

    References:
        madow1949theory
    """
    given = _checked(marginals)
    # Sums of half precision have no fractional part to speak of.
    mu = given.double()
    ends = mu.cumsum(-1)
    snapped = _snapped(ends, min(1e-4, 8 * torch.finfo(given.dtype).eps * (1 + mu.shape[1])))
    starts = torch.cat([torch.zeros_like(snapped[:, :1]), snapped[:, :-1]], -1)
    # The first point of a vector lies between two of these.
    breaks, _ = (snapped - snapped.floor()).sort(dim=-1)
    breaks = torch.cat([torch.zeros_like(breaks[:, :1]), breaks, torch.ones_like(breaks[:, :1])], -1)
    probabilities = breaks[:, 1:] - breaks[:, :-1]
    first = ((breaks[:, 1:] + breaks[:, :-1]) / 2).detach()[..., None]
    # A bit is hit by first + n for a whole n.
    vectors = ((snapped[:, None] - first).ceil() > (starts[:, None] - first).ceil()).to(given.dtype)
    return vectors, probabilities.to(given.dtype)


def _snapped(ends: Tensor, room: float) -> Tensor:
    """Sums that are whole but for rounding made whole: their fractional part is 0, not almost 1."""
    near = ends.detach().round()
    return torch.where((ends.detach() - near).abs() <= room, ends + (near - ends.detach()), ends)


def _checked(marginals: object) -> Tensor:
    mu = check_tensor(marginals, "marginals")
    if mu.dim() != 2 or not mu.is_floating_point():
        raise ShapeError(f"marginals of shape {tuple(mu.shape)}, {mu.dtype}", "(B, D), floating", "Reshape them")
    return mu
