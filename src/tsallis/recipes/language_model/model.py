"""A causal Transformer, and the output layers it can have."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

import tsallis as ts

from .._shared.training import log_means
from .config import Config

# Tokens whose support stands for that of a step, where the output layer does not say it.
SAMPLE = 64
# Added to every probability before its logarithm is taken (Martins, Marinho and Martins, 2020).
EPSILON = 1e-6


class Head(Protocol):
    """An output layer: its loss in training, and its distribution."""

    def loss(self, hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        """Mean over targets."""
        ...

    def probabilities(self, scores: Tensor) -> Tensor:
        """Of all words."""
        ...


@dataclass(frozen=True)
class Softmax:
    """Cross-entropy of a linear layer."""

    def loss(self, hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(hidden, weight), target)

    def probabilities(self, scores: Tensor) -> Tensor:
        return ts.softmax(scores)


@dataclass(frozen=True)
class Entmax:
    """The sparse output layer."""

    alpha: float

    def loss(self, hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        return ts.linear_entmax_loss(hidden, weight, target, alpha=self.alpha)

    def probabilities(self, scores: Tensor) -> Tensor:
        return ts.entmax(scores, self.alpha)


HEADS = {"softmax": lambda config: Softmax(), "entmax": lambda config: Entmax(config.alpha)}


class Transformer(nn.Module):
    """Hidden states of windows of words; the embedding is the output layer's weight too."""

    def __init__(self, config: Config, words: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, config.width)
        self.places = nn.Embedding(config.context, config.width)
        for table in (self.words, self.places):
            nn.init.normal_(table.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, config.feedforward, config.dropout, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, config.layers, nn.LayerNorm(config.width), enable_nested_tensor=False
        )
        self.register_buffer("past", nn.Transformer.generate_square_subsequent_mask(config.context), persistent=False)

    def forward(self, windows: Tensor) -> Tensor:
        """(B, context) to (B, context, width)."""
        x = self.words(windows) + self.places.weight
        return self.layers(x, mask=self.past, is_causal=True)


class Training(LightningModule):
    """The Transformer with an output layer."""

    def __init__(self, config: Config, words: int) -> None:
        super().__init__()
        self.config = config
        self.model = Transformer(config, words)
        self.head: Head = HEADS[config.head](config)
        self.seconds: list[float] = []
        self._began = 0.0

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.config.lr)
        rise = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / (self.config.warmup + 1))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rise, "interval": "step"}}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Any]:
        windows, target = batch
        hidden = self.model(windows).flatten(0, 1)
        loss = self.head.loss(hidden, self.model.words.weight, target.flatten())
        with torch.no_grad():
            few = hidden[:: max(1, len(hidden) // SAMPLE)]
            support = (self.head.probabilities(F.linear(few, self.model.words.weight)) > 0).sum(1).double().mean()
        return {"loss": loss, "metrics": {"loss": loss, "support": support}, "examples": len(windows)}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seconds.append(time.perf_counter() - self._began)

    def _evaluate(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        windows, target = batch
        scores = F.linear(self.model(windows), self.model.words.weight)
        p = self.head.probabilities(scores)
        right = p.gather(-1, target.unsqueeze(-1)).squeeze(-1)
        log_means(
            self, stage,
            # The mean of its logarithm: perplexity with EPSILON added everywhere, finite also for words ruled out.
            surprise=ts.decoding.metrics.surprise(right, p.shape[-1], EPSILON).mean(1),
            accuracy=(p.argmax(-1) == target).float().mean(1),
            covered=(right > 0).float().mean(1),
            support=(p > 0).sum(-1).float().mean(1),
        )  # fmt: skip

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate("test", batch)
