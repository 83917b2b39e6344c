"""Hyper-parameters of the semi-supervised VAE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .._shared.config import RunConfig
from .._shared.estimators import names


@dataclass(frozen=True)
class Config(RunConfig):
    """Hyper-parameters of the semi-supervised VAE.

    Attributes:
        dataset: digits (8x8, in scikit-learn) or mnist (28x28).
        labelled: share of the training images whose class is known.
        estimator: of the expectation over classes: a mapping from class scores to the distribution that is summed over,
            softmax being dense, or one that samples: sfe, sfe+, rloo, nvil, gumbel, st-gumbel, sum-and-sample.
        gumbel_rate: at which the temperature of gumbel and st-gumbel falls, a step.
        summed: how many classes sum-and-sample sums exactly.
        classifier: widths of the hidden layers of q(y|x).
        encoder: of q(h|x,y).
        decoder: of p(x|h,y).
        latent: dimension of h.
        batch_size: labelled and unlabelled images in each step.
        warm_epochs: epochs on labelled images alone, before the main training; each as long as one of that.
        warm_lr: learning rate of Adam in them.
        warm_seed: seed of the initial weights and of those epochs; the same for all seeds.
        epochs: epochs of the main training.
        lr: its learning rate.
        weight_decay: of Adam, in both.
        max_rows: at most so many decoder rows at once, to save memory; null for all.
    """

    dataset: Literal["digits", "mnist"] = "digits"
    labelled: float = 0.1
    estimator: str = "sparsemax"
    gumbel_rate: float = 1e-4
    summed: int = 1
    classifier: tuple[int, ...] = (256, 256, 256)
    encoder: tuple[int, ...] = (128, 128)
    decoder: tuple[int, ...] = (128, 128)
    latent: int = 8
    batch_size: int = 64
    warm_epochs: int = 100
    warm_lr: float = 1e-3
    warm_seed: int = 42
    epochs: int = 200
    lr: float = 1e-3
    weight_decay: float = 1e-5
    max_rows: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        known = [name for name in names("categories") if name != "sparsemixer"]  # whose expectation is another one
        self._require("estimator", self.estimator in known, f"one of: {', '.join(known)}")
        self._require("labelled", 0 < self.labelled < 1, "a number between 0 and 1")
        for name in ("latent", "batch_size", "epochs", "summed"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("warm_epochs", "warm_seed", "weight_decay", "gumbel_rate"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("lr", "warm_lr"):
            self._require(name, getattr(self, name) > 0, "more than 0")
        for name in ("classifier", "encoder", "decoder"):
            self._require(name, all(width >= 1 for width in getattr(self, name)), "widths of at least 1")
        self._require("max_rows", self.max_rows is None or self.max_rows >= 1, "at least 1, or null")
