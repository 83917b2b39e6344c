"""Statistics of the heads of a model while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..attention import HeadStatistics
from ..core.errors import ParameterError
from .attention import MultiheadAttention


@contextmanager
def watch_heads(model: nn.Module, offsets: Sequence[int] = (-2, -1, 0, 1, 2)) -> Iterator[dict[str, HeadStatistics]]:
    """Within it, each forward pass of a `MultiheadAttention` in the model adds to statistics of its own, by its name.

    All scores of the batch at hand are held once more while it is looked at.

    Args:
        model: with such modules.
        offsets: as in `ts.attention.HeadStatistics`.

    Raises:
        ParameterError: no such module in the model.

    Example:
        >>> import torch, tsallis as ts
        >>> layer = ts.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> with ts.nn.watch_heads(layer) as statistics:
        ...     out = layer(torch.randn(3, 5, 8))
        >>> {name: s.report().queries for name, s in statistics.items()}
        {'self_attn': 15}
    """
    watched = {name: m for name, m in model.named_modules() if isinstance(m, MultiheadAttention)}
    if not watched:
        raise ParameterError(
            f"a {type(model).__name__} without ts.nn.MultiheadAttention", "at least one", "Build the model with it"
        )
    statistics = {name: HeadStatistics(offsets) for name in watched}

    def hook(own: HeadStatistics) -> Any:
        def look(module: MultiheadAttention, args: Any, kwargs: Any, output: Any) -> None:
            module.observe(own, *args, **kwargs)

        return look

    handles = [m.register_forward_hook(hook(statistics[name]), with_kwargs=True) for name, m in watched.items()]
    try:
        yield statistics
    finally:
        for handle in handles:
            handle.remove()
