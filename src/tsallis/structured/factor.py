"""What a factor is: a set of structures, and how to find its best one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import ParameterError, ShapeError
from ..core.inputs import check_tensor
from ..core.structures import Structures


@dataclass(frozen=True)
class Scores:
    """Scores of a batch, flat, in float64.

    Attributes:
        unary: (B, d) of variables.
        additional: (B, e) of pairs of variables; e = 0 for factors without.
        lengths: (B) how long items of a padded batch are; None where all have their full length.
    """

    unary: Tensor
    additional: Tensor
    lengths: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Scores:
        """Both changed."""
        return Scores(change(self.unary), change(self.additional), self.lengths)


class Factor(ABC):
    """A set of structures. A structure is a 0/1 vector over d variables, and over e pairs of them that follow from it.

    Attributes:
        variables: d.
        additional: e.
        natural: the shape of one item's unary scores; its product is d.
        chooses: whether all structures (of one length) have as many variables on.
        shift, spread: how scores enter: x -> (x + shift) / spread. The quadratic term is -1/2 |mu|^2 in what comes out.
    """

    variables: int
    additional: int = 0
    natural: tuple[int, ...]
    chooses: bool = False
    shift: float = 0.0
    spread: float = 1.0

    @abstractmethod
    def best(self, scores: Scores) -> Tensor:
        """The structure with the highest score, (B, d + e) of zeros and ones.

        Scores may be -inf: what has such a score is chosen only where nothing else is possible. Of equal ones a fixed
        one is taken.
        """

    @abstractmethod
    def enumerate_all(self) -> Tensor:
        """(S, d + e) all structures, for small sizes."""

    def enumerate(self) -> Tensor:
        """(S, d) variables of all structures, for small sizes."""
        return self.enumerate_all()[:, : self.variables]

    def described(self) -> Structures | None:
        """What kernels need to know to find what `best` does; None if there are none for this factor. It counts only
        where it is written together with `best`.
        """
        return None

    def slopes(self, unary: Tensor) -> Tensor | None:
        """(B, d) derivatives of marginals by their own scores, for factors whose variables do not depend on each other:
        their Jacobian is diagonal. None for others.
        """
        return None

    def inside(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, d) with zeros behind the lengths of items."""
        return x

    def pairs(self, unary: Tensor) -> Tensor:
        """(B, e) pairs of the structures whose variables (B, d) are given."""
        return unary.new_zeros(len(unary), self.additional)

    def flat(self, scores: object, more: object = None, lengths: Tensor | None = None) -> Scores:
        """Scores as given, (B, *natural) or (B, d), and those of pairs."""
        x = check_tensor(scores, "scores")
        if tuple(x.shape[1:]) not in (self.natural, (self.variables,)) or x.dim() < 2:
            raise ShapeError(
                f"scores of shape {tuple(x.shape)}", f"(B, {', '.join(map(str, self.natural))})", "Reshape them"
            )
        if lengths is not None:
            raise ParameterError("lengths", f"none for {type(self).__name__}", "Leave them out")
        return Scores(x.reshape(len(x), self.variables).double(), self._pairs(x, more))

    def _pairs(self, x: Tensor, more: object) -> Tensor:
        if more is not None:
            raise ShapeError(f"scores of pairs for {type(self).__name__}", "none", "Leave them out")
        return x.new_zeros(len(x), self.additional, dtype=torch.float64)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(str, self.natural))})"


def subsets(n: int) -> Tensor:
    """(2^n, n) all 0/1 vectors."""
    if n > 16:
        raise ParameterError(f"2^{n} structures", "n of 16 at most to enumerate", "Choose a smaller size")
    return (torch.arange(2**n)[:, None] >> torch.arange(n) & 1).double()


def one_hot(index: Tensor, n: int) -> Tensor:
    """(..., n) in float64."""
    return torch.nn.functional.one_hot(index, n).double()


def where_best(value: Callable[[Tensor, Tensor, Tensor | None], Tensor], scores: Scores) -> Tensor:
    """(B, d + e) which scores the best value (B) is the sum of: its derivatives.

    Ties have to be broken by `max` over a dimension, whose derivative is that of one of its entries.
    """
    # Inference mode records nothing, whatever is enabled inside.
    with torch.inference_mode(False), torch.enable_grad():
        own = scores.each(lambda x: x.detach().clone().requires_grad_())
        parts, lengths = (own.unary, own.additional), None if scores.lengths is None else scores.lengths.clone()
        found = torch.autograd.grad(value(*parts, lengths).sum(), parts, allow_unused=True)
    return torch.cat([torch.zeros_like(x) if g is None else g for g, x in zip(found, parts, strict=True)], -1)
