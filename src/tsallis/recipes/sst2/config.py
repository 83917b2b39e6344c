"""Hyper-parameters of the sentence classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .._shared.config import RunConfig


@dataclass(frozen=True)
class Config(RunConfig):
    """Hyper-parameters of the sentence classifier.

    Attributes:
        dataset: made (sentences made of a few words, needs no download) or sst-2.
        model: a folder or a hub name, of any model for sequence classification whose attention goes through
            transformers' interface; or "new" for a small BERT with random weights and the words of the training set.
        attention: softmax; learn (one alpha per head, learned); or fixed (entmax with the alpha given).
        alpha: where learned alphas start, or the fixed one.
        epochs: of the training.
        batch_size: sentences in each step.
        lr: largest learning rate of AdamW for weights; it rises, then falls to 0.
        alpha_lr: of what alphas are computed from, likewise.
        warmup: share of the steps in which learning rates rise.
        weight_decay: of weights; alphas have none.
        max_length: tokens of a sentence that are read.
        questions: sentences for interrogation heads, those that end in "?" against those that end in ".":
            ud-english-ewt, or own for the development sentences.
        log_every: steps between two looks at alphas.
    """

    dataset: Literal["made", "sst-2"] = "made"
    model: str = "new"
    attention: Literal["softmax", "learn", "fixed"] = "learn"
    alpha: float = 1.5
    epochs: int = 3
    batch_size: int = 32
    lr: float = 5e-5
    alpha_lr: float = 1e-2
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_length: int = 128
    questions: Literal["own", "ud-english-ewt"] = "own"
    log_every: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "batch_size", "log_every"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("max_length", self.max_length >= 3, "at least 3")
        self._require("model", bool(self.model), "a folder, a hub name, or new")
        inside = 1 < self.alpha < 2 if self.attention == "learn" else self.alpha >= 0
        self._require("alpha", inside, "a number inside (1, 2) to be learned, 0 or more to stay")
        for name in ("lr", "alpha_lr"):
            self._require(name, getattr(self, name) > 0, "more than 0")
        self._require("warmup", 0 <= self.warmup < 1, "a number in [0, 1)")
        self._require("weight_decay", self.weight_decay >= 0, "0 or more")
