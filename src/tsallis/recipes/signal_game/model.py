"""The two agents, and how they learn together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from ...latent import Expectation, GumbelSoftmax
from .._shared.estimators import Choice, Named
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


# Of scores of images (..., images) and the target's position (...); (...).
Measure = Callable[[Tensor, Tensor], Tensor]


def nll(scores: Tensor, label: Tensor) -> Tensor:
    """-log-probability of the target."""
    return F.cross_entropy(scores.flatten(0, -2), label.flatten(), reduction="none").view(label.shape)


def right(scores: Tensor, label: Tensor) -> Tensor:
    """1 where the most probable image is the target, else 0."""
    return (scores.argmax(-1) == label).to(scores.dtype)


def _hit(guess: Tensor, label: Tensor) -> Tensor:
    """Share of a guess, an image (R,) or a mixture of them (R, images), that is the target."""
    if guess.is_floating_point():
        return guess.gather(-1, label[:, None])[:, 0]
    return (guess == label).float()


class Training(LightningModule):
    """Sender and receiver learn together."""

    def __init__(self, config: Config, features: int) -> None:
        super().__init__()
        self.config = config
        self.sender, self.receiver = Sender(config, features), Receiver(config, features)
        # A learned baseline sees what the agent sees: the image, or the scores of all images.
        self.estimator = self._named(features)
        if config.reward == "accuracy":
            self.guesses = self._named(config.images)

    def _named(self, inputs: int) -> Named:
        choice = Choice("categories", inputs, self.config.gumbel_rate, self.config.summed)
        return Named(self.config.estimator, choice)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(
            self.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay, fused=True
        )
        warmup = max(self.config.warmup, 1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def scores(self, batch: Batch) -> Tensor:
        """The sender's, (B, symbols): it sees the target alone."""
        return self.sender(_target(batch))

    def expected(
        self, batch: Batch, scores: Tensor, measure: Measure, entropy_weight: float = 0.0, diagnostics: int = 0
    ) -> Expectation:
        """The expectation of a measure over symbols."""
        x, label = batch
        options: dict[str, Any] = {"entropy_weight": entropy_weight, "diagnostics": diagnostics}
        if self.config.table:
            loss_fn = None
            options["table_fn"] = lambda: measure(self.receiver.table(x), label[:, None].expand(scores.shape))
        else:
            loss_fn = lambda index, z: measure(self.receiver(x, index, z), label[index])  # noqa: E731
        return self.estimator(scores, loss_fn, x=_target(batch), **options)

    def loss(self, entropy_weight: float = 0.0) -> Measure:
        """What a game costs: -log-probability, or -accuracy of a guess that is an expectation too; minus the weight
        times the entropy of guesses.
        """

        def inaccuracy(scores: Tensor, label: Tensor) -> Tensor:
            return self.guesses(
                scores, lambda index, guess: -_hit(guess, label[index]),
                x=scores.detach(), entropy_weight=entropy_weight,
            ).surrogate  # fmt: skip

        return {"nll": nll, "accuracy": inaccuracy}[self.config.reward]

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        n, weight = len(batch[1]), self.config.entropy_weight
        e = self.expected(batch, self.scores(batch), self.loss(weight), weight)
        metrics = {"loss": e.loss.mean(), "rows": e.rows / n, "calls": e.calls}
        return {"loss": e.objective, "metrics": metrics, "examples": n}

    def _decided(self, batch: Batch, scores: Tensor) -> Tensor:
        """1 where the most probable image for the most probable symbol is the target."""
        x, label = batch
        return right(self.receiver(x, torch.arange(len(x), device=x.device), scores.argmax(-1)), label)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        scores = self.scores(batch)
        e = self.expected(batch, scores, self.loss())
        log_means(self, "val", loss=e.loss, success=self._decided(batch, scores), support=e.support_size)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        scores = self.scores(batch)
        e = self.expected(batch, scores, right)
        log_means(
            self, "test", success=self._decided(batch, scores), expected=e.loss, support=e.support_size,
            released=self._released(batch, scores, e.loss),
        )  # fmt: skip

    def _released(self, batch: Batch, scores: Tensor, expected: Tensor) -> Tensor:
        """Success as the released code measures it, each method in its own way."""
        if self.config.reward == "accuracy":
            return -self.expected(batch, scores, self.loss()).loss
        method = self.estimator.method
        if isinstance(method, GumbelSoftmax) and not method.straight_through:
            x, label = batch
            relaxed = F.gumbel_softmax(scores, tau=method.initial)
            return right(self.receiver(x, torch.arange(len(x), device=x.device), relaxed), label)
        return expected


def _target(batch: Batch) -> Tensor:
    x, label = batch
    return x[torch.arange(len(x), device=x.device), label]
