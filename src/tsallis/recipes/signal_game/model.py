"""The two agents, the rows of their table of losses, and their training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

import tsallis as ts

from .._shared.training import log_means
from .config import Config
from .data import Batch
from .fast import mixture_of_sigmoids, row_products


class Sender(nn.Module):
    """Scores of symbols (B, symbols) for an image (B, d)."""

    def __init__(self, config: Config, features: int) -> None:
        super().__init__()
        self.image = nn.Linear(features, config.embedding, bias=False)
        # Two convolutions over a single channel, initialised as such: fans of 1 and of `hidden`.
        self.filters = nn.Parameter(torch.empty(config.hidden).uniform_(-1, 1))
        self.mixture = nn.Parameter(torch.empty(config.hidden).uniform_(-1, 1) / config.hidden**0.5)
        self.symbols = nn.Linear(config.embedding, config.symbols, bias=False)
        self.temperature = config.temperature

    def forward(self, x: Tensor) -> Tensor:
        mixed = mixture_of_sigmoids(self.image(x), self.filters, self.mixture)
        return self.symbols(mixed.sigmoid()) / self.temperature


class Receiver(nn.Module):
    """Scores of images for what was heard: scalar products of embeddings."""

    def __init__(self, config: Config, features: int) -> None:
        super().__init__()
        self.image = nn.Linear(features, config.embedding, bias=False)
        self.symbols = nn.Embedding(config.symbols, config.embedding)

    def forward(self, x: Tensor, index: Tensor, z: Tensor) -> Tensor:
        """(R, images): row r hears z[r], a symbol (R,) or a mixture of them (R, symbols), among the images x[index[r]],
        where x is (B, images, d) and index ascends.

        <W x, e_z> is summed as <x, W' e_z>: there are more images than different symbols in a batch.
        """
        if z.is_floating_point():
            heard, place = z @ self.symbols.weight, torch.arange(len(z), device=z.device)
        else:
            different, place = z.unique(return_inverse=True)
            heard = self.symbols(different)
        return row_products(x, heard @ self.image.weight, index, place)

    def table(self, x: Tensor) -> Tensor:
        """(B, symbols, images), for all symbols."""
        return (self.image(x) @ self.symbols.weight.T).transpose(1, 2)


# From scores of images (..., images) and the target's position (...) to what a game cost (...).
Measure = Callable[[Tensor, Tensor], Tensor]


def nll(scores: Tensor, label: Tensor) -> Tensor:
    """-log-probability of the target."""
    return -scores.log_softmax(-1).gather(-1, label[..., None])[..., 0]


def right(scores: Tensor, label: Tensor) -> Tensor:
    """1 where the most probable image is the target, else 0."""
    return (scores.argmax(-1) == label).to(scores.dtype)


class Training(LightningModule):
    """Sender and receiver learn together."""

    def __init__(self, config: Config, features: int) -> None:
        super().__init__()
        self.config = config
        self.sender, self.receiver = Sender(config, features), Receiver(config, features)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.config.lr, fused=True)

    def scores(self, batch: Batch) -> Tensor:
        """The sender's, (B, symbols): it sees the target alone."""
        x, label = batch
        return self.sender(x[torch.arange(len(x), device=x.device), label])

    def expected(
        self, batch: Batch, scores: Tensor, measure: Measure, entropy_weight: float = 0.0
    ) -> ts.latent.Expectation:
        """The expectation of a measure over symbols."""
        x, label = batch
        if self.config.table:
            return ts.latent.expectation(
                scores, None, self.config.estimator, entropy_weight=entropy_weight,
                table_fn=lambda: measure(self.receiver.table(x), label[:, None].expand(scores.shape)),
            )  # fmt: skip
        return ts.latent.expectation(
            scores,
            lambda index, z: measure(self.receiver(x, index, z), label[index]),
            self.config.estimator,
            entropy_weight=entropy_weight,
        )

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        n = len(batch[1])
        e = self.expected(batch, self.scores(batch), nll, self.config.entropy_weight)
        return {"loss": e.objective, "metrics": {"loss": e.loss.mean(), "rows": e.rows / n}, "examples": n}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, label = batch
        scores = self.scores(batch)
        e = self.expected(batch, scores, nll)
        best = self.receiver(x, torch.arange(len(x), device=x.device), scores.argmax(-1))
        log_means(self, "val", loss=e.loss, success=right(best, label), support=e.support_size)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        x, label = batch
        scores = self.scores(batch)
        e = self.expected(batch, scores, right)
        best = self.receiver(x, torch.arange(len(x), device=x.device), scores.argmax(-1))
        log_means(self, "test", success=right(best, label), expected=e.loss, support=e.support_size)
