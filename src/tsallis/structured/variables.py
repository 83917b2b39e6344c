"""Variables of a factor graph, and factors attached to them: what graphs and solutions are asked with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.errors import ShapeError
from .factor import Factor


@dataclass(frozen=True, eq=False)
class Variables:
    """Some of a graph's variables, in any shape; indexed as tensors are. `~v` are the same, negated.

    Attributes:
        graph: whose they are.
        index: their numbers.
        negated: which of them count as 1 minus themselves.

    Example:
        >>> from tsallis.structured import FactorGraph
        >>> v = FactorGraph().variables((4, 5))
        >>> v[0].shape, v[:, 2].shape, (~v[1, 1:3]).negated.tolist()
        (torch.Size([5]), torch.Size([4]), [True, True])
    """

    graph: object
    index: Tensor
    negated: Tensor

    @property
    def shape(self) -> torch.Size:
        """That of `index`."""
        return self.index.shape

    @property
    def mT(self) -> Variables:
        """The last two dimensions exchanged, as in torch."""
        return Variables(self.graph, self.index.mT, self.negated.mT)

    def reshape(self, *shape: int) -> Variables:
        """As in torch."""
        return Variables(self.graph, self.index.reshape(*shape), self.negated.reshape(*shape))

    def __getitem__(self, where: Any) -> Variables:
        return Variables(self.graph, self.index[where], self.negated[where])

    def __invert__(self) -> Variables:
        return Variables(self.graph, self.index, ~self.negated)

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[Variables]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Variables(shape={tuple(self.shape)})"


@dataclass(frozen=True, eq=False, repr=False)
class Attached:
    """A factor in a graph, once or along leading dimensions: where scores of its pairs are given and pairs read.

    Attributes:
        graph: whose it is.
        factor: which.
        number: its place in the graph.
        lead: the leading dimensions.
    """

    graph: object
    factor: Factor
    number: int
    lead: torch.Size

    def __repr__(self) -> str:
        return f"Attached({self.factor!r}, number={self.number}, lead={tuple(self.lead)})"


def bound(factor: Factor, variables: tuple[Variables, ...]) -> tuple[Variables, torch.Size]:
    """(F, d) variables of F factors, and the leading dimensions: those of a single argument before the natural shape,
    or before d.
    """
    if len(variables) == 1:
        (v,) = variables
        for own in (factor.natural, (factor.variables,)):
            lead = len(v.shape) - len(own)
            if lead >= 0 and tuple(v.shape[lead:]) == own:
                return v.reshape(math.prod(v.shape[:lead]), factor.variables), v.shape[:lead]
    parts = [v.reshape(-1) for v in variables]
    index, negated = (torch.cat([getattr(v, name) for v in parts]) for name in ("index", "negated"))
    if len(index) != factor.variables:
        raise ShapeError(
            f"variables of shape {', '.join(str(tuple(v.shape)) for v in variables)} for {factor!r}",
            f"{factor.variables} altogether, or (..., {', '.join(map(str, factor.natural))})",
            "Choose others",
        )
    return Variables(variables[0].graph, index[None], negated[None]), torch.Size()
