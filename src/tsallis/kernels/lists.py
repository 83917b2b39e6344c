"""Lists of supports put together."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.dispatch import Lists


def joined(parts: list[Lists]) -> Lists:
    """Lists of tokens one behind the other."""
    starts, offset = [parts[0].starts[:1]], 0
    for part in parts:
        starts.append(part.starts[1:] + offset)
        offset += len(part.values)
    slopes = None if parts[0].slopes is None else torch.cat([p.slopes for p in parts if p.slopes is not None])
    return Lists(
        torch.cat(starts), torch.cat([p.values for p in parts]), torch.cat([p.places for p in parts]),
        torch.cat([p.losses for p in parts]), slopes,
    )  # fmt: skip


def merged(lists: Lists, more: Lists, rows: Tensor) -> Lists:
    """The lists with those of some rows replaced."""
    sizes = lists.starts.diff()
    sizes[rows] = more.starts.diff()
    starts = torch.zeros_like(lists.starts)
    torch.cumsum(sizes, 0, out=starts[1:])
    values, places = lists.values.new_empty(int(starts[-1])), lists.places.new_empty(int(starts[-1]))
    replaced = torch.zeros_like(sizes, dtype=torch.bool)
    replaced[rows] = True
    for source, chosen in ((lists, (~replaced).nonzero().squeeze(1)), (more, rows)):
        own = source.starts.diff()
        first = source.starts[:-1]
        if source is lists:
            own, first = own[chosen], first[chosen]
        inside = torch.arange(int(own.sum()), device=own.device) - torch.repeat_interleave(own.cumsum(0) - own, own)
        origin = torch.repeat_interleave(first, own) + inside
        target = torch.repeat_interleave(starts[:-1][chosen], own) + inside
        values[target], places[target] = source.values[origin], source.places[origin]
    losses = lists.losses.index_copy(0, rows, more.losses)
    slopes = lists.slopes
    if slopes is not None and more.slopes is not None:
        slopes = slopes.index_copy(0, rows, more.slopes)
    return Lists(starts, values, places, losses, slopes)
