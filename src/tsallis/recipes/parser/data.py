"""Sentences with the head of every word, as numbers, in batches of about the same length."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .._shared.datasets import Source, locate, split_hash
from .config import Config
from .sentences import Sentence, made, read_conllu

EWT = Source(
    folder="ud-english-ewt",
    url="https://github.com/UniversalDependencies/UD_English-EWT",
    files={"train.conllu.gz": None, "dev.conllu.gz": None, "test.conllu.gz": None},
)
# Words that have no vector; letters that are none, and that the training part does not have.
UNKNOWN, NO_LETTER, OTHER_LETTER = 0, 0, 1
# Letters of a word that are read: the first and the last of longer ones.
LETTERS = 16


@dataclass(frozen=True)
class Batch:
    """Padded sentences; behind their lengths words and heads are 0.

    Attributes:
        words: (B, n) numbers of words that have vectors.
        letters: (U, LETTERS) of the different spellings in the batch.
        spellings: (B, n) rows of letters.
        counts: (B, n) how often words occur in the training part.
        heads: (B, n).
        lengths: (B), on the CPU.
    """

    words: Tensor
    letters: Tensor
    spellings: Tensor
    counts: Tensor
    heads: Tensor
    lengths: Tensor

    @property
    def inside(self) -> Tensor:
        """(B, n) where there are words."""
        return torch.arange(self.words.shape[1], device=self.words.device) < self.lengths.to(self.words.device)[:, None]

    def to(self, device: torch.device) -> Batch:
        """There, but for lengths."""
        words, letters, spellings, counts, heads = (
            x.to(device) for x in (self.words, self.letters, self.spellings, self.counts, self.heads)
        )
        return Batch(words, letters, spellings, counts, heads, self.lengths)


class Vocabulary:
    """Words that occur twice or more in the training part, case ignored, and its letters."""

    def __init__(self, train: list[Sentence]) -> None:
        self.counts = Counter(word.lower() for sentence in train for word in sentence.words)
        letters = Counter(letter for sentence in train for word in sentence.words for letter in word)
        frequent = [word for word, n in _ordered(self.counts) if n > 1]
        self.words = {word: i for i, word in enumerate(frequent, UNKNOWN + 1)}
        self.letters = {letter: i for i, (letter, _) in enumerate(_ordered(letters), OTHER_LETTER + 1)}

    def spelled(self, word: str) -> list[int]:
        """LETTERS numbers."""
        half = LETTERS // 2
        kept = word if len(word) <= LETTERS else word[:half] + word[-half:]
        numbers = [self.letters.get(letter, OTHER_LETTER) for letter in kept]
        return numbers + [NO_LETTER] * (LETTERS - len(numbers))


def _ordered(counts: Counter[str]) -> list[tuple[str, int]]:
    # The most frequent first, ties in alphabetical order.
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


class Part:
    """Sentences of a part of the data, as numbers; in order of their length."""

    def __init__(self, sentences: list[Sentence], vocabulary: Vocabulary) -> None:
        self.sentences = sorted(sentences, key=lambda s: len(s.words))
        self.lengths = torch.tensor([len(s.words) for s in self.sentences])
        self.n = int(self.lengths.sum())
        self._heads = [torch.tensor(s.heads) for s in self.sentences]
        spelled = {word: i for i, word in enumerate(dict.fromkeys(w for s in self.sentences for w in s.words))}
        self._forms = [torch.tensor([spelled[word] for word in s.words]) for s in self.sentences]
        self._letters = torch.tensor([vocabulary.spelled(word) for word in spelled])
        self._words = torch.tensor([vocabulary.words.get(word.lower(), UNKNOWN) for word in spelled])
        self._counts = torch.tensor([vocabulary.counts[word.lower()] for word in spelled])

    def __len__(self) -> int:
        return len(self.sentences)

    def batch(self, positions: Tensor) -> Batch:
        """The sentences at these positions."""
        chosen = positions.tolist()
        lengths = self.lengths[positions]
        forms, heads = (pad_sequence([x[i] for i in chosen], batch_first=True) for x in (self._forms, self._heads))
        behind = torch.arange(forms.shape[1]) >= lengths[:, None]
        found, spellings = forms.unique(return_inverse=True)
        words, counts = (x[forms].masked_fill(behind, 0) for x in (self._words, self._counts))
        return Batch(words, self._letters[found], spellings, counts, heads, lengths)


@dataclass(frozen=True)
class Treebank:
    """The three parts, the vocabulary, and the hash of all sentences with heads."""

    train: Part
    dev: Part
    test: Part
    vocabulary: Vocabulary
    hash: str


def load(config: Config) -> Treebank:
    """The data set of a configuration."""
    whole = made() if config.dataset == "made" else [read_conllu(path) for path in locate(EWT, config).values()]
    train, dev, test = (part[: config.sentences] for part in whole)
    text = "\n".join(f"{s.words} {s.heads}" for part in (train, dev, test) for s in part)
    known = Vocabulary(train)
    digest = split_hash([np.frombuffer(text.encode(), np.uint8)])
    return Treebank(Part(train, known), Part(dev, known), Part(test, known), known, digest)
