"""Lemmas, what form of them is asked for, and that form, as sequences of characters and tags."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from .._shared.datasets import DataError, Source, locate, read_lines, split_hash
from .._shared.pairs import Pairs, Vocabulary
from .._shared.seeding import generator
from .config import Config

LANGUAGES = (
    "arabic", "english", "finnish", "french", "georgian", "german", "hindi", "hungarian", "latin", "navajo", "russian",
    "spanish", "turkish", "welsh", "zulu",
)  # fmt: skip
PARTS = ("train", "dev", "test")
# Stands for a space inside a word.
SPACE = "<space>"


@dataclass(frozen=True)
class Word:
    """A form of a lemma in a language; tags say which."""

    language: str
    lemma: str
    tags: tuple[str, ...]
    form: str

    @property
    def source(self) -> list[str]:
        """What the model reads: no language is a tag, and neither is a letter or the end of a word."""
        return [f"language {self.language}", *(f"tag {tag}" for tag in self.tags), *letters(self.lemma)]


def letters(word: str) -> list[str]:
    """Tokens of a word."""
    return [SPACE if letter == " " else letter for letter in word]


def tags_of(field: str) -> tuple[str, ...]:
    """The tags of a column; spaces around them are slips of the data."""
    return tuple(tag.strip() for tag in field.split(";"))


def word_of(tokens: Iterable[str]) -> str:
    """The word of tokens."""
    return "".join(" " if token == SPACE else token for token in tokens)


class Part:
    """Words of a part of the data, and their numbers."""

    def __init__(self, words: list[Word], source: Vocabulary, target: Vocabulary) -> None:
        self.words = words
        self.pairs = Pairs([source.encode(w.source) for w in words], [target.encode(letters(w.form)) for w in words])


@dataclass(frozen=True)
class Inflections:
    """The three parts, the vocabularies of both sides, and the hash of all words."""

    train: Part
    dev: Part
    test: Part
    source: Vocabulary
    target: Vocabulary
    hash: str


def load(config: Config) -> Inflections:
    """The data set of a configuration."""
    parts = _made(config) if config.dataset == "made" else _sigmorphon(config)
    source = Vocabulary.of(word.source for word in parts["train"])
    target = Vocabulary.of(letters(word.form) for word in parts["train"])
    text = "\n".join(f"{w.language} {w.lemma} {w.tags} {w.form}" for part in PARTS for w in parts[part])
    digest = split_hash([np.frombuffer(text.encode(), np.uint8)])
    train, dev, test = (Part(parts[part], source, target) for part in PARTS)
    return Inflections(train, dev, test, source, target, digest)


def _chosen(config: Config, known: tuple[str, ...]) -> tuple[str, ...]:
    languages = known if config.languages is None else tuple(dict.fromkeys(config.languages))
    if unknown := [language for language in languages if language not in known]:
        raise DataError(f"languages={', '.join(unknown)}", f"of: {', '.join(known)}", "Correct the spelling")
    return languages


def _sigmorphon(config: Config) -> dict[str, list[Word]]:
    languages = _chosen(config, LANGUAGES)
    files = {"train": f"train-{config.setting}", "dev": "dev", "test": "test"}
    source = Source(
        folder="sigmorphon2018",
        url="https://github.com/sigmorphon/conll2018/tree/master/task1/all",
        files={f"{language}-{name}.gz": None for language in languages for name in files.values()},
    )
    paths = locate(source, config)
    found: dict[str, list[Word]] = {part: [] for part in PARTS}
    for language in languages:
        for part, name in files.items():
            path = paths[f"{language}-{name}.gz"]
            lines = read_lines(path, "UTF-8 text, gzipped or not")
            words = [_parsed(line, language, f"{path}, line {i}") for i, line in enumerate(lines, 1) if line]
            found[part] += words[: config.words] if part == "train" else words
    return found


def _parsed(line: str, language: str, where: str) -> Word:
    fields = line.split("\t")
    if len(fields) != 3 or not all(fields):
        raise DataError(f"{where}: {len(fields)} fields", "lemma, form and tags, parted by tabs", "Get the file again")
    lemma, form, tags = fields
    return Word(language, lemma, tags_of(tags), form)


# Of the made languages: how many lemmas their parts have, and sounds of stems.
LEMMAS = {"train": 150, "dev": 20, "test": 20}
ONSETS, BACK, FRONT = "ptkmnsl", "aou", "äöy"


def _made(config: Config) -> dict[str, list[Word]]:
    """Stems of two or three syllables whose vowels are all back or all front. In harmonic suffixes follow the stem's
    vowels, in open the plural is one of two at random, so that no model can know which.
    """
    languages = _chosen(config, ("harmonic", "open"))
    draws = generator("inflection", 0)

    def draw(n: int) -> int:
        return int(torch.randint(n, (), generator=draws))

    found: dict[str, list[Word]] = {}
    stems: set[str] = set()
    for part in PARTS:
        words = []
        for _ in range(LEMMAS[part]):
            stem, front = "", 0
            while not stem or stem in stems:
                front = draw(2)
                vowels = FRONT if front else BACK
                stem = "".join(ONSETS[draw(7)] + vowels[draw(3)] for _ in range(2 + draw(2)))
            stems.add(stem)
            a, u = ("ä", "y") if front else ("a", "u")
            forms = {
                "harmonic": {("N", "PL"): stem + "t", ("N", "IN"): f"{stem}s{a}", ("N", "IN", "PL"): f"{stem}is{u}"},
                "open": {("N", "PL"): stem + ("n", "r")[draw(2)], ("N", "IN"): f"na {stem}"},
            }
            words += [Word(name, stem, tags, form) for name in languages for tags, form in forms[name].items()]
        found[part] = words[: config.words] if part == "train" else words
    return found
