"""Pairs of token sequences, and the vocabularies that number their tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...nn.seq2seq import PADDING
from .datasets import DataError
from .files import RunError, read_json, write_json
from .loading import Loader, bucketed

END, UNKNOWN = "<end>", "<unknown>"


class Vocabulary:
    """Numbers of tokens: 0 ends a sequence, 1 stands for all that are unknown."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tuple(tokens)
        self.numbers = {token: number for number, token in enumerate(self.tokens)}

    @classmethod
    def of(cls, sequences: Iterable[Iterable[str]]) -> Vocabulary:
        """All tokens of some sequences, the most frequent first, ties in alphabetical order; none is END or UNKNOWN."""
        counts = Counter(token for sequence in sequences for token in sequence)
        if taken := {END, UNKNOWN} & counts.keys():
            raise DataError(f"The token {min(taken)}", "another: it has a meaning of its own", "Rename it in the data")
        return cls([END, UNKNOWN, *sorted(counts, key=lambda token: (-counts[token], token))])

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Numbers, that of the end last."""
        return [*(self.numbers.get(token, 1) for token in tokens), 0]

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """Tokens, without the end."""
        return [self.tokens[number] for number in numbers if number]


def save_vocabularies(path: Path, **vocabularies: Vocabulary) -> None:
    """Write vocabularies by name, as JSON."""
    write_json(path, {name: list(vocabulary.tokens) for name, vocabulary in vocabularies.items()})


def read_vocabularies(path: Path, *names: str) -> list[Vocabulary]:
    """Read those of the names."""
    content = read_json(path)
    for name in names:
        tokens = content.get(name) if isinstance(content, dict) else None
        if not isinstance(tokens, list) or tokens[:2] != [END, UNKNOWN] or not all(isinstance(t, str) for t in tokens):
            raise RunError(f"{path}: no vocabulary {name!r}", "a file written by tsallis run", "Run again")
        if len(set(tokens)) < len(tokens):
            raise RunError(
                f"{path}: vocabulary {name!r} has a token twice", "a file written by tsallis run", "Run again"
            )
    return [Vocabulary(content[name]) for name in names]


class Pairs:
    """Sources and targets as numbers, each with its end."""

    def __init__(self, sources: list[list[int]], targets: list[list[int]]) -> None:
        self.sources, self.targets = ([torch.tensor(x) for x in side] for side in (sources, targets))
        self.lengths = torch.tensor([len(s) + len(t) for s, t in zip(sources, targets, strict=True)])

    def __len__(self) -> int:
        return len(self.sources)

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Padded sources (B, S) and targets (B, T)."""
        chosen = positions.tolist()
        source, target = (padded([side[i] for i in chosen]) for side in (self.sources, self.targets))
        return source, target

    def batches(self, tokens: int, seed: int) -> Loader:
        """Batches of up to so many tokens, of both sides and with padding, to train on."""
        return bucketed(self.batch, self.lengths, tokens, seed)

    def evaluation(self, batch_size: int) -> Loader:
        """All pairs, in order of their lengths."""
        order = self.lengths.argsort(stable=True)
        return Loader(lambda positions: self.batch(order[positions]), len(self), batch_size)


def padded(sequences: Sequence[Tensor]) -> Tensor:
    """(B, N)."""
    return pad_sequence(list(sequences), batch_first=True, padding_value=PADDING)
