"""What a model of inflection knows: of each language, how often it is right and how much of that is proved."""

from __future__ import annotations

import math

import torch

from ... import decoding
from ...nn import Seq2Seq
from .._shared.seq2seq import searched
from .config import Config
from .data import Inflections, Part, word_of

Languages = dict[str, dict[str, float]]


def examine(model: Seq2Seq, part: Part, data: Inflections, config: Config) -> Languages:
    """Measures of each language, shares in percent."""
    words, pairs = part.words, part.pairs
    places: dict[str, list[int]] = {}
    for i, word in enumerate(words):
        places.setdefault(word.language, []).append(i)
    guesses = [""] * len(words)
    hypotheses: list[list[decoding.Hypothesis]] = [[] for _ in words]
    certificates: list[decoding.Certificate | None] = [None] * len(words)
    rows = 0
    for positions, found in searched(model, pairs.sources, config):
        rows += found.rows
        for i, shown, certificate in zip(positions.tolist(), found.hypotheses, found.certificates, strict=True):
            hypotheses[i], certificates[i] = shown, certificate
            guesses[i] = word_of(data.target.decode(shown[0].tokens)) if shown else ""
    letters, attended = _widths(model, part, config)
    measured: Languages = {}
    for language, chosen in places.items():
        proofs = [c for i in chosen if (c := certificates[i]) is not None]
        rates = decoding.metrics.search_rates(decoding.Decoded([hypotheses[i] for i in chosen], proofs, rows))
        right = [guesses[i] == words[i].form for i in chosen]
        distances = [edits(guesses[i], words[i].form) for i in chosen]
        measured[language] = {
            "words": float(len(chosen)),
            "accuracy": 100 * _mean(right),
            "distance": _mean(distances),
            **{name: (1 if name == "mass" else 100) * rate for name, rate in rates.items()},
            "support": _mean([letters[i] for i in chosen]),
            "attended": _mean([attended[i] for i in chosen]),
        }
    return measured


def macro(languages: Languages) -> dict[str, float]:
    """Means over languages, of accuracy and distance as the shared task has them: rounded to two decimals before."""
    names = next(iter(languages.values()))

    def shown(name: str, value: float) -> float:
        return round(value, 2) if name in ("accuracy", "distance") else value

    return {name: _mean([shown(name, of[name]) for of in languages.values()]) for name in names if name != "words"}


def edits(guess: str, form: str) -> int:
    """Levenshtein's distance: letters to insert, delete or replace."""
    before = list(range(len(form) + 1))
    for i, letter in enumerate(guess, 1):
        now = [i]
        for j, other in enumerate(form, 1):
            now.append(min(before[j] + 1, now[-1] + 1, before[j - 1] + (letter != other)))
        before = now
    return before[-1]


@torch.no_grad()
def _widths(model: Seq2Seq, part: Part, config: Config) -> tuple[list[float], list[float]]:
    """Of each word, means over the places of the right form: letters with probability, places attended to."""
    letters, attended = [0.0] * len(part.words), [0.0] * len(part.words)
    device = next(model.parameters()).device
    model.eval()
    for positions in part.pairs.lengths.argsort(stable=True).split(config.search_batch):
        source, target = (x.to(device) for x in part.pairs.batch(positions))
        inside = target >= 0
        length = inside.sum(1)
        support = (model.log_probs(model(source, target)) > -math.inf).sum(-1)
        seen = (model.align(source, target) > 0).sum(-1)
        for i, n, m in zip(
            positions.tolist(),
            ((support * inside).sum(1) / length).tolist(),
            ((seen * inside).sum(1) / length).tolist(),
            strict=True,
        ):
            letters[i], attended[i] = n, m
    return letters, attended


def _mean(values: list[float] | list[int] | list[bool]) -> float:
    return math.fsum(values) / len(values)
