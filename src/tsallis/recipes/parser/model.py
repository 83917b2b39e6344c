"""The parser: a BiLSTM with biaffine scores of arcs, its two losses and its training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import tsallis as ts

from .._shared.training import log_means
from .config import Config
from .data import NO_LETTER, UNKNOWN, Batch, Vocabulary

# Norm at which gradients are cut; decay rates of Adam (Dozat and Manning, 2017).
CLIP, BETAS = 5.0, (0.9, 0.9)


class Parser(nn.Module):
    """Scores (B, n + 1, n) of arcs, [head, modifier], head 0 is the root."""

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.word_dropout = config.word_dropout
        self.words = nn.Embedding(len(vocabulary.words) + UNKNOWN + 1, config.word_width)
        self.letters = nn.Embedding(max(vocabulary.letters.values()) + 1, config.letter_width, NO_LETTER)
        self.spelling = nn.Conv1d(config.letter_width, config.letter_filters, 3, padding=1)
        self.dropout = nn.Dropout(config.dropout)
        between = config.dropout if config.layers > 1 else 0.0
        self.lstm = nn.LSTM(
            config.word_width + config.letter_filters, config.hidden, config.layers,
            batch_first=True, bidirectional=True, dropout=between,
        )  # fmt: skip
        states = 2 * config.hidden
        self.root = nn.Parameter(0.1 * torch.randn(states))
        self.head, self.modifier = nn.Linear(states, config.arc_width), nn.Linear(states, config.arc_width)
        self.bilinear = nn.Parameter(torch.empty(config.arc_width, config.arc_width))
        self.liked = nn.Linear(config.arc_width, 1, bias=False)
        nn.init.normal_(self.words.weight, std=0.1)
        nn.init.xavier_uniform_(self.bilinear)

    def forward(self, batch: Batch) -> Tensor:
        packed = pack_padded_sequence(self._inputs(batch), batch.lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=batch.words.shape[1])
        with_root = torch.cat([self.root.expand(len(states), 1, -1), states], 1)
        heads, modifiers = (
            self.dropout(F.leaky_relu(layer(self.dropout(x)), 0.1))
            for layer, x in ((self.head, with_root), (self.modifier, states))
        )
        return heads @ self.bilinear @ modifiers.mT + self.liked(heads)

    def _inputs(self, batch: Batch) -> Tensor:
        words = batch.words
        if self.training:
            lost = self.word_dropout / (self.word_dropout + batch.counts).clamp_min(1e-9)
            words = words.masked_fill(torch.rand(words.shape, device=words.device) < lost, UNKNOWN)
        found = self.spelling(self.letters(batch.letters).mT)
        found = found.masked_fill((batch.letters == NO_LETTER)[:, None], -torch.inf).amax(-1).relu()
        return self.dropout(torch.cat([self.words(words), found[batch.spellings]], -1))


class Loss(Protocol):
    """What a parser is trained with."""

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """Sum over all words, or over all trees."""
        ...

    def marginals(self, scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Probabilities (B, n + 1, n) of arcs, and how many trees (B) have probability."""
        ...


@dataclass(frozen=True)
class Softmax:
    """Cross-entropy of each word's head, whatever the heads of the others."""

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        heads = batch.heads.masked_fill(~batch.inside, -1)
        # Flat: on GPUs the loss of images, which more dimensions are taken for, is not deterministic.
        flat = self._possible(scores, batch).mT.flatten(0, 1)
        return F.cross_entropy(flat, heads.flatten(), ignore_index=-1, reduction="sum")

    def marginals(self, scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        return ts.softmax(self._possible(scores, batch), 1) * batch.inside[:, None], None

    def _possible(self, scores: Tensor, batch: Batch) -> Tensor:
        """-inf for heads behind the end, and for words as their own heads."""
        n = scores.shape[2]
        own = F.pad(torch.eye(n, dtype=torch.bool, device=scores.device), (0, 0, 1, 0))
        behind = F.pad(~batch.inside, (1, 0))
        return scores.masked_fill(own, -torch.inf).masked_fill(behind[..., None], -torch.inf)


@dataclass(frozen=True)
class SparseMAP:
    """The loss of whole trees, of scores times ``scale``; tol and max_iter are of its solver."""

    tol: float
    max_iter: int
    scale: float

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        target = F.one_hot(batch.heads, scores.shape[1]).mT
        return ts.structured.sparsemap_loss(
            tree_of(scores), self.scale * scores, target,
            lengths=batch.lengths, reduction="sum", tol=self.tol, max_iter=self.max_iter,
        )  # fmt: skip

    def marginals(self, scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        found = ts.structured.sparsemap(tree_of(scores), self.scale * scores, lengths=batch.lengths)
        return found.marginals, found.mask.sum(-1)


LOSSES: dict[str, Callable[[Config], Loss]] = {
    "softmax": lambda config: Softmax(),
    "sparsemap": lambda config: SparseMAP(config.tol, config.max_iter, config.scale),
}


def tree_of(scores: Tensor) -> ts.structured.DependencyTree:
    """Trees of as many words as a batch has at most; one word hangs on the root, arcs may cross."""
    return ts.structured.DependencyTree(scores.shape[2])


def parse(scores: Tensor, batch: Batch) -> Tensor:
    """(B, n) heads of the best trees; 0 behind the end."""
    tree = tree_of(scores)
    return tree.best(tree.flat(scores, None, batch.lengths)).unflatten(1, tree.natural).argmax(1)


class Training(LightningModule):
    """The parser in training; total is the number of steps."""

    def __init__(self, config: Config, vocabulary: Vocabulary, total: int) -> None:
        super().__init__()
        self.config, self.total = config, total
        self.model = Parser(config, vocabulary)
        self.kind = LOSSES[config.loss](config)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.config.lr, betas=BETAS)
        fall = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / self.total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": fall, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=CLIP, gradient_clip_algorithm="norm")

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        words = int(batch.lengths.sum())
        loss = self.kind.loss(self.model(batch), batch) / words
        return {"loss": loss, "metrics": {"loss": loss}, "examples": words}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        wrong = ((parse(self.model(batch), batch) != batch.heads) & batch.inside).sum(1)
        log_means(self, "val", wrong=wrong)
