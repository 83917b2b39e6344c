"""What kernels for SparseMAP are told of a factor, and what they find."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor


class Structures(NamedTuple):
    """A factor in words of kernels.

    Attributes:
        kind: of which family; "bits" are 0/1 vectors with `low` to `high` ones.
        variables, additional: d and e.
        places: at each of which one variable is on; 0 for bits.
        columns: of the matrix that variables are: states, columns, words.
        low, high: how many bits may be on; of trees, `high` words hang on the root at most, 1 or all.
    """

    kind: Literal["bits", "sequence", "matching", "tree", "projective"]
    variables: int
    additional: int = 0
    places: int = 0
    columns: int = 1
    low: int = 0
    high: int = 0


class Start(NamedTuple):
    """Where to start: from the best structure for other scores (x, y), or from structures (B, S, d) with weights (B, S)
    as far as they are used (B, S), where they are possible; else from the best structure.
    """

    x: Tensor | None = None
    y: Tensor | None = None
    structures: Tensor | None = None
    weights: Tensor | None = None
    used: Tensor | None = None


class Supports(NamedTuple):
    """What was found, in float64.

    Attributes:
        factor, capacity, lengths: of which it is; room for structures; those of items.
        codes, gap, asked: (B) `Outcome` of items, the gap, how often the best structure was asked for.
        sizes: (B, 2) how many structures have a weight, and with those of weight 0 that complete the face.
        vertices: (B, capacity, words) structures as kernels know them, with a weight by weight, then the others.
        weights: (B, capacity).
        marginals, pairs: (B, d), (B, e).
    """

    factor: Structures
    capacity: int
    lengths: Tensor | None
    codes: Tensor
    gap: Tensor
    asked: Tensor
    sizes: Tensor
    vertices: Tensor
    weights: Tensor
    marginals: Tensor
    pairs: Tensor


class ActiveSet(Protocol):
    """SparseMAP of contiguous scores x (B, d) and y (B, e) in float64."""

    def refuses(self, factor: Structures, most: int, whole: bool, /) -> str | None:
        """None, or the reason why a call is for other ways."""
        ...

    def solve(
        self, factor: Structures, x: Tensor, y: Tensor, lengths: Tensor | None, start: Start, most: int, tol: float,
        whole: bool, /,
    ) -> Supports:  # fmt: skip
        """Run until the gap is at most tol, or an item asked for ``most`` structures; ``whole``: complete faces."""
        ...

    def vectors(self, found: Supports, slots: int, dtype: torch.dtype, /) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Structures with a weight as numbers, (B, slots, d) and (B, slots, e), in this dtype; (B, slots) their weights
        in float64, NaN in items without a result, and which of them there are.
        """
        ...

    def marginals_of_scores(self, found: Supports, x: Tensor, y: Tensor, scale: float, /) -> tuple[Tensor, Tensor]:
        """The derivative of marginals and pairs in this direction of scores, on the face: symmetric; times scale."""
        ...

    def scores_of_weights(self, found: Supports, weights: Tensor, scale: float, /) -> tuple[Tensor, Tensor]:
        """The gradient in x and y, from that in weights (B, slots), on the support; times scale."""
        ...

    def weights_of_scores(self, found: Supports, x: Tensor, y: Tensor, slots: int, scale: float, /) -> Tensor:
        """The derivative of weights in this direction of scores, on the support; times scale."""
        ...
