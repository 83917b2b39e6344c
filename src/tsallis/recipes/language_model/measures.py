"""Measures of sampling methods, word by word of a text and of text they write."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import tsallis as ts

from .._shared.seeding import generator
from .data import Stream
from .sampling import METHODS, Method, Ranked

measure = ts.decoding.metrics
# How many tokens back a drawn token may be a repetition.
WINDOWS = (16, 32, 128, 512)
# Epsilon stays finite where guessing would be best, and above zero where no word of validation text is ruled out: test
# text may have one.
LEAST, MOST = 1e-9, 1.0

# Distributions (B, T, V) of the next token, after each of those of windows (B, T); on any device.
Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tokens:
    """What a method does after each token of windows (B, T).

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


@dataclass(frozen=True)
class Followed:
    """What methods do along a text.

    Attributes:
        by: the tokens of each method by its name.
        gold: the tokens (B, T) of the text.
        before: those (B, H) before them, -1 where the text had not begun.
    """

    by: dict[str, Tokens]
    gold: Tensor
    before: Tensor


def ranked(model: Model, stream: Stream, windows: int) -> Iterator[tuple[Ranked, Tensor]]:
    """Sorted distributions in windows (B, T) spread over a text, a few at once, and the tokens (B, T) that follow."""
    with torch.no_grad():
        # Few at once: sorted distributions of large vocabularies are large.
        for positions in stream.spread(windows).split(max(1, 256 // stream.context)):
            seen, target = stream.windows(positions)
            p = model(seen)
            yield Ranked.of(p), target.to(p.device)


def choose(model: Model, stream: Stream, windows: int) -> dict[str, Method]:
    """Of each kind of method the one with the best sparsemax score on validation text."""
    candidates = [method for kind in METHODS.values() for method in kind]
    totals = dict.fromkeys(candidates, 0.0)
    for sorted_, target in ranked(model, stream, windows):
        rank = sorted_.rank(target)
        for method in candidates:
            totals[method] += sorted_.scored(method, rank)[1].sum().item()
    return {name: max(kind, key=lambda method: totals[method]) for name, kind in METHODS.items()}


def follow(model: Model, stream: Stream, windows: int, methods: Mapping[str, Method], seed: int) -> Followed:
    """What methods do in windows spread over a text, all with the same random numbers."""
    draws = generator(seed, "draws")
    found: dict[str, list[Tokens]] = {name: [] for name in methods}
    gold = []
    for sorted_, target in ranked(model, stream, windows):
        rank, uniform = sorted_.rank(target), torch.rand(target.shape, generator=draws, dtype=torch.float64)
        gold.append(target.cpu())
        for name, method in methods.items():
            right, score, kept = sorted_.scored(method, rank)
            drawn = sorted_.draw(kept, uniform.to(kept.device))
            seen = (right, score, kept, drawn)
            found[name].append(Tokens(*(x.cpu() for x in seen)))
    joined = {
        name: Tokens(*(torch.cat([getattr(part, field) for part in parts]) for field in Tokens.__annotations__))
        for name, parts in found.items()
    }
    return Followed(joined, torch.cat(gold), stream.before(stream.spread(windows), max(WINDOWS)))


def of_tokens(
    name: str, validation: Followed, test: Followed, vocabulary: int, words: int | None = None
) -> dict[str, float]:
    """Measures of a method on test text; epsilon is that which is best on validation text.

    Args:
        name: of the method.
        validation: what it does along validation text.
        test: and along test text.
        vocabulary: how many tokens there are.
        words: how many words those of test text are, if tokens are pieces of words.
    """
    chosen_by, along = validation.by[name], test.by[name]
    epsilon = min(max(measure.best_epsilon(chosen_by.right, vocabulary), LEAST), MOST)
    surprise = measure.surprise(along.right, vocabulary, epsilon).mean().item()
    tokens = test.gold.numel()
    return {
        "epsilon": epsilon,
        "token epsilon-perplexity": math.exp(surprise),
        "epsilon-perplexity": math.exp(surprise * tokens / (words or tokens)),
        "sparsemax score": along.score.mean().item(),
        "JS": measure.jensen_shannon(along.right).mean().item(),
        "kept": along.kept.double().mean().item(),
        **repetition(along.drawn, test.gold, test.before),
    }


def repetition(drawn: Tensor, gold: Tensor, before: Tensor) -> dict[str, float]:
    """Shares of drawn tokens (B, T) that occur among the last so many of the text, and are wrong too; their means."""
    text, length = torch.cat([before, gold], 1), gold.shape[1]
    placed = F.pad(drawn, (before.shape[1], 0))
    shares = {
        window: [found[:, -length:].double().mean().item() for found in measure.repeats(placed, text, window)]
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
