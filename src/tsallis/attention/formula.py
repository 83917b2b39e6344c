"""Attention as it is written: all scores, a mapping, an average of values. Differentiable as often as one likes."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.registry import get
from .inputs import Heads


def kept(heads: Heads) -> Tensor | None:
    """Which keys take part for which queries, broadcastable to the scores; None if all do."""
    mask, (n, m) = heads.mask, (heads.q.shape[-2], heads.k.shape[-2])
    ends_q, _ = heads.ends
    if not heads.causal and len(ends_q) == 1:
        return mask
    device = heads.q.device
    i, j = torch.arange(n, device=device)[:, None], torch.arange(m, device=device)[None, :]
    own = None
    if len(ends_q) > 1:
        # Which sequence, and where it starts.
        (s, begin), (t, start) = (_sequences(ends, device) for ends in heads.ends)
        own = s[:, None] == t[None, :]
        i, j = i - begin[:, None], j - start[None, :]
    if heads.causal:
        own = i >= j if own is None else own & (i >= j)
    assert own is not None
    return own if mask is None else own & mask


def allowed(heads: Heads) -> Tensor | None:
    """Which keys a query may attend to, what is added to scores included, broadcastable to them; None for all."""
    keep = kept(heads)
    if heads.bias is None:
        return keep
    possible = heads.bias > -torch.inf
    return possible if keep is None else keep & possible


def _sequences(ends: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each place, the number of its sequence and where that starts."""
    starts = torch.tensor([0, *ends[:-1]], device=device)
    sizes = torch.tensor(ends, device=device) - starts
    number = torch.repeat_interleave(torch.arange(len(ends), device=device), sizes)
    return number, starts[number]


def scores(heads: Heads) -> Tensor:
    """(B, Hq, Nq, Nk), scaled after the product, with what is added to them."""
    k = heads.k if heads.group == 1 else heads.k.repeat_interleave(heads.group, 1)
    z = (heads.q @ k.mT) * heads.scale
    return z if heads.bias is None else z + heads.bias


def probabilities(heads: Heads, backend: str | None) -> Tensor:
    """(B, Hq, Nq, Nk); rows that may attend to nothing are zero."""
    return get("entmax")(scores(heads), alpha=heads.alpha, mask=kept(heads), backend=backend)


def average(p: Tensor, heads: Heads) -> Tensor:
    """(B, Hq, Nq, dv)."""
    v = heads.v if heads.group == 1 else heads.v.repeat_interleave(heads.group, 1)
    return p @ v
