"""Hyper-parameters of the dependency parser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .._shared.config import RunConfig


@dataclass(frozen=True)
class Config(RunConfig):
    """Hyper-parameters of the dependency parser.

    Attributes:
        dataset: made (sentences of a small grammar with attachments that a reader cannot know, needs no download) or
            ud-english-ewt.
        sentences: of each part that are used, the first ones; null for all.
        loss: sparsemap (of whole trees) or softmax (cross-entropy of each word's head). Both are decoded as trees.
        tol: gap at which the solver of sparsemap is done with a sentence in training; 1e-9 in evaluation.
        max_iter: best trees that it asks for in a sentence, at most, in training.
        scale: of scores before sparsemap: below 1 a tree has to be ahead by more for the loss to be 0, and more trees
            have probability.
        word_width: of the vectors of words that occur twice or more in the training part, case ignored.
        letter_width: of the vectors of letters.
        letter_filters: of the convolution over a word's letters, which also reads words that have no vector.
        hidden: of each direction of the LSTM.
        layers: of it.
        arc_width: of what the biaffine scorer compares.
        dropout: of inputs, between layers, and of what is compared.
        word_dropout: a word that occurs c times loses its vector with probability word_dropout / (word_dropout + c).
        batch_words: in each step, padding included; sentences of a batch are about as long as each other.
        eval_batch: sentences at once in evaluation.
        epochs: of the training.
        lr: largest learning rate of Adam; it falls to 0 on a line.
    """

    dataset: Literal["made", "ud-english-ewt"] = "made"
    sentences: int | None = None
    loss: Literal["sparsemap", "softmax"] = "sparsemap"
    tol: float = 1e-4
    max_iter: int = 200
    scale: float = 1.0
    word_width: int = 100
    letter_width: int = 32
    letter_filters: int = 64
    hidden: int = 200
    layers: int = 2
    arc_width: int = 200
    dropout: float = 0.33
    word_dropout: float = 0.5
    batch_words: int = 800
    eval_batch: int = 64
    epochs: int = 10
    lr: float = 2e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "max_iter", "word_width", "letter_width", "letter_filters", "hidden", "layers", "arc_width", "batch_words",
            "eval_batch", "epochs",
        ):  # fmt: skip
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("scale", self.scale > 0, "above 0")
        for name in ("tol", "word_dropout"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        known = self.sentences is None or self.sentences >= 1
        self._require("sentences", known, "at least 1, or null")
        self._require("dropout", 0 <= self.dropout < 1, "a number in [0, 1)")
        self._require("lr", self.lr > 0, "more than 0")
