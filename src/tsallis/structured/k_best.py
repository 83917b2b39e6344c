"""The k best bit vectors, and sparsemax over them with a certificate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import ParameterError, ShapeError
from ..core.inputs import check_tensor, is_integer
from ..core.registry import get


@dataclass(frozen=True)
class TopStructures:
    """Sparsemax over the best structures of each item.

    Attributes:
        p: (B, k) probabilities, differentiable; 0 where an item has fewer structures.
        vertices: (B, k, d) the structures, best first.
        scores: (B, k) their scores; -inf where there is none.
        exact: (B) whether sparsemax over all structures has the same support: the next best one's score does not exceed
            the threshold.
    """

    p: Tensor
    vertices: Tensor
    scores: Tensor
    exact: Tensor


def k_best_bits(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    r"""The k 0/1 vectors with the highest scores $\langle x, z \rangle$, best first.

    A vector is the best one with some bits turned round, at the cost |x_i| each; of the k cheapest sets of bits none
    has one outside the k - 1 cheapest bits. So sets over these are built up, one bit after the other, and the k
    cheapest kept: no loop goes over the bits of a vector.

    Args:
        scores: (B, D).
        k: how many, 1 at least.

    Returns:
        vectors (B, k', D) and their scores (B, k'), k' = min(k, 2^D). Items with NaN or +inf get scores of NaN.

    Raises:
        ParameterError: k below 1.
        ShapeError: scores that are not (B, D), D > 0.

    Differentiability:
        once in scores, almost everywhere: those of the vectors that were found.

    Complexity:
        O(B (D log D + k^2 log k)) time, O(B k^2) memory.

    Example:
        >>> import torch
        >>> from tsallis.structured import k_best_bits
        >>> vectors, values = k_best_bits(torch.tensor([[2.0, -0.5]]), 3)
        >>> vectors.tolist(), values.tolist()
        ([[[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]], [[2.0, 1.5, 0.0]])

    References:
        correia2020efficient
    """
    x = check_tensor(scores, "scores")
    if x.dim() != 2 or not x.shape[1]:
        raise ShapeError(f"scores of shape {tuple(x.shape)}", "(B, D), D > 0", "Reshape them")
    _check_count("k", k)
    with torch.no_grad():
        vectors = _vectors(x.detach(), int(k))
    # Added up without -inf times 0.
    values = torch.where(vectors > 0, x[:, None], 0.0).sum(-1)
    bad = (x.isnan() | (x == torch.inf)).any(-1, keepdim=True)
    return vectors, torch.where(bad, torch.nan, values)


def _check_count(name: str, value: object) -> None:
    if not is_integer(value) or value < 1:
        raise ParameterError(f"{name}={value!r}", "a whole number, 1 at least", "Choose one")


def _vectors(x: Tensor, k: int) -> Tensor:
    batch, D = x.shape
    best = x > 0
    bits = min(D, k - 1)
    cost, place = x.abs().double().sort(dim=-1, stable=True)
    cost, place = cost[:, :bits], place[:, :bits]
    sums, sets = cost.new_zeros(batch, 1), torch.zeros(batch, 1, bits, dtype=torch.bool, device=x.device)
    for i in range(bits):
        turned = sets.clone()
        turned[..., i] = True
        sums, sets = torch.cat([sums, sums + cost[:, i, None]], 1), torch.cat([sets, turned], 1)
        if sums.shape[1] > k or i == bits - 1:
            sums, order = sums.sort(dim=-1, stable=True)
            sums, order = sums[:, :k], order[:, :k]
            sets = sets.gather(1, order[..., None].expand(-1, -1, bits))
    flips = torch.zeros(batch, sets.shape[1], D, dtype=torch.bool, device=x.device)
    flips.scatter_(2, place[:, None].expand(-1, sets.shape[1], -1), sets)
    return (best[:, None] ^ flips).to(x.dtype)


def topk_sparsemax_bits(scores: Tensor, k: int, *, grow: bool = False, most: int = 4096) -> TopStructures:
    r"""Sparsemax over the k best of all 2^D bit vectors, and whether that is sparsemax over all of them:

    $$\max_{p \in \triangle^{2^D}} \; \langle A^\top x, p \rangle - \tfrac12 \|p\|^2$$

    with p zero outside the k best. Unlike `sparsemap` this penalises the norm of p, not of the marginals.

    Args:
        scores: (B, D).
        k: how many vectors are looked at.
        grow: whether to double k until the result is certified in every item, or k is `most`.
        most: the largest k to grow to.

    Returns:
        `TopStructures`.

    Raises:
        ParameterError, ShapeError: as in `k_best_bits`.

    Differentiability:
        as `sparsemax`, with the vectors held fixed: right where the result is exact.

    Complexity:
        as `k_best_bits` with k + 1.

    Example:
        >>> import torch
        >>> from tsallis.structured import topk_sparsemax_bits
        >>> found = topk_sparsemax_bits(torch.tensor([[2.0, -0.5]]), 2)
        >>> found.p, found.exact
        (tensor([[0.7500, 0.2500]]), tensor([True]))

    References:
        correia2020efficient
    """
    _check_count("k", k)
    _check_count("most", most)
    while True:
        # One more than is used: its score is the certificate.
        vectors, values = k_best_bits(scores, k + 1)
        whole = values.shape[1] <= k
        top = values[:, :k]
        solution = get("sparsemax").solution(top)
        assert solution.tau is not None
        exact = torch.ones_like(solution.tau, dtype=torch.bool) if whole else values[:, k].detach() <= solution.tau
        if not grow or whole or k >= most or bool((exact | solution.tau.isnan()).all()):
            return TopStructures(solution.p, vectors[:, :k], top, exact)
        k = min(2 * k, most)
