"""Statistics of the heads of a model while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..attention import HeadStatistics
from ..core.errors import ParameterError
from .attention import MultiheadAttention

# What is known of the batch at hand beside its weights: arguments of `HeadStatistics.update` for a module's name.
About = Callable[[str], Mapping[str, Tensor]]


@contextmanager
def watch_heads(
    model: nn.Module, offsets: Sequence[int] = (-2, -1, 0, 1, 2), about: About | None = None
) -> Iterator[dict[str, HeadStatistics]]:
    """Within it, each forward pass of a `MultiheadAttention` in the model adds to statistics of its own, by its name.

    All scores of the batch at hand are held once more while it is looked at.

    Args:
        model: with such modules.
        offsets: as in `ts.attention.HeadStatistics`.
        about: called with a module's name in each pass; it says what else of the batch at hand goes to
            `HeadStatistics.update`, such as queries, words or marks.

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

    def hook(name: str) -> Any:
        def look(module: MultiheadAttention, args: Any, kwargs: Any, output: Any) -> None:
            own = statistics[name]
            module.observe(own if about is None else _Informed(own, about(name)), *args, **kwargs)

        return look

    handles = [m.register_forward_hook(hook(name), with_kwargs=True) for name, m in watched.items()]
    try:
        yield statistics
    finally:
        for handle in handles:
            handle.remove()


class _Informed(HeadStatistics):
    """Passes on, with each batch, what else is known of it."""

    def __init__(self, own: HeadStatistics, known: Mapping[str, Tensor]) -> None:
        super().__init__(own.offsets)
        self.own, self.known = own, known

    def update(self, weights: Tensor, kept: Tensor | None = None, **more: Tensor | None) -> None:
        self.own.update(weights, kept, **{**more, **self.known})
