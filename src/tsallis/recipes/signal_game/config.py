"""Hyper-parameters of the signalling game."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .._shared.config import RunConfig
from .._shared.estimators import names


@dataclass(frozen=True)
class Config(RunConfig):
    """Hyper-parameters of the signalling game.

    Attributes:
        dataset: made (clusters of points, needs no data), lite0 (features of 200 classes of images) or vgg (those of
            the published experiment).
        images: in each game, of as many concepts; the sender sees one of them.
        symbols: that the sender can choose from.
        estimator: of the expectation over symbols: a mapping from the sender's scores to the distribution that is
            summed over, softmax being dense, or one that samples: sfe, sfe+, rloo, nvil, gumbel, st-gumbel,
            sum-and-sample, sparsemixer.
        gumbel_rate: at which the temperature of gumbel and st-gumbel falls, a step.
        summed: how many symbols sum-and-sample sums exactly.
        reward: what the receiver is trained with: nll (its log-probability of the right image) or accuracy (its guess
            is an expectation too, of 0/1 losses, under the same estimator).
        table: of all symbols for all images at once, for softmax; else the receiver hears each symbol by itself.
        embedding: width of images and symbols in both agents.
        hidden: filters of the sender.
        temperature: the sender's scores are divided by it.
        entropy_weight: of the entropy of symbols, which is added to the objective (of guesses too, if they are drawn).
        lr: learning rate of Adam.
        warmup: steps in which it rises to lr.
        weight_decay: of Adam.
        batch_size: games in each step.
        steps: of the training.
        epoch_steps: an epoch, after which there is a validation, has so many steps.
        held_out: images of each concept, of those to train with, that only validation games show; 0 draws these games
            from the images to train with, as published.
        validation_games: in each validation; the same in all of them.
        test_games: at the end.
    """

    dataset: Literal["made", "lite0", "vgg"] = "made"
    images: int = 16
    symbols: int = 256
    estimator: str = "sparsemax"
    gumbel_rate: float = 1e-5
    summed: int = 1
    reward: Literal["nll", "accuracy"] = "nll"
    table: bool = False
    embedding: int = 256
    hidden: int = 512
    temperature: float = 10.0
    entropy_weight: float = 0.1
    lr: float = 1e-3
    warmup: int = 0
    weight_decay: float = 0.0
    batch_size: int = 64
    steps: int = 50_000
    epoch_steps: int = 100
    held_out: int = 0
    validation_games: int = 1024
    test_games: int = 9984

    def __post_init__(self) -> None:
        super().__post_init__()
        known = names("categories")
        self._require("estimator", self.estimator in known, f"one of: {', '.join(known)}")
        for name in ("images", "symbols"):
            self._require(name, getattr(self, name) >= 2, "at least 2")
        for name in (
            "embedding", "hidden", "summed", "batch_size", "steps", "epoch_steps", "validation_games", "test_games",
        ):  # fmt: skip
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("temperature", "lr"):
            self._require(name, getattr(self, name) > 0, "more than 0")
        for name in ("entropy_weight", "gumbel_rate", "warmup", "held_out", "weight_decay"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        whole = self.steps % self.epoch_steps == 0
        self._require("steps", whole, f"a multiple of epoch_steps={self.epoch_steps}")
        dense = self.estimator == "softmax" and self.reward == "nll"
        self._require("table", dense or not self.table, "false, but for estimator softmax with reward nll")
