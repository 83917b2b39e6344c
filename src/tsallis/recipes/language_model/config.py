"""Hyper-parameters of the language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .._shared.config import RunConfig


@dataclass(frozen=True)
class Config(RunConfig):
    """Hyper-parameters of the language model.

    Attributes:
        dataset: chain (words drawn from a random chain, needs no download) or wikitext-2.
        words: size of the vocabulary of chain.
        head: output layer and loss: softmax with cross-entropy, or entmax with its own.
        alpha: of entmax, above 1.
        width: of hidden states and embeddings, which the output layer shares.
        layers: of the Transformer.
        heads: of attention in each.
        feedforward: width of the layer inside each.
        dropout: in the Transformer.
        context: tokens in a window.
        batch_size: windows in each step.
        steps: steps in an epoch, after which the model is validated; epochs take one part of the text after the other.
        epochs: of the training.
        validation: windows to validate and test on; at most as many as there are.
        lr: learning rate of Adam.
        warmup: steps over which it rises to that.
    """

    dataset: Literal["chain", "wikitext-2"] = "chain"
    words: int = 4000
    head: Literal["softmax", "entmax"] = "entmax"
    alpha: float = 1.5
    width: int = 256
    layers: int = 2
    heads: int = 4
    feedforward: int = 1024
    dropout: float = 0.1
    context: int = 64
    batch_size: int = 16
    steps: int = 100
    epochs: int = 20
    validation: int = 256
    lr: float = 1e-3
    warmup: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "width",
            "layers",
            "heads",
            "feedforward",
            "context",
            "batch_size",
            "steps",
            "epochs",
            "validation",
        ):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("words", self.words >= 10, "at least 10")
        self._require("alpha", self.alpha > 1, "more than 1: at 1 it is softmax")
        self._require("width", self.width % self.heads == 0, "a multiple of heads")
        self._require("dropout", 0 <= self.dropout < 1, "a number in [0, 1)")
        self._require("lr", self.lr > 0, "more than 0")
        self._require("warmup", self.warmup >= 0, "0 or more")
