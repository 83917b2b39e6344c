"""Sentences and their translations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .._shared.datasets import DataError, Source, locate, read_lines, split_hash
from .._shared.pairs import Pairs
from .._shared.seeding import generator
from .config import Config
from .pieces import Pieces

LANGUAGES = ("en", "de")
PARTS = {"train": "train", "validation": "val", "2016": "test_2016_flickr", "2017": "test_2017_flickr"}
MULTI30K = Source(
    folder="multi30k",
    url="https://github.com/multi30k/dataset/tree/master/data/task1/raw",
    files={f"{part}.{language}.gz": None for part in PARTS.values() for language in LANGUAGES},
)


@dataclass(frozen=True)
class Text:
    """Sentences, and what a person made of each in the other language."""

    source: list[str]
    target: list[str]

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True)
class Corpus:
    """The parts, tests by name with the one first that the result is about; and the hash of all sentences."""

    train: Text
    validation: Text
    tests: dict[str, Text]
    hash: str


def load(config: Config) -> Corpus:
    """The data set of a configuration."""
    parts = _made() if config.dataset == "made" else _multi30k(config)
    joined = "\n".join(line for text in parts.values() for side in (text.source, text.target) for line in side)
    digest = split_hash([np.frombuffer(joined.encode(), np.uint8)])
    train, validation = parts.pop("train"), parts.pop("validation")
    return Corpus(train, validation, parts, digest)


def encoded(text: Text, pieces: Pieces, longest: int) -> Pairs:
    """Pairs of which neither side has more than so many pieces, to train on."""
    both = [(pieces.encode(s)[0], pieces.encode(t)[0]) for s, t in zip(text.source, text.target, strict=True)]
    kept = [pair for pair in both if max(map(len, pair)) <= longest]
    if not kept:
        raise DataError(f"no sentence of at most {longest} pieces", "some to train on", "Raise max_length")
    return Pairs([source for source, _ in kept], [target for _, target in kept])


def _multi30k(config: Config) -> dict[str, Text]:
    paths = locate(MULTI30K, config)
    found = {}
    for part, name in PARTS.items():
        sides = []
        for language in LANGUAGES:
            path = paths[f"{name}.{language}.gz"]
            lines = read_lines(path, "UTF-8 text, gzipped or not")
            if empty := [i for i, line in enumerate(lines or [""], 1) if not line.strip()]:
                raise DataError(f"{path}: line {empty[0]} is empty", "a sentence a line", "Get the file again")
            sides.append(lines)
        if len(sides[0]) != len(sides[1]):
            raise DataError(
                f"{name}: {len(sides[0])} sentences in English, {len(sides[1])} in German", "as many of both",
                "Get both files again",
            )  # fmt: skip
        found[part] = Text(*sides)
    return found


# Sentences of the parts of the made pair.
SIZES = {"train": 400, "validation": 40, "made": 40}
ADJECTIVES = {"big": "gron", "small": "klin", "old": "alto", "red": "rosk"}
NOUNS = {"dog": "hunt", "cat": "mira", "bird": "fogel", "house": "domo", "tree": "arbul", "ball": "tolpa"}
VERBS = {"sees": "siht", "likes": "amet", "pulls": "trekt", "paints": "malet"}


def _made() -> dict[str, Text]:
    """A small dog sees the house. = klinhunt der domo siht. Adjectives are joined to their nouns, the verb comes last,
    and questions, which begin with does, with a particle.
    """
    draws = generator("translation", 0)

    def draw(words: dict[str, str]) -> tuple[str, str]:
        return list(words.items())[int(torch.randint(len(words), (), generator=draws))]

    def chance() -> bool:
        return bool(torch.rand((), generator=draws) < 0.5)

    def phrase() -> tuple[str, str]:
        definite, (noun, its) = chance(), draw(NOUNS)
        adjective, joined = draw(ADJECTIVES) if chance() else ("", "")
        words = ["the" if definite else "a", adjective, noun]
        return " ".join(filter(None, words)), ("der " if definite else "") + joined + its

    def sentence() -> tuple[str, str]:
        (subject, wer), (verb, tut), (thing, wen) = phrase(), draw(VERBS), phrase()
        if chance():
            return f"{subject} {verb} {thing}.", f"{wer} {wen} {tut}."
        return f"does {subject} {verb[:-1]} {thing}?", f"ob {wer} {wen} {tut}?"

    found = {}
    for part, size in SIZES.items():
        pairs = [sentence() for _ in range(size)]
        found[part] = Text([source for source, _ in pairs], [target for _, target in pairs])
    return found
