"""Sentences with labels, and questions beside statements."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .._shared.datasets import DataError, Source, locate, read_lines, split_hash
from .._shared.seeding import generator
from .config import Config

SST2 = Source(
    folder="sst2",
    url="https://github.com/clairett/pytorch-sentiment-classification (data/SST2)",
    files={"train.tsv": None, "dev.tsv": None, "test.tsv": None},
)
EWT = Source(
    folder="ud-english-ewt",
    url="https://github.com/UniversalDependencies/UD_English-EWT",
    files={"dev.conllu.gz": None},
)
# Sentences of the made parts, and their words.
MADE = (2000, 300, 300)
GOOD = ("lovely", "bright", "moving", "clever", "warm", "funny")
BAD = ("dull", "clumsy", "cold", "empty", "slow", "noisy")
PLAIN = ("the", "film", "story", "actor", "scene", "music", "is", "was", "this", "and", "with", "a", "of", "in")


@dataclass(frozen=True)
class Part:
    """Sentences and their labels: 1 for positive."""

    sentences: list[str]
    labels: torch.Tensor


@dataclass(frozen=True)
class Text:
    """The three parts, sentences that end in a mark, and the hash of all sentences with labels."""

    train: Part
    dev: Part
    test: Part
    marked: list[str]
    hash: str


def load(config: Config) -> Text:
    """The data set of a configuration."""
    if config.dataset == "made":
        train, dev, test = _made()
    else:
        train, dev, test = (_read(path) for path in locate(SST2, config).values())
    pool = dev.sentences if config.questions == "own" else _ewt(locate(EWT, config)["dev.conllu.gz"])
    marked = [s for s in pool if s.endswith(("?", "."))]
    text = "\n".join(
        f"{y} {s}" for p in (train, dev, test) for s, y in zip(p.sentences, p.labels.tolist(), strict=True)
    )
    return Text(train, dev, test, marked, split_hash([np.frombuffer(text.encode(), np.uint8)]))


def _read(path: Path) -> Part:
    expected = "lines of a label, a tab and a sentence"
    lines = read_lines(path, expected)
    try:
        pairs = [(int(label), sentence) for label, sentence in (line.split("\t") for line in lines)]
    except ValueError as error:
        raise DataError(f"{path}: {error}", expected, "Get it again") from error
    if not pairs or {label for label, _ in pairs} - {0, 1}:
        raise DataError(f"{path}: {len(pairs)} lines", "labels 0 and 1", "Get it again")
    return Part([sentence for _, sentence in pairs], torch.tensor([label for label, _ in pairs]))


def _ewt(path: Path) -> list[str]:
    """Sentences as they were written."""
    lines = read_lines(path, "CoNLL-U, gzipped or not")
    return [line.removeprefix("# text = ").strip() for line in lines if line.startswith("# text = ")]


def _made() -> list[Part]:
    """One word tells the label, and "not" before it turns it round."""
    draws = generator("made sentences")

    def pick(words: tuple[str, ...]) -> str:
        return words[int(torch.randint(len(words), (), generator=draws))]

    def coin() -> bool:
        return bool(torch.randint(2, (), generator=draws))

    parts = []
    for n in MADE:
        sentences, labels = [], []
        for _ in range(n):
            words = [pick(PLAIN) for _ in range(int(torch.randint(4, 14, (), generator=draws)))]
            good, turned = coin(), coin() and coin()
            words.insert(
                int(torch.randint(len(words), (), generator=draws)),
                ("not " if turned else "") + pick(GOOD if good else BAD),
            )
            sentences.append(" ".join([*words, "?" if coin() else "."]))
            labels.append(int(good != turned))
        parts.append(Part(sentences, torch.tensor(labels)))
    return parts
