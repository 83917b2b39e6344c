"""Attention whose weights are marginals of a structure: matchings of queries and keys, or paths through the keys."""

from __future__ import annotations

from abc import abstractmethod
from math import prod

import torch
from torch import Tensor, nn

from ..core.errors import ParameterError, ShapeError
from ..core.inputs import HALF, check_scores, checked_mask, is_integer
from ..core.status import Outcome, Result
from ..structured import Matching, Sequence, StructuredSolution, sparsemap
from .alignment import Alignment, none_of, packed, together


class StructuredAttention(nn.Module):
    """What structured attentions share. Subclasses solve batches (B, L, S).

    Args:
        scale: of scores made from queries and keys; None for 1/sqrt(d).
        max_iter, tol: as in `ts.structured.sparsemap`.
    """

    def __init__(self, *, scale: float | None = None, max_iter: int = 1000, tol: float = 1e-9) -> None:
        super().__init__()
        self.scale, self.max_iter, self.tol = scale, max_iter, tol

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        query_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
    ) -> tuple[Tensor, Alignment]:
        """Averages (..., L, dv) of values, in their dtype, and the weights they are made with. Half precision is
        computed in float32, also under autocast, and so are its weights.

        Args:
            query, key, value: (..., L, d), (..., S, d) and (..., S, dv).
            query_mask, key_mask: boolean, broadcastable to (..., L) and (..., S), True = keep. What is masked is never
                read, takes no part in an alignment, and gets zeros; what is kept becomes neighbours.
        """
        for name, x in (("query", query), ("key", key), ("value", value)):
            if not isinstance(x, Tensor) or x.dim() < 2 or not x.is_floating_point():
                what = f"shape {tuple(x.shape)}, {x.dtype}" if isinstance(x, Tensor) else f"type {type(x).__name__}"
                raise ShapeError(f"{name} of {what}", "(..., n, d), floating", "Pass such tensors")
        if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
            shapes = ", ".join(str(tuple(x.shape)) for x in (query, key, value))
            raise ShapeError(
                f"query, key and value of shapes {shapes}", "(..., L, d), (..., S, d), (..., S, dv)", "Fit"
            )
        # Zero times NaN is NaN: what lies under masks goes before products, here and in the backward pass.
        query, key, value = (_kept(x, m) for x, m in ((query, query_mask), (key, key_mask), (value, key_mask)))
        scale = query.shape[-1] ** -0.5 if self.scale is None else self.scale
        wide = [x.float() if x.dtype in HALF else x for x in (query, key, value)]
        with torch.autocast(query.device.type, enabled=False):
            found = self.align(wide[0] @ wide[1].mT * scale, query_mask, key_mask)
            return (found.weights.to(wide[2].dtype) @ wide[2]).to(value.dtype), found

    def align(self, scores: Tensor, query_mask: Tensor | None = None, key_mask: Tensor | None = None) -> Alignment:
        """The distribution over alignments for scores (..., L, S); -inf rules a pair out, where others are possible.
        Masks as in the call.
        """
        scores = check_scores(scores)
        if scores.dim() < 2:
            raise ShapeError(f"Scores of shape {tuple(scores.shape)}", "(..., L, S)", "Add dimensions")
        *lead, L, S = scores.shape
        count = prod(lead)
        queries = _whole(query_mask, scores.new_zeros(*lead, L)).reshape(count, L)
        keys = _whole(key_mask, scores.new_zeros(*lead, S)).reshape(count, S)
        flat = scores.reshape(count, L, S)
        flat = flat.masked_fill(~(queries[:, :, None] & keys[:, None]), -torch.inf)
        found = self._solved(flat, queries, keys) if scores.numel() else none_of(flat)
        nothing = ~(queries.any(-1) & keys.any(-1))
        codes = torch.where(nothing, int(Outcome.FULLY_MASKED), found.result.codes).to(torch.int8)
        return Alignment(
            found.weights.reshape(scores.shape),
            found.vertices.reshape(*lead, *found.vertices.shape[1:]),
            found.probabilities.reshape(*lead, found.probabilities.shape[1]),
            found.gap.reshape(lead),
            found.iterations.reshape(lead),
            Result(codes.reshape(lead)),
        )

    @abstractmethod
    def _solved(self, scores: Tensor, queries: Tensor, keys: Tensor) -> Alignment:
        """Of (B, L, S) scores, none empty and -inf under masks, with masks (B, L) and (B, S)."""

    def extra_repr(self) -> str:
        return f"scale={self.scale}, max_iter={self.max_iter}, tol={self.tol:g}"


class MatchingAttention(StructuredAttention):
    r"""Attention that shares keys out: a query has one key, and no key two queries, in each alignment of the support.

    $$\max_{p \in \triangle} \; \sum_{ij} s_{ij} \mu_{ij} - \tfrac12 \|\mu\|^2, \qquad \mu = \sum_M p_M M$$

    over matchings M. Where there are more queries than keys it is the other way round: each key has one query. So the
    weights of the smaller side sum to one, those of the larger side to one at most.

    Args:
        scale: of scores made from queries and keys; None for 1/sqrt(d).
        max_iter, tol: as in `ts.structured.sparsemap`.

    Example:
        >>> import torch, tsallis as ts
        >>> found = ts.nn.MatchingAttention().align(torch.tensor([[1.0, 0.8, -1.0], [0.9, 0.4, -1.0]]))
        >>> found.weights
        tensor([[0.4250, 0.5750, 0.0000],
                [0.5750, 0.4250, 0.0000]])
        >>> found.vertices.shape, found.probabilities
        (torch.Size([2, 2, 3]), tensor([0.5750, 0.4250]))

    References:
        niculae2018sparsemap
    """

    def _solved(self, scores: Tensor, queries: Tensor, keys: Tensor) -> Alignment:
        more = queries.sum(-1) > keys.sum(-1)
        parts, places = [], []
        for turned in (False, True):
            items = (more == turned).nonzero()[:, 0]
            if len(items):
                x, rows = (scores.mT, keys) if turned else (scores, queries)
                weights, vertices, found = self._matched(x[items], rows[items])
                parts.append(packed(weights.mT if turned else weights, vertices.mT if turned else vertices, found))
                places.append(items)
        return together(parts, torch.cat(places))

    def _matched(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, StructuredSolution]:
        """Of scores (B, n, m) in which each row that is kept has a column."""
        n, m = x.shape[1:]
        if bool((~rows).any()) or n > m:
            # A row that is masked has a column of its own, and no choice: a constant in the objective.
            own = torch.where(torch.eye(n, dtype=torch.bool, device=x.device) & ~rows[:, None], 0.0, -torch.inf)
            x = torch.cat([x, own.to(x.dtype)], -1)
        found = sparsemap(Matching(n, x.shape[-1]), x, max_iter=self.max_iter, tol=self.tol)
        vertices = found.vertices.unflatten(-1, (n, -1))
        return found.marginals[..., :m], vertices[..., :m], found


class SequenceAttention(StructuredAttention):
    r"""Attention along paths: each query has one key, and going from the key of a query to that of the next one has a
    score too, learned, by how far apart they are.

    $$\max_{p \in \triangle} \; \sum_{ij} s_{ij} \mu_{ij} + \sum_{i,j,k} t_{k-j} \nu_{ijk} - \tfrac12 \|\mu\|^2$$

    with the probabilities, in a distribution p over paths, that query i has key j, and that the next one then has k.

    Args:
        reach: steps of up to so many keys forwards and backwards have scores of their own; all longer ones one in each
            direction.
        contiguity: what the score of staying, and of going to the next key, is at the beginning; others start at 0.
        scale: of scores made from queries and keys; None for 1/sqrt(d).
        max_iter, tol: as in `ts.structured.sparsemap`.

    Attributes:
        transitions: (2 reach + 3) the parameter t: of longer steps backwards, of those from -reach to reach, of longer
            ones forwards.

    Example:
        >>> import torch, tsallis as ts
        >>> scores = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.4, 0.6], [0.0, 0.0, 2.0]])
        >>> ts.nn.SequenceAttention(contiguity=0.0).align(scores).weights[1].detach()
        tensor([0.0000, 0.4000, 0.6000])
        >>> ts.nn.SequenceAttention(contiguity=1.0).align(scores).weights[1].detach()
        tensor([0.0000, 0.9000, 0.1000])

    References:
        niculae2018sparsemap
    """

    def __init__(
        self,
        reach: int = 1,
        contiguity: float = 1.0,
        *,
        scale: float | None = None,
        max_iter: int = 1000,
        tol: float = 1e-9,
    ) -> None:
        super().__init__(scale=scale, max_iter=max_iter, tol=tol)
        if not is_integer(reach) or reach < 1:
            raise ParameterError(f"reach={reach!r}", "a whole number, 1 at least", "Choose one")
        self.reach = int(reach)
        start = torch.zeros(2 * self.reach + 3)
        start[self.reach + 1 : self.reach + 3] = contiguity
        self.transitions = nn.Parameter(start)

    def _solved(self, scores: Tensor, queries: Tensor, keys: Tensor) -> Alignment:
        L, S = scores.shape[1:]
        # Masked queries go to the end, where sequences may be cut off; what is kept closes ranks.
        order = (~queries).to(torch.uint8).sort(dim=-1, stable=True).indices[..., None].expand_as(scores)
        lengths = queries.sum(-1) * keys.any(-1)
        # So do keys: one step leads from a kept key to the next kept one.
        place = keys.cumsum(-1)
        far = self.reach + 1
        step = (place[:, None, :] - place[:, :, None]).clamp(-far, far) + far
        transitions = self.transitions[step][:, None].expand(-1, L - 1, -1, -1)
        found = sparsemap(
            Sequence(L, S), scores.gather(1, order), transitions, lengths=lengths, max_iter=self.max_iter, tol=self.tol
        )
        weights = torch.zeros_like(scores).scatter(1, order, found.marginals)
        vertices = found.vertices.unflatten(-1, (L, S))
        vertices = torch.zeros_like(vertices).scatter(2, order[:, None].expand_as(vertices), vertices)
        return packed(weights, vertices, found)

    def extra_repr(self) -> str:
        return f"reach={self.reach}, {super().extra_repr()}"


def _kept(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x.masked_fill(~checked_mask(x[..., 0], mask)[..., None], 0.0)


def _whole(mask: Tensor | None, like: Tensor) -> Tensor:
    """A mask of that shape."""
    if mask is None:
        return torch.ones_like(like, dtype=torch.bool)
    return checked_mask(like, mask).expand_as(like)
