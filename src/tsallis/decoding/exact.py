"""Search that ends with the provably most probable sequence."""

from __future__ import annotations

import heapq
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..core.errors import ParameterError
from .beam import Decoded
from .certificates import Certificate, bounded, certify
from .steps import Hypothesis, State, Step, advance, check_search, check_start, join, select

Order = Literal["best", "depth"]


@torch.no_grad()
def exact_search(
    step: Step,
    start: Tensor,
    state: State = None,
    *,
    eos: int,
    max_length: int,
    found: Decoded | None = None,
    order: Order = "best",
    batch: int = 64,
    max_prefixes: int | None = 10_000,
) -> Decoded:
    r"""Find the most probable sequence by branch and bound.

    Solves $\operatorname{argmax}_y \sum_t \log p(y_t \mid y_{<t})$ over the sequences of at most max_length tokens that
    end with eos. A prefix that is no more probable than the best sequence found so far is cut with all continuations.

    Args:
        step, start, state, eos, max_length: as in `beam_search`.
        found: the result of a beam search for the same examples and model, of at most max_length tokens. What it has
            proved stays proved, examples whose best is exact are not searched again, and its sequences cut from the
            beginning on.
        order: "best" expands the most probable prefix first; "depth" goes to the end first, and keeps the state of the
            fewest.
        batch: prefixes of one length that the model is run on at once; with 1, "best" sees the fewest there can be.
        max_prefixes: of an example at most, None for no limit. Where it is reached the certificate bounds what is left.

    Returns:
        All sequences found on the way, the best first, their certificates, and the number of rows the model saw.
        Without a limit, the first is the most probable of at most max_length tokens, and ARGMAX_EXACT or ENUMERATED
        unless some longer one may be more probable.

    Raises:
        ParameterError: an argument is out of its range, the state cannot be indexed, or found has longer sequences.
        ShapeError: start, found or what step returns has another shape.
        NumericalError: step returns NaN, or probabilities that add up to more than 1.

    Differentiability:
        None: runs without gradients.

    Complexity:
        Each prefix of non-zero probability is seen at most once: exponentially many at worst, and few where the output
        mapping is sparse. Examples are searched one after the other. Of what may follow a batch of prefixes, at most
        max_prefixes are kept.

    Example:
        >>> import torch, tsallis as ts
        >>> scores = torch.tensor([[0.0, 2.0, 2.2], [2.0, 0.0, -1.0], [1.0, 0.0, 1.2]])
        >>> step = lambda tokens, state: (ts.sparsemax(scores[tokens]).log(), state)
        >>> ts.decoding.exact_search(step, torch.tensor([0]), eos=0, max_length=9).best[0].tokens
        (1, 0)

    References:
        peters2019sparse
        stahlberg2019nmt
    """
    eos = check_search(eos, max_length, batch=batch, max_prefixes=max_prefixes)
    check_start(start, state)
    if order not in ("best", "depth"):
        raise ParameterError(f"order = {order!r}", "'best' or 'depth'", "Pass one of them")
    if found is not None:
        _check_found(found, start.shape[0], max_length)
    results = []
    for example in range(start.shape[0]):
        certificate, known = None, []
        if found is not None:
            certificate, known = found.certificates[example], found.hypotheses[example]
            if certificate.exact:
                results.append((known, certificate, 0))
                continue
        row = torch.tensor([example], device=start.device)
        frontier = _Best() if order == "best" else _Depth()
        search = _Search(step, eos, max_length, batch, max_prefixes, frontier, {h.tokens: h.log_prob for h in known})
        results.append((*search.run(start[row], select(state, row), certificate), search.rows))
    hypotheses, certificates, rows = zip(*results, strict=True) if results else ((), (), ())
    return Decoded(list(hypotheses), list(certificates), sum(rows))


def _check_found(found: Decoded, examples: int, max_length: int) -> None:
    if len(found.hypotheses) != examples:
        raise ParameterError(
            f"found for {len(found.hypotheses)} examples", f"{examples} as in start", "Search the same examples"
        )
    longest = max((len(h.tokens) for hypotheses in found.hypotheses for h in hypotheses), default=0)
    if longest > max_length:
        raise ParameterError(
            f"found with a sequence of {longest} tokens", f"at most max_length = {max_length}", "Raise max_length"
        )


@dataclass(frozen=True)
class _Prefix:
    """A prefix whose last token the model has not seen: its state is a row of that of a batch."""

    log_prob: float
    tokens: tuple[int, ...]
    state: State
    row: int


@dataclass(frozen=True)
class _Family:
    """What may follow a batch of prefixes of one length, the most probable first.

    Attributes:
        log_probs, rows, children: (N) of each, the row of its parent, and its token.
        parents: tokens of the batch's prefixes.
        state: of the batch, after its last tokens.
    """

    log_probs: np.ndarray
    rows: np.ndarray
    children: np.ndarray
    parents: list[tuple[int, ...]]
    state: State

    @property
    def length(self) -> int:
        return len(self.parents[0]) + 1

    def at(self, place: int) -> _Prefix:
        row = int(self.rows[place])
        tokens = (*self.parents[row], int(self.children[place]))
        return _Prefix(float(self.log_probs[place]), tokens, self.state, row)


class _Frontier(ABC):
    """Prefixes to expand: of each family those from some place on."""

    @abstractmethod
    def push(self, family: _Family) -> None: ...

    @abstractmethod
    def pop(self, limit: int) -> list[_Prefix]:
        """At most limit prefixes of one length, the first of which is next; none when empty."""

    @abstractmethod
    def highest(self) -> float:
        """Log-probability of the most probable prefix."""


class _Best(_Frontier):
    """The most probable first; a heap for each length, for prefixes of one length can be run together."""

    def __init__(self) -> None:
        self.heaps: dict[int, list[tuple[float, int, int, _Family]]] = {}
        self.ticket = count()

    def push(self, family: _Family) -> None:
        self._push(family, 0)

    def _push(self, family: _Family, place: int) -> None:
        if place < len(family.log_probs):
            heap = self.heaps.setdefault(family.length, [])
            heapq.heappush(heap, (-float(family.log_probs[place]), next(self.ticket), place, family))

    def pop(self, limit: int) -> list[_Prefix]:
        filled = [heap for heap in self.heaps.values() if heap]
        chosen: list[_Prefix] = []
        if filled:
            heap = min(filled, key=lambda heap: heap[0][0])
            while heap and len(chosen) < limit:
                *_, place, family = heapq.heappop(heap)
                chosen.append(family.at(place))
                self._push(family, place + 1)
        return chosen

    def highest(self) -> float:
        return max((-heap[0][0] for heap in self.heaps.values() if heap), default=-math.inf)


class _Depth(_Frontier):
    """The longest first, of those the most probable child of the last parents."""

    def __init__(self) -> None:
        self.stack: list[tuple[_Family, int]] = []

    def push(self, family: _Family) -> None:
        self.stack.append((family, 0))

    def pop(self, limit: int) -> list[_Prefix]:
        chosen: list[_Prefix] = []
        while self.stack and len(chosen) < limit:
            family, place = self.stack.pop()
            if chosen and family.length != len(chosen[0].tokens):
                self.stack.append((family, place))
                break
            if place < len(family.log_probs):
                chosen.append(family.at(place))
                self.stack.append((family, place + 1))
        return chosen

    def highest(self) -> float:
        left = (float(family.log_probs[place]) for family, place in self.stack if place < len(family.log_probs))
        return max(left, default=-math.inf)


@dataclass
class _Search:
    """The search of one example.

    Attributes:
        known: sequences found so far with their log-probabilities, also by the search before.
        met: log-probabilities of those that ended at a step of this search.
        cut: log-probability of the most probable prefix that was cut.
        most: what the probabilities of a row of each length add up to at most.
    """

    step: Step
    eos: int
    max_length: int
    batch: int
    max_prefixes: int | None
    frontier: _Frontier
    known: dict[tuple[int, ...], float]
    best: float = field(init=False)
    cut: float = -math.inf
    rows: int = 0
    met: list[float] = field(default_factory=list)
    most: dict[int, float] = field(default_factory=dict)

    def run(self, start: Tensor, state: State, before: Certificate | None) -> tuple[list[Hypothesis], Certificate]:
        """All sequences found, and the certificate; before is that of the known ones."""
        self.best = max(self.known.values(), default=-math.inf)
        self.expand([_Prefix(0.0, (), state, 0)], start)
        while prefixes := self.frontier.pop(self.allowed()):
            wanted = [prefix for prefix in prefixes if prefix.log_prob > self.best]
            self.cut = max([self.cut, *(prefix.log_prob for prefix in prefixes if prefix.log_prob <= self.best)])
            if wanted:
                self.expand(wanted, start.new_tensor([prefix.tokens[-1] for prefix in wanted]))
        # Sums are known of the steps that were taken here: what was known before and not met again ended at others.
        unseen = bounded(self.met, max(self.cut, self.frontier.highest()), math.prod(self.most.values()))
        if before is not None and not math.isnan(before.unseen):
            # What the search before found and did not show is less probable than its best, which was below its bound:
            # examples whose best is exact are not searched.
            unseen = min(unseen, before.unseen)
        ranked = sorted(self.known.items(), key=lambda item: (-item[1], item[0]))
        certificate = certify([log_prob for _, log_prob in ranked], unseen, len(ranked))
        return [Hypothesis(tokens, log_prob, log_prob) for tokens, log_prob in ranked], certificate

    def allowed(self) -> int:
        return self.batch if self.max_prefixes is None else min(self.batch, self.max_prefixes - self.rows)

    def expand(self, prefixes: list[_Prefix], tokens: Tensor) -> None:
        self.rows += len(prefixes)
        scores, after, most = advance(self.step, tokens, _gather(prefixes, tokens.device), self.eos)
        length = len(prefixes[0].tokens) + 1
        self.most[length] = max(most, self.most.get(length, 1.0))
        before = torch.tensor([prefix.log_prob for prefix in prefixes], dtype=torch.float64)
        totals = scores.double() + before.to(scores.device)[:, None]
        for prefix, log_prob in zip(prefixes, totals[:, self.eos].tolist(), strict=True):
            if log_prob > -math.inf:
                self.met.append(log_prob)
                # A model may round otherwise in another batch: a sequence that was known before keeps its better value.
                sequence = (*prefix.tokens, self.eos)
                self.known[sequence] = max(log_prob, self.known.get(sequence, -math.inf))
                self.best = max(self.best, log_prob)
        totals[:, self.eos] = -math.inf
        flat = totals.flatten()
        kept = int((flat > self.best).sum())
        if length == self.max_length:
            # Nothing can follow, and what could is left open.
            kept = 0
        elif self.max_prefixes is not None:
            # Those behind could come only after these, which the limit does not allow.
            kept = min(kept, max(self.max_prefixes - self.rows, 0))
        values, places = flat.topk(min(kept + 1, len(flat)))
        self.cut = max([self.cut, *values[kept:].tolist()])
        if kept:
            log_probs, places = (x[:kept].cpu().numpy() for x in (values, places))
            width = totals.shape[1]
            parents = [prefix.tokens for prefix in prefixes]
            self.frontier.push(_Family(log_probs, places // width, places % width, parents, after))


def _gather(prefixes: list[_Prefix], device: torch.device) -> State:
    """The states of prefixes, in their order: neighbours in one batch are taken together."""
    parts, rows = [], []
    for place, prefix in enumerate(prefixes):
        rows.append(prefix.row)
        if place + 1 == len(prefixes) or prefixes[place + 1].state is not prefix.state:
            parts.append(select(prefix.state, torch.tensor(rows, device=device)))
            rows = []
    return join(parts)
