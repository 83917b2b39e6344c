"""Pieces of words that two languages share, learned by byte-pair encoding; rare characters are spelled in bytes."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .._shared.files import RunError, read_json, write_json
from .._shared.packages import require

END = "<end>"
# Number 0 ends a sentence, 1 to 256 are bytes; then come characters and what is merged of them.
FIRST = 257
# Begins a word, in the place of the space before it.
WORD = "\N{LOWER ONE EIGHTH BLOCK}"
# Characters that are seen less often are no pieces: those of them that training sees teach what bytes mean.
RARE = 10


def normalised(line: str) -> str:
    """Composed characters, one space between words; the sign that begins words is an underscore."""
    return " ".join(unicodedata.normalize("NFC", line).replace(WORD, "_").split())


class Pieces:
    """A vocabulary of pieces. Nothing is unknown: a character without a piece is the bytes of its UTF-8.

    Args:
        characters: that are pieces, the sign of words among them.
        merges: pairs of pieces that are one piece, in the order in which they are merged.
    """

    def __init__(self, characters: Sequence[str], merges: Sequence[tuple[str, str]]) -> None:
        self.characters, self.merges = tuple(characters), tuple(merges)
        learned = dict.fromkeys([*self.characters, *(left + right for left, right in self.merges)])
        self.names = (END, *(f"<0x{byte:02X}>" for byte in range(256)), *learned)
        models = _package().models
        model = models.BPE({name: i for i, name in enumerate(self.names)}, list(self.merges), byte_fallback=True)
        self._tokenizer = _tokenizer(model)

    @classmethod
    def learn(cls, lines: Iterable[str], size: int) -> Pieces:
        """At most so many pieces, from the sentences of both languages."""
        texts = [normalised(line) for line in lines]
        counts = Counter(character for text in texts for character in text)
        common = {character for character, count in counts.items() if count >= RARE and character != " "}
        # What is no piece parts words here.
        texts = ["".join(c if c in common else " " for c in text) for text in texts]
        characters = sorted({WORD} | common)
        tokenizers = _package()
        tokenizer = _tokenizer(tokenizers.models.BPE())
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=max(size - FIRST, len(characters)), min_frequency=2, show_progress=False,
            initial_alphabet=characters,
        )  # fmt: skip
        tokenizer.train_from_iterator(texts, trainer)
        merges = _learned(tokenizer)
        return cls(characters, merges)

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, line: str) -> tuple[list[int], list[int]]:
        """Numbers of a sentence's pieces, that of the end last; and of each the number of its word, -1 for the end."""
        found = self._tokenizer.encode(normalised(line))
        return [*found.ids, 0], [*found.word_ids, -1]

    def decode(self, numbers: Iterable[int]) -> str:
        """The sentence; bytes that are no character become the replacement character."""
        spelled = bytearray()
        for number in numbers:
            if number >= FIRST:
                spelled += self.names[number].encode()
            elif number:
                spelled.append(number - 1)
        return " ".join(spelled.decode(errors="replace").replace(WORD, " ").split())

    def save(self, path: Path) -> None:
        """Write them as JSON."""
        write_json(path, {"characters": list(self.characters), "merges": [list(pair) for pair in self.merges]})

    @classmethod
    def read(cls, path: Path) -> Pieces:
        """Read what was saved."""
        content = read_json(path)
        try:
            merges = [(left, right) for left, right in content["merges"]]
            names = [*content["characters"], *(part for pair in merges for part in pair)]
            if not all(isinstance(name, str) and name for name in names):
                raise ValueError("a piece that is no text")
            return cls(content["characters"], merges)
        # The package raises bare exceptions for merges of what is no piece.
        except Exception as error:
            raise RunError(f"{path}: {error!r}", "pieces written by tsallis run", "Run again") from error


def _learned(tokenizer: Any) -> list[tuple[str, str]]:
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def _tokenizer(model: Any) -> Any:
    tokenizers = _package()
    made, parts = tokenizers.Tokenizer(model), tokenizers.pre_tokenizers
    made.pre_tokenizer = parts.Sequence(
        [parts.Metaspace(replacement=WORD, prepend_scheme="always", split=True), parts.Punctuation()]
    )
    return made


def _package() -> Any:
    return require("tokenizers", "what cuts words into pieces")
