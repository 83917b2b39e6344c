"""Searching translations, and scoring them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ... import decoding
from ...core.errors import TsallisError
from ...nn import Seq2Seq
from .._shared.seq2seq import searched
from .config import Config
from .pieces import Pieces


@dataclass(frozen=True)
class Translation:
    """What a search found for a sentence.

    Attributes:
        text: the best translation, None where there is a reason.
        log_prob: its natural logarithm of probability.
        certificate: what is proved about it.
        alternatives: further translations with their log_prob, the best first. Of several piece sequences that spell
            one text, the best counts.
        reason: why there is no translation.
    """

    text: str | None = None
    log_prob: float | None = None
    certificate: decoding.Certificate | None = None
    alternatives: list[tuple[str, float]] = field(default_factory=list)
    reason: str | None = None


def translate(
    model: Seq2Seq, pieces: Pieces, lines: Sequence[str], config: Config, *, n_best: int | None = None
) -> list[Translation]:
    """Translations of sentences, in their order; n_best of each are searched, as many as the beam without it."""
    found, places, sources = [Translation() for _ in lines], [], []
    for i, line in enumerate(lines):
        numbers = pieces.encode(line)[0]
        if len(numbers) == 1:
            found[i] = Translation(reason="the line is empty")
        elif len(numbers) > config.max_length:
            found[i] = Translation(reason=f"{len(numbers)} pieces: at most {config.max_length} are translated")
        else:
            places.append(i)
            sources.append(torch.tensor(numbers))
    result = search(model, sources, config, n_best or config.beam)
    for i, hypotheses, certificate in zip(places, result.hypotheses, result.certificates, strict=True):
        found[i] = _translation(hypotheses, certificate, pieces, config)
    return found


def _translation(
    hypotheses: list[decoding.Hypothesis], certificate: decoding.Certificate, pieces: Pieces, config: Config
) -> Translation:
    texts: dict[str, float] = {}
    for hypothesis in hypotheses:
        texts.setdefault(pieces.decode(hypothesis.tokens), hypothesis.log_prob)
    if not texts:
        reason = f"no translation of at most {config.max_length} pieces was found"
        return Translation(certificate=certificate, reason=reason)
    (text, log_prob), *others = texts.items()
    return Translation(text, log_prob, certificate, others)


def search(model: Seq2Seq, sources: Sequence[torch.Tensor], config: Config, n_best: int) -> decoding.Decoded:
    """One search over all sources, in their order."""
    hypotheses: list[list[decoding.Hypothesis]] = [[] for _ in sources]
    certificates: dict[int, decoding.Certificate] = {}
    rows = 0
    for positions, part in searched(model, sources, config, n_best=n_best) if len(sources) else ():
        rows += part.rows
        for i, shown, certificate in zip(positions.tolist(), part.hypotheses, part.certificates, strict=True):
            hypotheses[i], certificates[i] = shown, certificate
    return decoding.Decoded(hypotheses, [certificates[i] for i in range(len(sources))], rows)


def greedy(model: Seq2Seq, pieces: Pieces, lines: Sequence[str], config: Config) -> list[str]:
    """Translations by a beam of one; empty where there is none."""
    return texts(translate(model, pieces, lines, replace(config, beam=1), n_best=1))


def texts(found: Sequence[Translation]) -> list[str]:
    """Translations, empty where there is none."""
    return [translation.text or "" for translation in found]


def rates(found: Sequence[Translation]) -> dict[str, float]:
    """Percent of translations that are proved to be the most probable, and whose beam held all that have probability;
    of sentences without one; and the mean probability of what was found.
    """
    proofs = [t.certificate for t in found if t.certificate is not None]
    exact = sum(proof.exact for proof in proofs)
    every = sum(proof.status is decoding.certificates.Status.ENUMERATED for proof in proofs)
    return {
        "exact": 100 * exact / len(found),
        "enumerated": 100 * every / len(found),
        "without": 100 * sum(t.text is None for t in found) / len(found),
        "mass": sum(proof.mass for proof in proofs) / len(found),
    }


@dataclass(frozen=True)
class Score:
    """A metric of translations of a test, from 0 to 100, and how sacrebleu computed it."""

    value: float
    signature: str


def scores(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Score]:
    """BLEU and chrF of plain text, as sacrebleu computes them unless told otherwise."""
    metrics: Any = _package()
    found = {}
    for name, metric in (("BLEU", metrics.BLEU()), ("chrF", metrics.CHRF())):
        value = metric.corpus_score(list(hypotheses), [list(references)]).score
        found[name] = Score(float(value), str(metric.get_signature()))
    return found


def _package() -> Any:
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise TsallisError(
            "No package sacrebleu", "what computes BLEU and chrF", "Run: pip install 'tsallis[recipes]'"
        ) from error
    return metrics
