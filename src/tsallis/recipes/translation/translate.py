"""Searching translations, and scoring them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ...decoding.certificates import Status
from ...nn import Seq2Seq
from .._shared.lines import LineError, answers
from .._shared.packages import require
from .._shared.predictions import Prediction
from .._shared.seq2seq import predictions
from .config import Config
from .pieces import Pieces


def translate(
    model: Seq2Seq,
    pieces: Pieces,
    lines: Iterable[str],
    config: Config,
    *,
    n_best: int | None = None,
    explain: bool = False,
    longest: int | None = None,
) -> Iterator[Prediction]:
    """Translations of sentences, in their order; n_best of each are searched, without it as many as the beam holds.
    Those of more pieces than the longest get none.
    """

    def read(line: str) -> tuple[list[str], list[int]]:
        numbers, _ = pieces.encode(line)
        if longest is not None and len(numbers) > longest:
            raise LineError(f"{len(numbers)} pieces", f"at most {longest}", "Cut the sentence")
        return [pieces.names[number] for number in numbers], numbers

    def search(sentences: list[tuple[list[str], list[int]]]) -> list[Prediction]:
        return predictions(
            model, sentences, config, pieces.names.__getitem__, pieces.decode, n_best=n_best, explain=explain
        )

    # Of lines that are all there those of a length are searched together.
    size = max(1, len(lines)) if isinstance(lines, Sequence) else config.search_batch
    return answers(lines, read, search, size=size)


def greedy(model: Seq2Seq, pieces: Pieces, lines: Sequence[str], config: Config) -> list[str]:
    """Translations by a beam of one; empty where there is none."""
    return texts(list(translate(model, pieces, lines, replace(config, beam=1), n_best=1)))


def texts(found: Sequence[Prediction]) -> list[str]:
    """Translations, empty where there is none."""
    return [translation.text or "" for translation in found]


def rates(found: Sequence[Prediction]) -> dict[str, float]:
    """Percent of translations that are proved to be the most probable, and whose beam held all that have probability;
    of sentences without one, and of such whose translation is empty; and the mean probability of what was found.
    """
    proofs = [t.certificate for t in found if t.certificate is not None and t.text is not None]
    exact = sum(proof.exact for proof in proofs)
    every = sum(proof.status is Status.ENUMERATED for proof in proofs)
    return {
        "exact": 100 * exact / len(found),
        "enumerated": 100 * every / len(found),
        "without": 100 * sum(t.text is None for t in found) / len(found),
        "empty": 100 * sum(t.text is not None and not t.text.strip() for t in found) / len(found),
        "mass": sum(proof.mass for proof in proofs) / len(found),
    }


@dataclass(frozen=True)
class Score:
    """A metric of translations of a test, from 0 to 100, and how sacrebleu computed it."""

    value: float
    signature: str


def scores(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Score]:
    """BLEU and chrF of plain text, as sacrebleu computes them unless told otherwise."""
    metrics = require("sacrebleu.metrics", "what computes BLEU and chrF")
    found = {}
    for name, metric in (("BLEU", metrics.BLEU()), ("chrF", metrics.CHRF())):
        value = metric.corpus_score(list(hypotheses), [list(references)]).score
        found[name] = Score(float(value), str(metric.get_signature()))
    return found


def length(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Words of translations for each word of the references, as BLEU counts them."""
    metrics = require("sacrebleu.metrics", "what computes BLEU and chrF")
    counted = metrics.BLEU().corpus_score(list(hypotheses), [list(references)])
    return counted.sys_len / max(counted.ref_len, 1)
