"""The model: bits of an image, levels of the pixels given bits, and its training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

import tsallis as ts

from .._shared.estimators import Choice, Named
from .._shared.seeding import generator
from .._shared.training import log_means
from .config import Config
from .evaluation import Posterior, Sampling, examine
from .pixels import pixel_loss

# Supports above are counted as so large.
MOST = 4096


class BitVectorVAE(nn.Module):
    """Scores of the bits, and the loss of images given bits."""

    def __init__(self, config: Config, pixels: int, levels: int) -> None:
        super().__init__()
        self.levels, self.features = levels, config.features
        self.encoder = nn.Sequential(nn.Linear(pixels, config.hidden), nn.ReLU(), nn.Linear(config.hidden, config.bits))
        self.decoder = nn.Sequential(
            nn.Linear(config.bits, config.hidden), nn.ReLU(), nn.Linear(config.hidden, pixels * config.features)
        )
        self.pixel = nn.Linear(config.features, levels)

    def intensities(self, x: Tensor) -> Tensor:
        """Levels (B, pixels) as numbers from 0 to 1."""
        return x.to(self.pixel.weight.dtype) / (self.levels - 1)

    def decode(self, z: Tensor) -> Tensor:
        """Features of the pixels, (rows, pixels, features), from bits or what is between them."""
        return self.decoder(z).unflatten(-1, (-1, self.features))

    def losses(self, x: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss of (index, z), rows of images and bits: -log p(x|z) (rows,), in nats."""

        def loss(index: Tensor, z: Tensor) -> Tensor:
            return pixel_loss(self.decode(z), self.pixel.weight, self.pixel.bias, x[index].long())

        return loss

    def mean(self, z: Tensor) -> Tensor:
        """Expected intensities of the pixels, (rows, pixels)."""
        levels = self.intensities(torch.arange(self.levels, device=z.device))
        return self.pixel(self.decode(z)).softmax(-1) @ levels


class Training(LightningModule):
    """The model with its estimator: both are trained and saved together."""

    def __init__(self, model: BitVectorVAE, config: Config, pixels: int) -> None:
        super().__init__()
        self.model, self.config = model, config
        choice = Choice("bits", inputs=pixels, rate=config.gumbel_rate, k=config.k, bits=config.bits, init=config.init)
        self.estimator = Named(config.estimator, choice)
        self.sampling = Sampling(config.samples, config.sparse_share, config.clip, config.eval_rows)
        # How many test images have a support of this size.
        self.supports = torch.zeros(MOST + 1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.config.lr, fused=True)

    def expected(self, x: Tensor, *, diagnostics: int = 0) -> ts.latent.Expectation:
        """The expected loss of images; E[-log p(x|z)] - H is the objective, the prior's D log 2 is left out."""
        inputs = self.model.intensities(x)
        return self.estimator(
            self.model.encoder(inputs), self.model.losses(x), x=inputs,
            entropy_weight=1.0, max_rows=self.config.max_rows, diagnostics=diagnostics,
        )  # fmt: skip

    def training_step(self, x: Tensor, batch_idx: int) -> dict[str, Any]:
        e = self.expected(x)
        metrics = {"loss": e.objective, "rows": e.rows / len(x), "calls": e.calls}
        return {"loss": e.objective, "metrics": metrics, "examples": len(x)}

    @property
    def prior(self) -> float:
        """-log of the prior's probability of each bit vector."""
        return self.config.bits * math.log(2)

    def validation_step(self, x: Tensor, batch_idx: int) -> None:
        e = self.expected(x)
        values = {"loss": e.loss - e.entropy + self.prior, "distortion": e.loss, "rate": self.prior - e.entropy}
        if e.vertices is not None:
            values["support"] = e.support_size
        log_means(self, "val", **values)

    def test_step(self, x: Tensor, batch_idx: int) -> None:
        e = self.expected(x)
        found = examine(self.model, x, Posterior.of(e), self.sampling, generator("evaluation", batch_idx))
        # Of a sum over the support the expectation knows all, of samples only a few.
        distortion = e.loss if found.sampled_distortion is None else found.sampled_distortion
        marginal = e.marginal_entropy
        assert marginal is not None
        dimensions = x.shape[1] * math.log(2)
        log_means(
            self,
            "test",
            bits=-found.log_evidence / dimensions,
            released=-found.released / dimensions,
            elbo=e.entropy - distortion - self.prior,
            rate=self.prior - e.entropy,
            distortion=distortion,
            map_distortion=found.map_distortion,
            marginal_entropy=marginal,
        )
        if e.vertices is not None:
            log_means(self, "test", support=e.support_size)
            counts = torch.bincount(e.support_size.clamp_max(MOST).cpu(), minlength=MOST + 1)
            self.supports += counts

    def on_test_start(self) -> None:
        self.supports = torch.zeros(MOST + 1)

    def on_test_epoch_end(self) -> None:
        shared = self.trainer.strategy.reduce(self.supports.to(self.device), reduce_op="sum")
        self.supports = torch.as_tensor(shared).cpu()

    def median_support(self) -> float:
        """Of the images that were tested; nan if they have none."""
        total = self.supports.cumsum(0)
        return float((total < total[-1] / 2).sum()) if total[-1] else math.nan
