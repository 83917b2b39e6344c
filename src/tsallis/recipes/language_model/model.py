"""A causal Transformer, whole windows at once or token by token, and its training."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

import tsallis as ts

from .._shared.training import fusible, log_means, scheduled
from .config import Config
from .heads import SAMPLE, head_of, scores_of

# Added to every probability before its logarithm is taken (Martins, Marinho and Martins, 2020).
EPSILON = 1e-6
# Largest norm of the gradient.
CLIP = 1.0

# Keys and values (B, heads, tokens so far, width of a head) of one layer.
Seen = tuple[Tensor, Tensor]


class Layer(nn.Module):
    """Attention to what was before, and two linear layers, each after a normalisation and added to its input."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(2))
        self.attend = nn.Linear(config.width, 3 * config.width)
        self.attended = nn.Linear(config.width, config.width)
        self.widen = nn.Linear(config.width, config.feedforward)
        self.narrow = nn.Linear(config.feedforward, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, seen: Seen | None) -> tuple[Tensor, Seen]:
        """New tokens (B, T, width) after those seen."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.attend(self.norm[0](x)).chunk(3, -1)
        )
        mask = None
        if seen is not None:
            key, value = torch.cat([seen[0], key], 2), torch.cat([seen[1], value], 2)
            mask = torch.ones(x.shape[1], key.shape[2], dtype=torch.bool, device=x.device).tril(seen[0].shape[2])
        y = F.scaled_dot_product_attention(query, key, value, mask, is_causal=seen is None)
        x = x + self.dropout(self.attended(y.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.narrow(F.gelu(self.widen(self.norm[1](x))))), (key, value)


class Transformer(nn.Module):
    """Hidden states of words; the embedding is the output layer's weight too."""

    def __init__(self, config: Config, words: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, config.width)
        self.places = nn.Embedding(config.context, config.width)
        layers = [Layer(config) for _ in range(config.layers)]
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for layer in layers:
            # So many terms are added to the embedding, which should not drown in them.
            for last in (layer.attended, layer.narrow):
                nn.init.normal_(last.weight, std=0.02 / math.sqrt(2 * config.layers))

    def forward(self, windows: Tensor) -> Tensor:
        """(B, T) to (B, T, width), T at most the context."""
        return self.extend(windows, None)[0]

    def extend(self, tokens: Tensor, seen: list[Seen] | None) -> tuple[Tensor, list[Seen]]:
        """Hidden states of tokens (B, T) after those seen, and the latter with the former."""
        begin = 0 if seen is None else seen[0][0].shape[2]
        # Weights that scores are made of are small; what enters the layers is not.
        words = self.words(tokens) * math.sqrt(self.words.embedding_dim)
        x = self.dropout(words + self.places.weight[begin : begin + tokens.shape[1]])
        kept: list[Seen] = []
        for number, layer in enumerate(self.layers):
            x, now = layer(x, None if seen is None else seen[number])
            kept.append(now)
        return self.norm(x), kept


class Training(LightningModule):
    """The Transformer with an output layer, which begins with the distribution of words that it is given (V,)."""

    def __init__(self, config: Config, frequencies: Tensor) -> None:
        super().__init__()
        self.config = config
        self.model = Transformer(config, len(frequencies))
        self.head = head_of(config)
        self.bias = nn.Parameter(scores_of(frequencies, self.head.order()))

    def scores(self, hidden: Tensor) -> Tensor:
        """Of all words."""
        return F.linear(hidden, self.model.words.weight, self.bias)

    def configure_optimizers(self) -> Any:
        config, weights = self.config, [*self.model.parameters(), self.bias]
        groups = [
            {"params": [w for w in weights if w.dim() > 1], "weight_decay": config.weight_decay},
            {"params": [w for w in weights if w.dim() < 2]},
        ]
        if alphas := list(self.head.parameters()):
            groups.append({"params": alphas, "lr": config.alpha_lr})
        optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=0.0, fused=fusible(config))
        return scheduled(optimizer, config.warmup, config.steps * config.epochs)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Any]:
        windows, target = batch
        hidden = self.model(windows).flatten(0, 1)
        loss = self.head.loss(hidden, self.model.words.weight, self.bias, target.flatten())
        with torch.no_grad():
            few = hidden[:: max(1, len(hidden) // SAMPLE)]
            support = (self.head.probabilities(self.scores(few)) > 0).sum(1).double().mean()
            alpha = self.head.order()
        return {
            "loss": loss,
            "metrics": {"loss": loss, "support": support, "alpha": alpha},
            "examples": len(windows),
        }

    def _evaluate(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        windows, target = batch
        p = self.head.probabilities(self.scores(self.model(windows)))
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
