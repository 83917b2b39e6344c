"""Beam search that says what it has proved."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import ParameterError
from ..core.inputs import is_integer
from .certificates import Certificate, bounded, certify, voided
from .steps import Hypothesis, State, Step, advance, check_search, check_start, select

# Which sequences that end are found.
Endings = Literal["beam", "all"]
# Lengths to a higher power leave the range of floats.
STEEPEST = 20


@dataclass(frozen=True)
class Decoded:
    """What a search found for each example.

    Attributes:
        hypotheses: the sequences found, the best first; none where the length ran out before one ended in the beam.
        certificates: what is proved about them.
        rows: prefixes that the model was run on.
    """

    hypotheses: list[list[Hypothesis]]
    certificates: list[Certificate]
    rows: int

    @property
    def best(self) -> list[Hypothesis | None]:
        """The best sequence of each example, None where none was found."""
        return [found[0] if found else None for found in self.hypotheses]


@torch.no_grad()
def beam_search(
    step: Step,
    start: Tensor,
    state: State = None,
    *,
    eos: int,
    beam: int = 5,
    max_length: int,
    n_best: int | None = None,
    endings: Endings = "beam",
    length_penalty: float = 0.0,
    min_length: int = 0,
    max_rows: int | None = None,
) -> Decoded:
    r"""Search the most probable sequences, keeping the beam most probable prefixes of each length.

    Seeks $\operatorname{argmax}_y \sum_t \log p(y_t \mid y_{<t})$ over the sequences that end with eos. A prefix with a
    token of probability zero is dropped without loss, so that with a sparse output mapping a beam often holds every
    sequence there is, and the certificate says so. The model is run on prefixes of non-zero probability only; scores
    are summed in float64.

    Args:
        step: step(tokens, state) -> (log_probs, state): given the last token (R,) of R prefixes and their state, the
            log-probabilities (R, V) of the next ones, -inf for zero, and the state after the token.
        start: (B,) long, the token before the first of each sequence.
        state: the model's state before that: tensors with B rows, numbers that are the same for all, also in lists,
            tuples and mappings, or an object with the method select(rows).
        eos: the token that ends a sequence.
        beam: prefixes kept of each length.
        max_length: tokens of a sequence at most, eos among them.
        n_best: sequences returned at most; None for all of an example that is ENUMERATED and beam of another. An
            example is done when no prefix can change its best n_best (or beam) and, where nothing was dropped, when all
            are found.
        endings: "beam" finds a sequence where to end is among the beam most probable ways to go on: a beam of 1 is
            greedy then. "all" finds every way to end a kept prefix, however improbable. Under a dense model all long
            sequences are improbable, and "all" mostly ends with one that has hardly any tokens. Where no prefix was
            dropped both find every sequence.
        length_penalty: rank by log-probability divided by length to this power; not 0 proves nothing.
        min_length: tokens before eos at least; not 0 proves nothing.
        max_rows: prefixes that the model is run on at once, at least beam; examples beyond wait. None for no limit.

    Returns:
        Hypotheses, certificates, and the number of rows the model saw.

    Raises:
        ParameterError: an argument is out of its range, or the state cannot be indexed.
        ShapeError: start or what step returns has another shape.
        NumericalError: step returns NaN, or probabilities that add up to more than 1.

    Differentiability:
        None: runs without gradients.

    Complexity:
        At most max_length calls of step on at most beam * B rows, O(V) each; pointers take O(max_length * beam * B).

    Example:
        >>> import torch, tsallis as ts
        >>> scores = torch.tensor([[0.0, 2.0, 2.2], [2.0, 0.0, -1.0], [1.0, 0.0, 1.2]])
        >>> step = lambda tokens, state: (ts.sparsemax(scores[tokens]).log(), state)
        >>> found = ts.decoding.beam_search(step, torch.tensor([0]), eos=0, beam=2, max_length=9)
        >>> found.best[0].tokens, str(found.certificates[0])
        ((1, 0), 'ARGMAX_EXACT')

    References:
        peters2019sparse
    """
    eos = check_search(eos, max_length, beam=beam, n_best=n_best, max_rows=max_rows)
    check_start(start, state)
    if not abs(length_penalty) <= STEEPEST:
        raise ParameterError(
            f"length_penalty = {length_penalty}", f"a number of at most {STEEPEST}, either sign", "Pass 0 for none"
        )
    if not is_integer(min_length) or not 0 <= min_length < max_length:
        raise ParameterError(f"min_length = {min_length!r}", f"from 0 to max_length - 1 = {max_length - 1}", "Lower it")
    if endings not in ("beam", "all"):
        raise ParameterError(f"endings = {endings!r}", "'beam' or 'all'", "Pass one of them")
    if max_rows is not None and max_rows < beam:
        raise ParameterError(f"max_rows = {max_rows}", f"beam = {beam} or more", "Raise it, or lower beam")
    options = _Options(step, eos, beam, max_length, n_best, endings, length_penalty, min_length)
    batch = start.shape[0]
    size = batch if max_rows is None else max_rows // beam
    if batch <= size:
        return _search(options, start, state)
    parts = [
        _search(options, start[rows], select(state, rows))
        for rows in torch.arange(batch, device=start.device).split(size)
    ]
    return Decoded(
        [found for part in parts for found in part.hypotheses],
        [certificate for part in parts for certificate in part.certificates],
        sum(part.rows for part in parts),
    )


@dataclass(frozen=True)
class _Options:
    step: Step
    eos: int
    beam: int
    max_length: int
    n_best: int | None
    endings: Endings
    length_penalty: float
    min_length: int

    @property
    def wanted(self) -> int:
        return self.n_best or self.beam

    @property
    def bounds(self) -> bool:
        """Whether a prefix's score bounds those of its continuations, all of which are sequences."""
        return self.length_penalty == 0 and self.min_length == 0

    def rank(self, log_prob: Tensor, length: int) -> Tensor:
        return log_prob / length**self.length_penalty

    def ceiling(self, log_prob: Tensor, length: int) -> Tensor:
        """The best rank that a prefix of this length can still attain."""
        return torch.maximum(self.rank(log_prob, length + 1), self.rank(log_prob, self.max_length))


@dataclass
class _Trail:
    """Pointers of each step: where a kept prefix came from, its token, the log-probability of ending instead, and
    whether that is found though prefixes were dropped.
    """

    parents: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    ends: list[Tensor] = field(default_factory=list)
    in_beam: list[Tensor] = field(default_factory=list)


def _search(options: _Options, start: Tensor, state: State) -> Decoded:
    batch, beam, device = start.shape[0], options.beam, start.device
    if not batch:
        return Decoded([], [], 0)
    log_probs = torch.full((batch, beam), -math.inf, dtype=torch.float64, device=device)
    log_probs[:, 0] = 0
    dropped, remaining = log_probs.new_full((batch,), -math.inf), log_probs.new_full((batch,), -math.inf)
    ranks = log_probs.new_full((batch, options.wanted), -math.inf)
    trail, tokens, seen, total = _Trail(), start, 0, 1.0
    live = torch.arange(batch, device=device) * beam
    for length in range(1, options.max_length + 1):
        seen += live.shape[0]
        scores, state, most = advance(options.step, tokens, state, options.eos)
        total *= most
        kept, ends, (parents, chosen), lost = _extend(options, log_probs, scores, live, length)
        trail.parents.append(parents)
        trail.tokens.append(chosen)
        trail.ends.append(ends)
        in_beam = _in_beam(options, kept, ends)
        trail.in_beam.append(in_beam)
        last = length == options.max_length
        # What is as long as may be cannot end, kept or not.
        if not last:
            dropped = torch.maximum(dropped, lost)
        found = options.rank(ends.masked_fill(~in_beam, -math.inf), length)
        ranks = torch.cat([ranks, found], 1).topk(options.wanted).values
        best = kept.amax(1)
        # Where nothing was dropped yet the search goes on: it may find all sequences.
        done = (dropped > -math.inf) & (ranks[:, -1] >= options.ceiling(best, length))
        if last:
            done = torch.ones_like(done)
        remaining = torch.where(done, torch.maximum(remaining, best), remaining)
        log_probs = kept.masked_fill(done[:, None], -math.inf)
        following = (log_probs > -math.inf).flatten().nonzero().squeeze(1)
        if not following.shape[0]:
            break
        row = torch.full((batch * beam,), -1, device=device)
        row[live] = torch.arange(live.shape[0], device=device)
        origin = following // beam * beam + parents.flatten()[following]
        tokens, state, live = chosen.flatten()[following], select(state, row[origin]), following
    return _results(options, trail, dropped, remaining, seen, total)


def _extend(
    options: _Options, log_probs: Tensor, scores: Tensor, live: Tensor, length: int
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:
    """Log-probabilities (B, beam) of the prefixes kept and of ending here, the former's parents and tokens, and the
    highest (B,) of those not kept.
    """
    batch, beam = log_probs.shape
    before = log_probs.flatten()[live]
    ends = torch.full_like(log_probs, -math.inf)
    if length > options.min_length:
        ends.view(-1)[live] = before + scores[:, options.eos].double()
    # One prefix beyond the beam is wanted, the most probable that is dropped, and eos may be among a row's best.
    width = min(beam + 2, scores.shape[1])
    values, candidates = scores.topk(width)
    values = values.double().masked_fill(candidates == options.eos, -math.inf) + before[:, None]
    extended = log_probs.new_full((batch * beam, width), -math.inf)
    extended[live] = values
    tokens = torch.zeros((batch * beam, width), dtype=torch.long, device=live.device)
    tokens[live] = candidates
    best, place = extended.view(batch, -1).topk(min(beam + 1, beam * width))
    lost = best[:, beam] if best.shape[1] > beam else best.new_full((batch,), -math.inf)
    chosen = tokens.view(batch, -1).gather(1, place[:, :beam])
    kept, parents = best[:, :beam], place[:, :beam] // width
    return kept, ends, (parents, chosen), lost


def _in_beam(options: _Options, kept: Tensor, ends: Tensor) -> Tensor:
    """Whether ends (B, beam) are among the most probable ways to go on, together with the prefixes kept."""
    if options.endings == "all":
        return torch.ones_like(ends, dtype=torch.bool)
    return ends >= torch.cat([kept, ends], 1).topk(options.beam).values[:, -1:]


def _results(options: _Options, trail: _Trail, dropped: Tensor, remaining: Tensor, seen: int, total: float) -> Decoded:
    ends, in_beam = torch.stack(trail.ends, 1).cpu(), torch.stack(trail.in_beam, 1).cpu()
    # Where nothing was dropped all that ends is found.
    in_beam |= (dropped == -math.inf).cpu()[:, None, None]
    passed = ends.masked_fill(in_beam, -math.inf).flatten(1).amax(1)
    ends = ends.masked_fill(~in_beam, -math.inf)
    parents, tokens = torch.stack(trail.parents, 1).tolist(), torch.stack(trail.tokens, 1).tolist()
    lengths = torch.arange(1, ends.shape[1] + 1, dtype=torch.float64)[:, None]
    ranks = ends / lengths**options.length_penalty
    hypotheses, certificates = [], []
    for example, bound in enumerate(torch.stack([dropped.cpu(), remaining.cpu(), passed]).amax(0).tolist()):
        order = ranks[example].flatten().argsort(descending=True, stable=True)
        values, scores = (x[example].flatten()[order] for x in (ends, ranks))
        ended = values > -math.inf
        found = values[ended].tolist()
        places = [divmod(place, options.beam) for place in order[ended].tolist()]
        every = options.n_best is None and options.bounds and bound == -math.inf
        shown = len(places) if every else options.wanted
        listed = [
            Hypothesis(_walk(parents[example], tokens[example], at, slot, options.eos), log_prob, score)
            for (at, slot), log_prob, score in zip(places[:shown], found, scores[ended].tolist(), strict=False)
        ]
        hypotheses.append(listed)
        proof = certify(found, bounded(found, bound, total), len(listed))
        certificates.append(proof if options.bounds else voided(proof))
    return Decoded(hypotheses, certificates, seen)


def _walk(parents: list[list[int]], tokens: list[list[int]], at: int, slot: int, eos: int) -> tuple[int, ...]:
    """The sequence that ended at a step in a slot, read back from the pointers."""
    sequence = [eos]
    for step in range(at - 1, -1, -1):
        sequence.append(tokens[step][slot])
        slot = parents[step][slot]
    return tuple(reversed(sequence))
