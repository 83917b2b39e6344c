"""What structured attention finds, and how parts of a batch are put together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.status import Result
from ..structured import StructuredSolution


@dataclass(frozen=True)
class Alignment:
    """A sparse distribution over alignments of L queries with S keys, and what certifies it.

    Attributes:
        weights: (..., L, S) how much each query attends to each key, differentiable.
        vertices: (..., K, L, S) the alignments in the support, 0/1.
        probabilities: (..., K) their probabilities, largest first, differentiable; 0 where an item has fewer.
        gap: (...) how much better than the objective here any distribution can be, at most.
        iterations: (...) how often the best alignment was asked for.
        result: what happened in each item.
    """

    weights: Tensor
    vertices: Tensor
    probabilities: Tensor
    gap: Tensor
    iterations: Tensor
    result: Result


def packed(weights: Tensor, vertices: Tensor, found: StructuredSolution) -> Alignment:
    """Weights (B, L, S) and vertices (B, K, L, S) with what else was found."""
    return Alignment(weights, vertices, found.weights, found.gap, found.iterations, found.result)


def together(parts: list[Alignment], places: Tensor) -> Alignment:
    """Parts of a batch, each with its support, in the order of the batch."""
    most = max(part.probabilities.shape[1] for part in parts)
    back = places.argsort()

    def joined(name: str) -> Tensor:
        tensors = [getattr(part, name) for part in parts]
        if name in ("vertices", "probabilities"):
            missing = [(0, 0) * (x.dim() - 2) + (0, most - x.shape[1]) for x in tensors]
            tensors = [nn.functional.pad(x, pad) for x, pad in zip(tensors, missing, strict=True)]
        return torch.cat(tensors)[back]

    codes = torch.cat([part.result.codes for part in parts])[back]
    return Alignment(
        joined("weights"), joined("vertices"), joined("probabilities"), joined("gap"), joined("iterations"),
        Result(codes),
    )  # fmt: skip


def none_of(scores: Tensor) -> Alignment:
    """Of (B, L, S) scores without entries."""
    zeros = scores.new_zeros(len(scores))
    codes = torch.zeros_like(zeros, dtype=torch.int8)
    return Alignment(scores, scores[:, None], zeros[:, None], zeros.double(), zeros.long(), Result(codes))
