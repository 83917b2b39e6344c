"""What a recipe says of a line: a prediction with its proof, or the reason why there is none.

A recipe that predicts exports ``predict(run, lines, *, beam=None, n_best=None, explain=False)``, which yields a
prediction for each line, in order. A beam takes the place of the run's own; n_best is how many sequences are sought of
each line, as in `beam_search`. `lines.answers` gives it batches, and makes a reason of a line that cannot be read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from torch import Tensor

from ... import decoding
from ...decoding import Certificate, Hypothesis, Status, Tree

# Alternatives that are named where nobody says how many.
ALTERNATIVES = 9


@dataclass(frozen=True)
class Alignment:
    """Which source positions each token of a prediction attended to.

    Attributes:
        source: S tokens.
        target: T tokens.
        weights: (T, S).
    """

    source: Sequence[str]
    target: Sequence[str]
    weights: Tensor


@dataclass(frozen=True)
class Prediction:
    """The answer to a line.

    Attributes:
        text: what is predicted; None where there is nothing, and then `reason` is given.
        log_prob: natural logarithm of its probability.
        certificate: what the search proved; None where no search was needed.
        alternatives: other predictions with their probabilities, the best first.
        reason: why there is no prediction.
        tree: all sequences found, asked for with explain.
        name: of a token of the tree.
        alignment: asked for with explain, None where the model has no attention.
    """

    text: str | None
    log_prob: float = math.nan
    certificate: Certificate | None = None
    alternatives: Sequence[tuple[str, float]] = ()
    reason: str | None = None
    tree: Tree | None = None
    name: Callable[[int], str] = str
    alignment: Alignment | None = None

    def __post_init__(self) -> None:
        if (self.text is None) != (self.reason is not None):
            raise ValueError("a prediction has a text or a reason, and not both")

    @property
    def probability(self) -> float:
        """Of the text."""
        return math.exp(self.log_prob)


def found(
    hypotheses: Sequence[Hypothesis],
    certificate: Certificate,
    spell: Callable[[tuple[int, ...]], str],
    *,
    alternatives: int = ALTERNATIVES,
    name: Callable[[int], str] | None = None,
    alignment: Alignment | None = None,
) -> Prediction:
    """The prediction that a search found for one line.

    Args:
        hypotheses: the best first.
        certificate: of the search.
        spell: the text of a sequence, whose last token is the end of sequence.
        alternatives: how many to name besides the best.
        name: of a token; with it the prediction gets a tree.
        alignment: of the best.
    """
    if not hypotheses:
        reason = "The search found no sequence that ends in time. Expected one. Try a shorter line, or a wider beam."
        if certificate.status is Status.ENUMERATED:
            reason = "No sequence that the search may find has probability. Expected one. Try another line."
        return Prediction(None, certificate=certificate, reason=reason)
    texts: dict[str, float] = {}
    for hypothesis in hypotheses:
        # Of several sequences that spell one text the best counts.
        texts.setdefault(spell(hypothesis.tokens), hypothesis.log_prob)
    (text, log_prob), *others = texts.items()
    return Prediction(
        text,
        log_prob,
        certificate,
        tuple((other, math.exp(value)) for other, value in others[:alternatives]),
        tree=None if name is None else decoding.tree(hypotheses),
        name=name or str,
        alignment=alignment,
    )


def probability(log_prob: float) -> str:
    """A probability with six digits, also where it is too small for a float; empty for NaN."""
    if math.isnan(log_prob):
        return ""
    return f"{math.exp(log_prob) if log_prob > -700 else Decimal(log_prob).exp():.6g}"
