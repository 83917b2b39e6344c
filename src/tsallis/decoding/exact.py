"""Search that ends with the provably most probable sequence."""

from __future__ import annotations

import heapq
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import ParameterError
from .beam import Decoded
from .certificates import Certificate, certify
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
        found: the result of a beam search for the same examples, whose sequences cut from the beginning on.
        order: "best" expands the most probable prefix first and sees the fewest; "depth" goes to the end first, and
            keeps the state of the fewest.
        batch: prefixes of one length that the model is run on at once.
        max_prefixes: of an example at most, None for no limit. Where it is reached the certificate bounds what is left.

    Returns:
        All sequences found on the way, the best first, their certificates, and the number of rows the model saw.
        Without a limit, the first is the most probable of at most max_length tokens, and ARGMAX_EXACT or ENUMERATED
        unless some longer one may be more probable.

    Raises:
        ParameterError: an argument is out of its range, or the state cannot be indexed.
        ShapeError: start, found or what step returns has another shape.
        NumericalError: step returns NaN or no log-probabilities.

    Differentiability:
        None: runs without gradients.

    Complexity:
        Each prefix of non-zero probability is seen at most once: exponentially many at worst, and few where the output
        mapping is sparse.

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
    check_search(eos, max_length, batch=batch, max_prefixes=max_prefixes)
    check_start(start)
    if order not in ("best", "depth"):
        raise ParameterError(f"order = {order!r}", "'best' or 'depth'", "Pass one of them")
    if found is not None and len(found.hypotheses) != start.shape[0]:
        raise ParameterError(
            f"found for {len(found.hypotheses)} examples", f"{start.shape[0]} as in start", "Search the same examples"
        )
    results = []
    for example in range(start.shape[0]):
        row = torch.tensor([example], device=start.device)
        known = {} if found is None else {h.tokens: h.log_prob for h in found.hypotheses[example]}
        search = _Search(step, eos, max_length, batch, max_prefixes, _Best() if order == "best" else _Depth(), known)
        results.append((*search.run(start[row], select(state, row)), search.rows))
    hypotheses, certificates, rows = zip(*results, strict=True) if results else ((), (), ())
    return Decoded(list(hypotheses), list(certificates), sum(rows))


@dataclass(frozen=True)
class _Prefix:
    """A prefix whose last token the model has not seen: its state is a row of that of a batch."""

    log_prob: float
    tokens: tuple[int, ...]
    state: State
    row: int


class _Frontier(ABC):
    """Prefixes to expand."""

    @abstractmethod
    def push(self, prefix: _Prefix) -> None: ...

    @abstractmethod
    def pop(self, limit: int) -> list[_Prefix]:
        """At most limit prefixes of one length, the first of which is next; none when empty."""

    @abstractmethod
    def highest(self) -> float:
        """Log-probability of the most probable prefix."""


class _Best(_Frontier):
    """The most probable first; a heap for each length, for prefixes of one length can be run together."""

    def __init__(self) -> None:
        self.heaps: dict[int, list[tuple[float, int, _Prefix]]] = {}
        self.ticket = count()

    def push(self, prefix: _Prefix) -> None:
        heap = self.heaps.setdefault(len(prefix.tokens), [])
        heapq.heappush(heap, (-prefix.log_prob, next(self.ticket), prefix))

    def pop(self, limit: int) -> list[_Prefix]:
        filled = [heap for heap in self.heaps.values() if heap]
        if not filled:
            return []
        heap = min(filled, key=lambda heap: heap[0][0])
        return [heapq.heappop(heap)[2] for _ in range(min(limit, len(heap)))]

    def highest(self) -> float:
        return max((-heap[0][0] for heap in self.heaps.values() if heap), default=-math.inf)


class _Depth(_Frontier):
    """The longest first, of those the most probable child of the last parents."""

    def __init__(self) -> None:
        self.stack: list[_Prefix] = []

    def push(self, prefix: _Prefix) -> None:
        self.stack.append(prefix)

    def pop(self, limit: int) -> list[_Prefix]:
        chosen: list[_Prefix] = []
        while (
            self.stack and len(chosen) < limit and (not chosen or len(self.stack[-1].tokens) == len(chosen[0].tokens))
        ):
            chosen.append(self.stack.pop())
        return chosen

    def highest(self) -> float:
        return max((prefix.log_prob for prefix in self.stack), default=-math.inf)


@dataclass
class _Search:
    """The search of one example.

    Attributes:
        known: sequences found so far with their log-probabilities.
        cut: log-probability of the most probable prefix that was cut.
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

    def run(self, start: Tensor, state: State) -> tuple[list[Hypothesis], Certificate]:
        self.best = max(self.known.values(), default=-math.inf)
        self.expand([_Prefix(0.0, (), state, 0)], start)
        while prefixes := self.frontier.pop(self.allowed()):
            wanted = [prefix for prefix in prefixes if prefix.log_prob > self.best]
            self.cut = max([self.cut, *(prefix.log_prob for prefix in prefixes if prefix.log_prob <= self.best)])
            if wanted:
                self.expand(wanted, start.new_tensor([prefix.tokens[-1] for prefix in wanted]))
        remaining = max(self.cut, self.frontier.highest())
        ranked = sorted(self.known.items(), key=lambda item: (-item[1], item[0]))
        certificate = certify([log_prob for _, log_prob in ranked], remaining, self.max_length, len(ranked))
        return [Hypothesis(tokens, log_prob, log_prob) for tokens, log_prob in ranked], certificate

    def allowed(self) -> int:
        return self.batch if self.max_prefixes is None else min(self.batch, self.max_prefixes - self.rows)

    def expand(self, prefixes: list[_Prefix], tokens: Tensor) -> None:
        self.rows += len(prefixes)
        scores, after = advance(self.step, tokens, _gather(prefixes, tokens.device), self.eos)
        before = torch.tensor([prefix.log_prob for prefix in prefixes], dtype=torch.float64)
        totals = scores.double().cpu() + before[:, None]
        for prefix, log_prob in zip(prefixes, totals[:, self.eos].tolist(), strict=True):
            if log_prob > -math.inf:
                # A model may round otherwise in another batch: a sequence that was known before keeps its better value.
                sequence = (*prefix.tokens, self.eos)
                self.known[sequence] = max(log_prob, self.known.get(sequence, -math.inf))
                self.best = max(self.best, log_prob)
        totals[:, self.eos] = -math.inf
        # At the greatest length nothing can follow, and what could is left open.
        keep = totals > (self.best if len(prefixes[0].tokens) + 1 < self.max_length else math.inf)
        self.cut = max(self.cut, totals.masked_fill(keep, -math.inf).max().item())
        rows, children = keep.nonzero().unbind(1)
        values = totals[rows, children]
        # The most probable is pushed last, and popped first from a stack.
        for place in values.argsort(stable=True).tolist():
            row = int(rows[place])
            self.frontier.push(_Prefix(values[place].item(), (*prefixes[row].tokens, int(children[place])), after, row))


def _gather(prefixes: list[_Prefix], device: torch.device) -> State:
    """The states of prefixes, in their order: neighbours in one batch are taken together."""
    parts, rows = [], []
    for place, prefix in enumerate(prefixes):
        rows.append(prefix.row)
        if place + 1 == len(prefixes) or prefixes[place + 1].state is not prefix.state:
            parts.append(select(prefix.state, torch.tensor(rows, device=device)))
            rows = []
    return join(parts)
