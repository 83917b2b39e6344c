"""What tokens stand for: words, or pieces of words learned from a text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .._shared.packages import require

END, UNKNOWN = "<eos>", "<unk>"
# What pieces that begin a word begin with: a space, as the tokenizer writes bytes.
SPACE = "Ġ"


class Vocabulary(Protocol):
    """Names of tokens."""

    @property
    def starts(self) -> Tensor:
        """Which tokens (V) begin a word."""
        ...

    def encode(self, words: Sequence[str]) -> Tensor:
        """The tokens of a text."""
        ...

    def words(self, tokens: Sequence[int]) -> list[str]:
        """The words that tokens spell, the first and last perhaps not whole."""
        ...

    def save(self) -> str:
        """As JSON."""
        ...


@dataclass(frozen=True)
class Words:
    """A token a word."""

    names: list[str]

    @property
    def starts(self) -> Tensor:
        return torch.ones(len(self.names), dtype=torch.bool)

    def encode(self, words: Sequence[str]) -> Tensor:
        numbers = {name: i for i, name in enumerate(self.names)}
        return torch.tensor([numbers[word] for word in words])

    def words(self, tokens: Sequence[int]) -> list[str]:
        return [self.names[token] for token in tokens]

    def save(self) -> str:
        return json.dumps(self.names, ensure_ascii=False)


@dataclass(frozen=True)
class Pieces:
    """Byte-pair encoding: any word is a sequence of pieces, which spell it and no other."""

    tokenizer: Any

    @property
    def starts(self) -> Tensor:
        names = [self.tokenizer.id_to_token(i) for i in range(self.tokenizer.get_vocab_size())]
        return torch.tensor([name in (END, UNKNOWN) or name.startswith(SPACE) for name in names])

    def encode(self, words: Sequence[str]) -> Tensor:
        types = sorted(set(words))
        known = {word: found.ids for word, found in zip(types, self.tokenizer.encode_batch(types), strict=True)}
        return torch.tensor([token for word in words for token in known[word]])

    def words(self, tokens: Sequence[int]) -> list[str]:
        starts, groups = self.starts, []
        for token in tokens:
            if starts[token] or not groups:
                groups.append([])
            groups[-1].append(token)
        return [self.tokenizer.decode(group, skip_special_tokens=False).strip() for group in groups]

    def save(self) -> str:
        return self.tokenizer.to_str()


def of_words(*texts: Sequence[str]) -> Words:
    """The words of texts, the most frequent first, ties in alphabetical order."""
    counts = Counter(word for text in texts for word in text)
    return Words(sorted(counts, key=lambda word: (-counts[word], word)))


def of_pieces(text: Sequence[str], size: int) -> Pieces:
    """Byte-pair encoding of a text, with so many pieces at most."""
    tokenizers = require("tokenizers", "what learns pieces of words", "Install it with pip, or pass --pieces 0")
    models, pre_tokenizers = tokenizers.models, tokenizers.pre_tokenizers
    tokenizer = tokenizers.Tokenizer(models.BPE())
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), bytes_])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END, UNKNOWN], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    lines = (" ".join(text[at : at + 1000]) for at in range(0, len(text), 1000))
    tokenizer.train_from_iterator(lines, trainer)
    return Pieces(tokenizer)


def learned(parts: Sequence[Sequence[str]], size: int) -> Vocabulary:
    """Pieces of the first part, or the words of all parts if size is 0."""
    return of_pieces(parts[0], size) if size else of_words(*parts)
