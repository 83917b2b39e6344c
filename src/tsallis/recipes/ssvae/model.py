"""The model: q(y|x), q(h|x,y), p(x|h,y), and its two trainings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

import tsallis as ts

from .._shared.estimators import Choice, Named, distribution
from .._shared.training import log_means
from .config import Config
from .data import CLASSES

SAMPLES = 16  # of h for each class, in the bound on the likelihood


class SemiSupervisedVAE(nn.Module):
    """Class scores, and the negative ELBO of images with given classes."""

    def __init__(self, config: Config, pixels: int) -> None:
        super().__init__()
        self.latent, self.pixels = config.latent, pixels
        self.classifier = _mlp(pixels, config.classifier, CLASSES)
        self.encoder = _mlp(pixels + CLASSES, config.encoder, 2 * config.latent)
        self.decoder = _mlp(config.latent + CLASSES, config.decoder, pixels)

    def seen(self, x: Tensor) -> Tensor:
        """The images' part of the encoder's first layer, once for all classes: most of the encoder's work."""
        first = cast(nn.Linear, self.encoder[0])
        return F.linear(x, first.weight[:, :-CLASSES], first.bias)

    def encode(self, seen: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of q(h|x,y), each (rows, latent), from `seen` of each row's image."""
        of_class = cast(nn.Linear, self.encoder[0]).weight[:, -CLASSES:]
        mean, log_std = self.encoder[1:](seen + F.linear(_one_hot(y, seen), of_class)).chunk(2, -1)
        return mean, log_std

    def decode(self, h: Tensor, y: Tensor) -> Tensor:
        """Logits of the pixels, (rows, pixels)."""
        return self.decoder(torch.cat([h, _one_hot(y, h)], -1))

    def losses(self, x: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss of (index, y), rows of images and classes: -log p(x|h,y) + KL(q(h|x,y), N(0,1)) for one h drawn from
        q, (rows,), in nats.
        """
        seen = self.seen(x)

        def loss(index: Tensor, y: Tensor) -> Tensor:
            mean, log_std = self.encode(seen[index], y)
            h = mean + log_std.exp() * torch.randn_like(mean)
            pixels = F.binary_cross_entropy_with_logits(self.decode(h, y), x[index], reduction="none").sum(-1)
            return pixels + 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum(-1)

        return loss

    def log_likelihood(self, x: Tensor, samples: int) -> Tensor:
        """A lower bound on log p(x), (B,), in nats: all classes summed, h drawn so often from q(h|x,y) for each. How
        classes are inferred does not enter; many samples make it tight.
        """
        index, y = torch.arange(len(x)).repeat_interleave(CLASSES), torch.arange(CLASSES).repeat(len(x))
        index, y = index.to(x.device), y.to(x.device)
        mean, log_std = self.encode(self.seen(x)[index], y)
        weights: list[Tensor] = []
        for _ in range(samples):
            noise = torch.randn_like(mean)
            h = mean + log_std.exp() * noise
            pixels = F.binary_cross_entropy_with_logits(self.decode(h, y), x[index], reduction="none").sum(-1)
            weights.append((noise.square() / 2 + log_std - h.square() / 2).sum(-1) - pixels)
        total = torch.stack(weights, -1).reshape(len(x), -1).logsumexp(-1)
        return total - torch.tensor(float(CLASSES * samples)).log()


def _one_hot(y: Tensor, like: Tensor) -> Tensor:
    """Classes as unit vectors; relaxed ones are vectors already."""
    return y if y.is_floating_point() else F.one_hot(y, CLASSES).to(like.dtype)


class _Task(LightningModule):
    """Both trainings: the model, its optimiser and its evaluation."""

    def __init__(self, model: SemiSupervisedVAE, config: Config, lr: float) -> None:
        super().__init__()
        self.model, self.config, self.lr = model, config, lr
        choice = Choice("categories", model.pixels, config.gumbel_rate, k=config.summed)
        self.estimator = Named(config.estimator, choice)
        self.mapping = distribution(config.estimator, "categories")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=self.config.weight_decay, fused=True)

    def supervised(self, x: Tensor, y: Tensor, scores: Tensor) -> Tensor:
        """Loss of labelled images, batch mean: the ELBO with the true class, and the classifier's own loss."""
        own = ts.fenchel_young_loss(self.mapping, scores, y)
        return self.model.losses(x)(torch.arange(len(y), device=y.device), y).mean() + own

    def expected(self, x: Tensor, scores: Tensor, diagnostics: int = 0) -> ts.latent.Expectation:
        """The expected loss of images whose class is summed out, or drawn."""
        return self.estimator(
            scores,
            self.model.losses(x),
            x=x,
            entropy_weight=1.0,
            max_rows=self.config.max_rows,
            diagnostics=diagnostics,
        )


class WarmStart(_Task):
    """Labelled images alone."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Any]:
        x, y = torch.bernoulli(batch[0]), batch[1]
        loss = self.supervised(x, y, self.model.classifier(x))
        return {"loss": loss, "metrics": {"loss": loss}, "examples": len(y)}

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        scores = self.model.classifier(x)
        loss = self.supervised(x, y, scores).expand(len(y))
        log_means(self, "val", loss=loss, accuracy=scores.argmax(-1) == y)


class Training(_Task):
    """Labelled and unlabelled images; `ratio` unlabelled ones stand behind each labelled one."""

    def __init__(self, model: SemiSupervisedVAE, config: Config, ratio: float) -> None:
        super().__init__(model, config, config.lr)
        self.ratio = ratio

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> dict[str, Any]:
        n = len(batch[0])
        both = torch.bernoulli(torch.cat(batch[:2]))
        scores = self.model.classifier(both)
        e = self.expected(both[:n], scores[:n])
        loss = self.supervised(both[n:], batch[2], scores[n:]) + self.ratio * e.objective
        return {"loss": loss, "metrics": {"loss": loss, "rows": e.rows / n}, "examples": n}

    def _evaluate(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        x, y = batch
        scores = self.model.classifier(x)
        e = self.expected(x, scores)
        # The prior is uniform: E[log p(y)] = -log 10.
        elbo = e.entropy - e.loss - torch.tensor(float(CLASSES)).log()
        correct = scores.argmax(-1) == y
        bound = {"bound": self.model.log_likelihood(x, SAMPLES)} if stage == "test" else {}
        log_means(self, stage, loss=e.loss, accuracy=correct, elbo=elbo, support=e.support_size, **bound)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate("test", batch)


def _mlp(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))
