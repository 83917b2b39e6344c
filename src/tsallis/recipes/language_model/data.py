"""Text as a stream of word numbers, cut into windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .._shared.datasets import DataError, Source, locate, read_lines, split_hash
from .._shared.seeding import generator
from .config import Config
from .vocabulary import END, Vocabulary, Words, learned

WIKITEXT = Source(
    folder="wikitext-2",
    url="https://huggingface.co/datasets/Salesforce/wikitext (wikitext-2-v1)",
    files={"train.txt.gz": None, "valid.txt.gz": None, "test.txt.gz": None},
)
# Successors of a word in the chain, and tokens of its parts.
SUCCESSORS, CHAIN = 12, {"train": 200_000, "validation": 20_000, "test": 20_000}


@dataclass(frozen=True)
class Stream:
    """Tokens one after the other."""

    tokens: Tensor
    context: int

    def __len__(self) -> int:
        """How many windows there are."""
        return (len(self.tokens) - 1) // self.context

    def spread(self, number: int) -> Tensor:
        """Positions of so many windows, evenly over the text; all if there are not more."""
        number = min(number, len(self))
        return torch.arange(number) * len(self) // number

    def before(self, positions: Tensor, number: int) -> Tensor:
        """The tokens (B, number) of the text before those that `windows` has follow, -1 where it had not begun."""
        places = positions.unsqueeze(1) * self.context + torch.arange(1 - number, 1)
        return torch.where(places < 0, -1, self.tokens[places.clamp_min(0)])

    def windows(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Windows (B, context), and the token that follows each of theirs."""
        places = positions.unsqueeze(1) * self.context + torch.arange(self.context)
        return self.tokens[places], self.tokens[places + 1]


@dataclass(frozen=True)
class Text:
    """The three parts, what tokens stand for, and the hash of all tokens."""

    train: Stream
    validation: Stream
    test: Stream
    vocabulary: Vocabulary
    hash: str

    @property
    def words(self) -> int:
        """How many different tokens there are."""
        return len(self.vocabulary.starts)

    @property
    def frequencies(self) -> Tensor:
        """Shares (V,) of the tokens of training text; half of one is added to each count, so that none is zero."""
        counts = torch.bincount(self.train.tokens, minlength=self.words) + 0.5
        return counts / counts.sum()


def load(config: Config) -> Text:
    """The data set of a configuration."""
    parts, vocabulary = DATASETS[config.dataset](config)
    train, validation, test = (Stream(part, config.context) for part in parts)
    for name, stream in (("train", train), ("validation", validation), ("test", test)):
        if not len(stream):
            raise DataError(
                f"{name}: {len(stream.tokens)} tokens", f"more than context={config.context}", "Lower context"
            )
    return Text(train, validation, test, vocabulary, split_hash([part.numpy() for part in parts]))


def _chain(config: Config) -> tuple[Sequence[Tensor], Vocabulary]:
    """Each word is followed by one of a few, some much oftener than others: a text with a small true support."""
    words = config.words
    draws = generator("chain", words)
    successors = torch.randint(words, (words, SUCCESSORS), generator=draws)
    weights = 1.0 / torch.arange(1, SUCCESSORS + 1)
    total = sum(CHAIN.values())
    picks = torch.multinomial(weights, total, replacement=True, generator=draws).tolist()
    table, word, stream = successors.tolist(), 0, []
    for pick in picks:
        word = table[word][pick]
        stream.append(word)
    return torch.tensor(stream).split(list(CHAIN.values())), Words([str(word) for word in range(words)])


def _wikitext(config: Config) -> tuple[Sequence[Tensor], Vocabulary]:
    texts = [_words(path) for path in locate(WIKITEXT, config).values()]
    vocabulary = learned(texts, config.pieces)
    return [vocabulary.encode(text) for text in texts], vocabulary


DATASETS = {"chain": _chain, "wikitext-2": _wikitext}


def _words(path: Path) -> list[str]:
    lines = read_lines(path, "UTF-8 text, gzipped or not")
    # Blank lines stay: perplexities of others have their ends too.
    return [word for line in lines for word in (*line.split(), END)]
