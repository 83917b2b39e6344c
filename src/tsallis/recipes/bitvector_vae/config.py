"""Hyper-parameters of the bit-vector VAE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .._shared import estimators
from .._shared.config import RunConfig


@dataclass(frozen=True)
class Config(RunConfig):
    """Hyper-parameters of the bit-vector VAE.

    Attributes:
        dataset: digits (8x8, 17 levels, in scikit-learn) or fashion-mnist (28x28, 256 levels).
        train_images: the first so many; null for all.
        validation_images: likewise.
        test_images: likewise.
        estimator: of the expectation over bit vectors, by name.
        bits: D, of the latent variable.
        hidden: width of the hidden layer of both networks.
        features: of each pixel, from which its level is predicted.
        batch_size: images in a step.
        epochs: how many.
        max_minutes: training stops after so much time, at the end of a step; null for no limit.
        lr: learning rate of Adam.
        gumbel_rate: r, the temperature is max(0.5, exp(-r step)), of estimators that have one.
        k: how many vectors topk-sparsemax looks at.
        init: where SparseMAP starts: map, or random as published.
        max_rows: at most so many decoder rows at once in training, to save memory; null for all.
        samples: drawn for an image by the bound on log p(x).
        sparse_share: of the samples that are drawn from a sparse distribution; the others are from its marginals.
        clip: bits of the other samples are on with a probability of at least that, and off too.
        eval_rows: decoder rows at once in evaluation.
        variance_images: validation images whose gradients are drawn repeatedly; 0 for none.
        variance_draws: how often.
    """

    dataset: Literal["digits", "fashion-mnist"] = "fashion-mnist"
    train_images: int | None = None
    validation_images: int | None = None
    test_images: int | None = None
    estimator: str = "sparsemap"
    bits: int = 32
    hidden: int = 128
    features: int = 5
    batch_size: int = 64
    epochs: int = 100
    max_minutes: float | None = None
    lr: float = 1e-3
    gumbel_rate: float = 1e-5
    k: int = 10
    init: Literal["map", "random"] = "map"
    max_rows: int | None = None
    samples: int = 1024
    sparse_share: float = 0.5
    clip: float = 0.1
    eval_rows: int = 1024
    variance_images: int = 64
    variance_draws: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        known = estimators.names("bits")
        self._require("estimator", self.estimator in known, f"one of: {', '.join(known)}")
        for name in (
            *("train_images", "validation_images", "test_images", "bits", "hidden", "features", "batch_size"),
            *("epochs", "k", "max_rows", "samples", "eval_rows"),
        ):
            value = getattr(self, name)
            self._require(name, value is None or value >= 1, "at least 1")
        for name in ("gumbel_rate", "variance_images"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("variance_draws", self.variance_draws >= 2, "at least 2")
        self._require("lr", self.lr > 0, "more than 0")
        self._require("max_minutes", self.max_minutes is None or self.max_minutes > 0, "more than 0, or null")
        self._require("sparse_share", 0 <= self.sparse_share <= 1, "a number from 0 to 1")
        self._require("clip", 0 < self.clip < 0.5, "a number between 0 and 0.5")
