"""What a search has proved about its result."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import IntEnum


class Status(IntEnum):
    """How much is proved, in rising order.

    UNKNOWN: nothing; an option was used under which the score of a prefix does not bound its continuations.
    BOUNDED: an unseen sequence may be more probable than the best found, by at most the certificate's gap.
    ARGMAX_EXACT: no sequence is more probable than the best found.
    ENUMERATED: every sequence of non-zero probability was found.
    """

    UNKNOWN = 0
    BOUNDED = 1
    ARGMAX_EXACT = 2
    ENUMERATED = 3


@dataclass(frozen=True)
class Certificate:
    r"""A proof about the sequences that a search found, from prefixes that it dropped or left open, and from sequences
    that ended outside its beam (`beam_search`), which count as dropped, too.

    A prefix is at least as probable as any of its continuations, $p(y_{1:t}) \ge p(y)$, and one of probability zero has
    none. Hence no unseen sequence exceeds the most probable prefix that was dropped or left open, nor the probability
    $1 - \sum p(y)$ that the found ones leave. Where a step's probabilities add up to more than 1, as those of half
    precision do, the 1 is the product of the largest sums seen.

    Attributes:
        status: what is proved.
        gap: nats by which an unseen sequence may exceed the best found: 0 where the best is exact, inf where none was
            found and one may exist, NaN where the status is UNKNOWN.
        found: how many sequences were found, also those beyond the few that were asked for.
        mass: the probability of all sequences found; above 1 by as much as the model's probabilities are.
        unseen: log-probability that no unseen sequence exceeds; -inf where all are found, NaN where UNKNOWN.
        proven: how many leading sequences of the result are proved to be the most probable ones, in their order.
    """

    status: Status
    gap: float
    found: int
    mass: float
    unseen: float
    proven: int

    @property
    def exact(self) -> bool:
        """Whether the best found is proved to be the most probable sequence."""
        return self.status >= Status.ARGMAX_EXACT

    def __str__(self) -> str:
        return f"BOUNDED({self.gap:.3g})" if self.status is Status.BOUNDED else self.status.name


def bounded(found: list[float], remaining: float, total: float) -> float:
    """Log-probability that no sequence exceeds but those with log-probabilities found.

    remaining is that of the most probable prefix dropped or left open, total what the probabilities of all sequences
    add up to at most, 1 but for rounding, so far as the steps at which the found ones ended are known.
    """
    left = total - math.fsum(map(math.exp, found))
    # No mass left but a prefix of some: the probabilities add up to more than is known, and only the prefixes bound.
    return min(remaining, math.log(left)) if left > 0 else remaining


def certify(found: list[float], unseen: float, shown: int) -> Certificate:
    """The certificate of sequences with log-probabilities found, the best first, of which that many are shown; unseen
    is what no other exceeds, -inf if there is none.
    """
    mass, count = math.fsum(map(math.exp, found)), len(found)
    if unseen == -math.inf:
        return Certificate(Status.ENUMERATED, 0.0, count, mass, unseen, shown)
    best = found[0] if found else -math.inf
    proven = min(shown, sum(score >= unseen for score in found))
    if best >= unseen:
        return Certificate(Status.ARGMAX_EXACT, 0.0, count, mass, unseen, proven)
    return Certificate(Status.BOUNDED, unseen - best, count, mass, unseen, proven)


def voided(certificate: Certificate) -> Certificate:
    """The certificate of the same sequences where its bounds do not hold: only their number and mass are known."""
    return replace(certificate, status=Status.UNKNOWN, gap=math.nan, unseen=math.nan, proven=0)
