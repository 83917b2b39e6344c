"""Measures of sampling methods, word by word of a text and of text they write."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import tsallis as ts

from .._shared.seeding import generator
from .data import Stream
from .model import Training
from .sampling import METHODS, Method, Ranked

measure = ts.decoding.metrics
# How many tokens back a drawn token may be a repetition.
WINDOWS = (16, 32, 128, 512)
# Epsilon stays finite where guessing would be best, and above zero where no word of validation text is ruled out: test
# text may have one.
LEAST, MOST = 1e-9, 1.0


@dataclass(frozen=True)
class Tokens:
    """What a method does after each of N tokens of a text.

    Attributes:
        right: its probability of the next token.
        score: its sparsemax score.
        kept: how many words it may draw.
        drawn: the word it draws.
    """

    right: Tensor
    score: Tensor
    kept: Tensor
    drawn: Tensor


def ranked(task: Training, stream: Stream, windows: int) -> Iterator[tuple[Ranked, Tensor]]:
    """Sorted distributions (T, V) of each of the first windows of a text, and the tokens (T) that follow."""
    with torch.no_grad():
        for positions in torch.arange(min(windows, len(stream))).split(4):
            seen, target = (part.to(task.device) for part in stream.windows(positions))
            p = task.head.probabilities(task.scores(task.model(seen)))
            yield Ranked.of(p.flatten(0, 1)), target.flatten()


def choose(task: Training, stream: Stream, windows: int) -> dict[str, Method]:
    """Of each kind of method the one with the best sparsemax score on validation text."""
    candidates = [method for kind in METHODS.values() for method in kind]
    totals = dict.fromkeys(candidates, 0.0)
    for sorted_, target in ranked(task, stream, windows):
        rank = sorted_.rank(target)
        for method in candidates:
            totals[method] += measure.sparsemax_score(sorted_.truncated(method)[0], rank).double().sum().item()
    return {name: max(kind, key=lambda method: totals[method]) for name, kind in METHODS.items()}


def follow(
    task: Training, stream: Stream, windows: int, methods: Mapping[str, Method], seed: int
) -> tuple[dict[str, Tokens], Tensor]:
    """What methods do along a text, all with the same random numbers; and the text."""
    draws = generator(seed, "draws")
    found: dict[str, list[Tokens]] = {name: [] for name in methods}
    gold = []
    for sorted_, target in ranked(task, stream, windows):
        rank, uniform = sorted_.rank(target), torch.rand(len(target), generator=draws, dtype=torch.float64)
        gold.append(target.cpu())
        for name, method in methods.items():
            p, kept = sorted_.truncated(method)
            right = p.gather(-1, rank.unsqueeze(-1)).squeeze(-1)
            drawn = sorted_.draw(kept, uniform.to(kept.device))
            seen = (right, measure.sparsemax_score(p, rank), (p > 0).sum(-1), drawn)
            found[name].append(Tokens(*(x.cpu() for x in seen)))
    joined = {
        name: Tokens(*(torch.cat([getattr(part, field) for part in parts]) for field in Tokens.__annotations__))
        for name, parts in found.items()
    }
    return joined, torch.cat(gold)


def of_tokens(validation: Tokens, test: Tokens, gold: Tensor, vocabulary: int, words: int) -> dict[str, float]:
    """Measures on test text; epsilon is that which is best on validation text. ``words`` of it are whole words."""
    epsilon = min(max(measure.best_epsilon(validation.right, vocabulary), LEAST), MOST)
    surprise = measure.surprise(test.right.double(), vocabulary, epsilon).mean().item()
    repeated = repetition(test.drawn, gold)
    return {
        "epsilon": epsilon,
        "token perplexity": math.exp(surprise),
        "perplexity": math.exp(surprise * len(gold) / words),
        "sparsemax score": test.score.double().mean().item(),
        "JS": measure.jensen_shannon(test.right.double()).mean().item(),
        "kept": test.kept.double().mean().item(),
        **repeated,
    }


def repetition(drawn: Tensor, gold: Tensor) -> dict[str, float]:
    """Shares of drawn tokens that occur among the last so many of the text, and are wrong too; and their means."""
    shares = {
        window: [found.double().mean().item() for found in measure.repeats(drawn[None], gold[None], window)]
        for window in WINDOWS
    }
    every = {f"{name}@{window}": shares[window][i] for i, name in enumerate(("rep", "wrep")) for window in WINDOWS}
    means = {name: sum(shares[w][i] for w in WINDOWS) / len(WINDOWS) for i, name in enumerate(("rep", "wrep"))}
    return means | every


def of_samples(samples: Sequence[Sequence[Any]]) -> dict[str, float]:
    """Of texts as lists of words: the mean share of 4-grams of a text that it had before, and how many n-grams of all
    texts differ.
    """
    fours = [found for words in samples if (found := _grams(words, 4))]
    values = {"repeated 4-grams": sum(1 - len(set(found)) / len(found) for found in fours) / max(1, len(fours))}
    for n in (1, 2, 3):
        every = [gram for words in samples for gram in _grams(words, n)]
        values[f"distinct-{n}"] = len(set(every)) / max(1, len(every))
    return values


def _grams(words: Sequence[Any], n: int) -> list[tuple[Any, ...]]:
    return [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
