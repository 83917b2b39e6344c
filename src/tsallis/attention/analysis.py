"""What heads do: streaming statistics of attention weights, which never keep the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import ShapeError
from ..core.inputs import check_tensor


@dataclass(frozen=True)
class HeadReport:
    """Statistics of the H heads of one layer; means over queries that may attend to something. NaN where nothing was
    seen that a statistic needs. A row of weights that is all zero is no distribution: it has no density, no largest
    weight and no divergence from others, and is left out of these three; in other means it counts as zeros.

    Attributes:
        density: (H) share of the keys that a query may attend to and does.
        attended: (H) number of keys that a query attends to; divided by `keys`, the share of all pairs together, to
            which long sequences contribute more than to the mean of shares.
        keys: number of keys that a query may attend to.
        confidence: (H) mean over sequences of the mean largest weight of their queries.
        disagreement: Jensen-Shannon divergence of the heads' distributions in nats, in [0, log H], of the queries
            where all heads have one.
        positional: offset -> (H) weight of the key so far behind the query's own place, where there is one.
        merging: (H) weight within a query's own word, itself included, for queries in words of several pieces.
        interrogation: (H) weight of the last mark in questions, less that in other sequences.
        queries: how many queries were seen.
    """

    density: Tensor
    attended: Tensor
    keys: float
    confidence: Tensor
    disagreement: float
    positional: dict[int, Tensor]
    merging: Tensor
    interrogation: Tensor
    queries: int

    def best_offset(self) -> tuple[int, int, float]:
        """(head, offset, mean weight) of the most positional head."""
        found = ((o, *w.nan_to_num(-1.0).max(0)) for o, w in self.positional.items())
        offset, weight, head = max(found, key=lambda entry: float(entry[1]))
        return int(head), offset, float(weight)


class HeadStatistics:
    """Sums over batches of the attention weights of one layer.

    Args:
        offsets: for which to look for positional heads.

    Example:
        >>> import torch, tsallis as ts
        >>> statistics = ts.attention.HeadStatistics(offsets=(-1, 0))
        >>> statistics.update(torch.eye(4).expand(2, 3, 4, 4))
        >>> report = statistics.report()
        >>> report.density.tolist(), report.best_offset()
        ([0.25, 0.25, 0.25], (0, 0, 1.0))

    References:
        correia2019adaptively, voita2019analyzing
    """

    def __init__(self, offsets: Sequence[int] = (-2, -1, 0, 1, 2)) -> None:
        self.offsets = tuple(offsets)
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}

    def update(
        self,
        weights: Tensor,
        kept: Tensor | None = None,
        *,
        queries: Tensor | None = None,
        words: Tensor | None = None,
        marks: Tensor | None = None,
        questions: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Args:
            weights: (B, H, Nq, Nk), as `ts.nn.MultiheadAttention` returns them with average_attn_weights=False.
            kept: boolean, broadcastable to the weights, the same for all heads: which keys may be attended to (True);
                False everywhere for queries that are padding.
            queries: (B, Nq) boolean: False for queries that are padding, where kept does not say so.
            words: (B, N) for self-attention: the number of the word that each token is a piece of; negative for none,
                and for padding.
            marks: (B) the place of each sequence's last mark.
            questions: (B) whether that is a question mark.

        Raises:
            ShapeError: shapes that do not fit.
        """
        p = check_tensor(weights, "weights").detach()
        if p.dim() != 4:
            raise ShapeError(f"weights of shape {tuple(p.shape)}", "(B, H, Nq, Nk)", "Pass average_attn_weights=False")
        p = p.double()
        keep = _kept(kept, p)
        if queries is not None:
            keep = keep & _real(queries, p)[:, :, None]
        sizes = keep.sum(-1)
        valid = sizes > 0
        count = float(valid.sum())
        mean = p.mean(1)
        between = -torch.special.xlogy(mean, mean).sum(-1) + torch.special.xlogy(p, p).sum(-1).mean(1)
        attended = ((p > 0) & keep[:, None]).sum(-1).double()
        # Of each head, the queries where it has a distribution: a fixed pattern may have no place to look at.
        some = attended > 0
        every = some.all(1)
        self._add("attended", attended.sum((0, 2)), count)
        self._add("keys", sizes.sum().double(), count)
        self._add("density", (attended / sizes.clamp_min(1)[:, None]).sum((0, 2)), some.sum((0, 2)))
        self._add("disagreement", torch.where(every, between, 0.0).sum(), every.sum())
        top = torch.where(some, p.amax(-1), 0.0).sum(-1) / some.sum(-1).clamp_min(1)
        self._add("confidence", top.sum(0), some.any(-1).sum(0))
        for offset in self.offsets:
            self._add(f"offset {offset}", *_diagonal(p, keep, offset))
        if words is not None:
            self._add("merging", *_within_words(p, valid, words))
        if (marks is None) != (questions is None):
            raise ShapeError("one of marks and questions", "both or neither", "Pass both")
        if marks is not None and questions is not None:
            at = p.gather(-1, _of_batch(marks, p, "marks").long()[:, None, None, None].expand(*p.shape[:3], 1))[..., 0]
            asked = _of_batch(questions, p, "questions").bool()
            for name, chosen in (("question", asked), ("other", ~asked)):
                where = valid & chosen[:, None]
                self._add(name, torch.where(where[:, None], at, 0.0).sum((0, 2)), float(where.sum()))

    def _add(self, name: str, total: Tensor, count: float | Tensor) -> None:
        """Add to a sum and its count, which may be one of each head."""
        count = torch.as_tensor(count, dtype=total.dtype, device=total.device)
        before, seen = self._sums.get(name, (torch.zeros_like(total), torch.zeros_like(count)))
        if before.shape != total.shape:
            raise ShapeError(
                f"weights of {total.numel()} heads after {before.numel()}", "one layer", "Use statistics of their own"
            )
        self._sums[name] = (before + total, seen + count)

    def _mean(self, name: str) -> Tensor:
        missing = torch.full_like(self._sums["density"][0], torch.nan)
        # Nothing of nothing is NaN.
        total, count = self._sums.get(name, (missing, torch.ones_like(missing)))
        return total / count

    def report(self) -> HeadReport:
        """The statistics so far."""
        if not self._sums:
            raise ShapeError("no weights", "a batch at least", "Call update first")
        return HeadReport(
            self._mean("density"), self._mean("attended"), float(self._mean("keys")), self._mean("confidence"),
            float(self._mean("disagreement")),
            {offset: self._mean(f"offset {offset}") for offset in self.offsets}, self._mean("merging"),
            self._mean("question") - self._mean("other"), int(self._sums["attended"][1]),
        )  # fmt: skip


def _kept(kept: Tensor | None, p: Tensor) -> Tensor:
    """(B, Nq, Nk)."""
    batch, heads, queries, keys = p.shape
    if kept is None:
        return torch.ones(batch, queries, keys, dtype=torch.bool, device=p.device)
    mask = check_tensor(kept, "kept")
    try:
        whole = mask.expand(batch, heads, queries, keys)
    except RuntimeError:
        whole = None
    if whole is None or mask.dtype != torch.bool or (mask.dim() == 4 and mask.shape[1] not in (1, heads)):
        raise ShapeError(
            f"kept of shape {tuple(mask.shape)}, {mask.dtype}", f"booleans that broadcast to {tuple(p.shape)}",
            "Reshape it",
        )  # fmt: skip
    return whole.to(p.device).any(1)


def _real(queries: Tensor, p: Tensor) -> Tensor:
    given = check_tensor(queries, "queries")
    if tuple(given.shape) != (len(p), p.shape[2]) or given.dtype != torch.bool:
        raise ShapeError(
            f"queries of shape {tuple(given.shape)}, {given.dtype}", f"booleans {(len(p), p.shape[2])}", "Reshape it"
        )
    return given.to(p.device)


def _of_batch(x: Tensor, p: Tensor, name: str) -> Tensor:
    if check_tensor(x, name).shape != p.shape[:1]:
        raise ShapeError(f"{name} of shape {tuple(x.shape)}", f"({len(p)},)", "Pass one per sequence")
    return x.to(p.device)


def _diagonal(p: Tensor, keep: Tensor, offset: int) -> tuple[Tensor, float]:
    """(sum, count) of the weights of keys at an offset from their queries, where they may be attended to."""
    there = keep.diagonal(offset, -2, -1)
    return torch.where(there[:, None], p.diagonal(offset, -2, -1), 0.0).sum((0, 2)), float(there.sum())


def _within_words(p: Tensor, valid: Tensor, words: Tensor) -> tuple[Tensor, float]:
    words = check_tensor(words, "words").to(p.device)
    if p.shape[2] != p.shape[3] or tuple(words.shape) != (len(p), p.shape[3]):
        raise ShapeError(
            f"words of shape {tuple(words.shape)} for weights of shape {tuple(p.shape)}", "(B, N), for self-attention",
            "Leave words out, or pass one number per token",
        )  # fmt: skip
    same = (words[:, :, None] == words[:, None, :]) & (words >= 0)[:, :, None]
    asked = (same.sum(-1) > 1) & valid
    inside = torch.where(same[:, None], p, 0.0).sum(-1)
    return torch.where(asked[:, None], inside, 0.0).sum((0, 2)), float(asked.sum())
