"""Output layers: a loss for the training, and a distribution."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tsallis as ts

from .config import Config

# Tokens whose support, and in training whose score, stands for that of a step.
SAMPLE = 64


def scores_of(p: Tensor, alpha: float | Tensor) -> Tensor:
    """Scores (V,) whose entmax is the distribution p, which has no zeros: the gradient of its negative entropy, but for
    a constant.
    """
    return p.log() if alpha == 1 else p ** (alpha - 1) / (alpha - 1)


class Head(nn.Module, ABC):
    """An output layer that uses the embedding's weights."""

    @abstractmethod
    def loss(self, hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
        """Mean over targets (N)."""

    @abstractmethod
    def probabilities(self, scores: Tensor) -> Tensor:
        """Of all words."""

    @abstractmethod
    def order(self) -> Tensor:
        """Alpha as it is now."""


class Softmax(Head):
    """Cross-entropy of a linear layer."""

    def loss(self, hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(hidden, weight, bias), target)

    def probabilities(self, scores: Tensor) -> Tensor:
        return ts.softmax(scores)

    def order(self) -> Tensor:
        return torch.tensor(1.0)


class Entmax(Head):
    """The sparse output layer with its loss."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def loss(self, hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
        return ts.linear_entmax_loss(hidden, weight, target, bias, alpha=self.alpha)

    def probabilities(self, scores: Tensor) -> Tensor:
        return ts.entmax(scores, self.alpha)

    def order(self) -> Tensor:
        return torch.tensor(self.alpha)


class LearnedByLoss(Head):
    """The sparse output layer; alpha is a parameter like others.

    The loss compares no alphas: its entropy falls with alpha, so for any scores and target it is smallest at the
    largest alpha allowed.
    """

    def __init__(self, start: float) -> None:
        super().__init__()
        self.alpha = ts.nn.Alpha(start)

    def loss(self, hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
        return ts.linear_entmax_loss(hidden, weight, target, bias, alpha=self.alpha())

    def probabilities(self, scores: Tensor) -> Tensor:
        return ts.entmax(scores, self.alpha())

    def order(self) -> Tensor:
        return self.alpha().detach()


class Learned(LearnedByLoss):
    """The sparse output layer; weights descend its loss, alpha climbs the sparsemax score of a few of the tokens.

    That is a proper score, finite where a word is ruled out, and has one scale for all alphas.
    """

    def loss(self, hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
        alpha = self.alpha()
        loss = ts.linear_entmax_loss(hidden, weight, target, bias, alpha=alpha.detach())
        every = max(1, len(hidden) // SAMPLE)
        scores = F.linear(hidden[::every].detach(), weight.detach(), bias.detach())
        score = ts.decoding.metrics.sparsemax_score(ts.entmax(scores, alpha), target[::every]).mean()
        # The gradient of the score, the value of the loss.
        return loss - (score - score.detach())


LEARNED = {"learned": Learned, "learned-by-loss": LearnedByLoss}


def head_of(config: Config) -> Head:
    """The output layer of a configuration."""
    if isinstance(config.alpha, str):
        return LEARNED[config.alpha](config.alpha_start)
    return Softmax() if config.alpha == 1 else Entmax(config.alpha)
