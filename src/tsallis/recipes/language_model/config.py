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
        pieces: size of the vocabulary of wikitext-2 if it is to be of pieces of words, learned from the training part
            (byte-pair encoding); 0 for whole words.
        alpha: of the output layer: 1 for softmax and cross-entropy, above 1 for entmax and its loss; learned (by the
            sparsemax score of training tokens) or learned-by-loss.
        alpha_start: of alphas that are learned, which stay between 1 and 2.
        alpha_lr: learning rate of what they are computed from.
        width: of hidden states and embeddings, which the output layer shares.
        layers: of the Transformer.
        heads: of attention in each.
        feedforward: width of the layer inside each.
        dropout: in the Transformer.
        context: tokens in a window.
        batch_size: windows in each step.
        steps: steps in an epoch, after which the model is validated; a pass over the text takes several.
        epochs: of the training.
        validation: windows, spread over the text, to validate on after each epoch, and to choose k and p of sampling
            methods by.
        measured: windows, spread over validation and test text, that sampling methods are measured on; perplexity of
            heads has all.
        prompts: from test text, each continued by every method.
        prompt: tokens of each; the rest of the window is continued.
        lr: largest learning rate of AdamW; it rises, then falls to 0.
        warmup: steps over which it rises to that.
        weight_decay: of weights.
    """

    dataset: Literal["chain", "wikitext-2"] = "chain"
    words: int = 4000
    pieces: int = 0
    alpha: float | Literal["learned", "learned-by-loss"] = 1.5
    alpha_start: float = 1.5
    alpha_lr: float = 1e-2
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
    measured: int = 512
    prompts: int = 64
    prompt: int = 16
    lr: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            *("width", "layers", "heads", "feedforward", "context", "batch_size", "steps", "epochs"),
            *("validation", "measured", "prompts", "prompt"),
        ):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("words", self.words >= 10, "at least 10")
        self._require("pieces", self.pieces == 0 or self.pieces >= 300, "at least 300, or 0 for whole words")
        self._require("alpha", isinstance(self.alpha, str) or 1 <= self.alpha < 100, "1 or more")
        self._require("alpha_start", 1 < self.alpha_start < 2, "a number between 1 and 2")
        self._require("width", self.width % self.heads == 0, "a multiple of heads")
        self._require("dropout", 0 <= self.dropout < 1, "a number in [0, 1)")
        self._require("prompt", self.prompt < self.context, "less than context")
        for name in ("lr", "alpha_lr"):
            self._require(name, getattr(self, name) > 0, "more than 0")
        for name in ("warmup", "weight_decay"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
