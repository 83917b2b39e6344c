"""Estimators by the score function: the loss of samples times the gradient of their log-probability."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn

from ..core.errors import ParameterError, ShapeError
from ..core.inputs import is_integer
from .estimators import Estimate, Estimator, Problem, Sampling, carried
from .latents import Kind, wide
from .packing import across_processes, scatter
from .steps import sees

Baseline = Literal["none", "running", "sample", "leave-one-out"]


class RunningMean(nn.Module):
    """The mean of the batch means seen so far, the same in all processes that train together; losses that are not
    finite do not count. In float32 at least, whatever dtype the model is cast to or restored in.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", wide(torch.zeros(())))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))
        self.mean: Tensor
        self.batches: Tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RunningMean:
        before = self.mean
        super()._apply(fn, recurse)
        if self.mean.dtype != (dtype := wide(self.mean).dtype):
            # Half precision rounds the change that one batch among hundreds makes to nothing.
            self.mean = before.to(self.mean.device, dtype)
        return self

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        # A checkpoint's own tensor may have taken its place.
        self.mean = wide(self.mean)

    def value(self, like: Tensor) -> Tensor:
        """The mean of earlier batches, of the dtype of losses."""
        return sees(self, self.mean).to(like.dtype)

    @torch.no_grad()
    def observe(self, losses: Tensor) -> None:
        """Take in the losses of one more batch."""
        finite = losses.isfinite()
        total = torch.stack([torch.where(finite, losses, 0.0).sum(), finite.sum().to(losses)])
        if across_processes():
            distributed.all_reduce(total)
        some = (total[1] > 0) & total[0].isfinite()
        total = total.to(self.mean)
        self.batches += some
        self.mean += torch.where(some, total[0] / total[1].clamp_min(1) - self.mean, 0.0) / self.batches.clamp_min(1)


class _ByScore(Sampling):
    """What estimators by the score function have in common."""

    samples: int
    detach_baseline = True

    def estimate(self, scores: Tensor, problem: Problem) -> Estimate:
        return self._estimate(scores, problem, None)

    def _estimate(self, scores: Tensor, problem: Problem, x: Tensor | None) -> Estimate:
        latent, index, rows = self.begin(scores, problem)
        draws = self.draws()
        z = torch.stack([rows.sample(problem.generator) for _ in range(draws)], 1)
        batch, flat = len(scores), z.flatten(0, 1)
        if not len(index):
            # Every parameter has a gradient in every process: others may wait for it.
            idle = problem.idle(flat, rows.probs, batch) + 0 * sum(p.sum() for p in self.parameters())
            self.observe(idle[:0])
            return Estimate(idle, idle, latent)
        losses = problem.losses(index.repeat_interleave(draws), flat).reshape(len(index), draws)
        used = losses[:, : self.samples]
        baseline, learned = self.baseline(losses, None if x is None else x[index])
        if self.detach_baseline:
            baseline = baseline.detach()
        log_prob = torch.stack([rows.log_prob(z[:, i]) for i in range(self.samples)], 1)
        by_score = (used.detach() - baseline) * log_prob
        surrogate = carried(carried(used, by_score), learned.expand_as(used))
        self.observe(used.flatten())
        return Estimate(scatter(surrogate.mean(1), index, batch), scatter(used.mean(1), index, batch), latent)

    def draws(self) -> int:
        """How many values are drawn for each example."""
        return self.samples

    def baseline(self, losses: Tensor, x: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is subtracted from losses (R, draws) before they meet the score, to broadcast to (R, samples); and the
        loss from which the baseline itself learns.
        """
        raise NotImplementedError

    def observe(self, losses: Tensor) -> None:
        """Learn from the losses of a call, (rows,)."""


class ScoreFunction(_ByScore):
    r"""The score function estimator, also called REINFORCE: for samples z of p

    $$\nabla \approx (\ell(z) - b)\, \nabla \log p(z) + \nabla \ell(z),$$

    unbiased for scores and for the parameters of the loss with every baseline b here.

    Args:
        baseline: ``"none"``; ``"running"``, the mean of the losses of earlier batches; ``"sample"``, the loss of
            another sample, which costs a row more for each (SFE+); ``"leave-one-out"``, the mean loss of the other
            samples.
        samples: how many of each example; None is 2 for leave-one-out and 1 else.
        latent: ``"categories"``, or independent ``"bits"`` with probabilities sigmoid(scores).
        detach_baseline: False lets the gradient of the loss pass through the baseline "sample", as code that was
            published with results does: the gradient of the loss's parameters is then too large by the factor
            1 + H(p), on average. For comparisons only.

    Raises:
        ParameterError: a baseline that is not one of these, fewer than two samples to leave one out of, or
            detach_baseline=False with another baseline.

    References:
        correia2020efficient
    """

    def __init__(
        self,
        baseline: Baseline = "none",
        samples: int | None = None,
        latent: Kind = "categories",
        *,
        detach_baseline: bool = True,
    ) -> None:
        super().__init__(latent)
        if baseline not in ("none", "running", "sample", "leave-one-out"):
            raise ParameterError(
                f"baseline={baseline!r}", '"none", "running", "sample" or "leave-one-out"', "Choose one"
            )
        if not detach_baseline and baseline != "sample":
            raise ParameterError(
                f"detach_baseline=False with baseline={baseline!r}", 'the baseline "sample"', "Leave it out"
            )
        least = 2 if baseline == "leave-one-out" else 1
        samples = least if samples is None else samples
        if not is_integer(samples) or samples < least:
            raise ParameterError(f"samples={samples!r}", f"a whole number, {least} at least", "Draw more")
        self.kind, self.samples, self.detach_baseline = baseline, int(samples), detach_baseline
        self.running = RunningMean() if baseline == "running" else None

    def draws(self) -> int:
        return 2 * self.samples if self.kind == "sample" else self.samples

    def baseline(self, losses: Tensor, x: Tensor | None) -> tuple[Tensor, Tensor]:
        nothing = losses.new_zeros(())
        if self.running is not None:
            return self.running.value(losses), nothing
        if self.kind == "sample":
            return losses[:, self.samples :], nothing
        if self.kind == "leave-one-out":
            return (losses.sum(1, keepdim=True) - losses) / (self.samples - 1), nothing
        return nothing, nothing

    def observe(self, losses: Tensor) -> None:
        if self.running is not None:
            self.learn(self.running.observe, losses)

    def extra_repr(self) -> str:
        return f"baseline={self.kind!r}, samples={self.samples}, {super().extra_repr()}"


class NVIL(_ByScore):
    r"""The score function estimator with a learned baseline b(x), a network that learns to predict the loss:

    $$\nabla \approx (\ell(z) - b(x))\, \nabla \log p(z) + \nabla \ell(z) + \nabla (\ell(z) - b(x))^2$$

    The network's parameters are learned by the optimiser of all others; x gets no gradient from it. Call `given`
    with x.

    Args:
        network: from examples (B, ...) to (B,) or (B, 1).
        latent: as in `ScoreFunction`.

    References:
        mnih2014neural
    """

    samples = 1

    def __init__(self, network: nn.Module, latent: Kind = "categories") -> None:
        super().__init__(latent)
        self.network = network

    def given(self, x: Tensor) -> Estimator:
        return _Given(self, x)

    def baseline(self, losses: Tensor, x: Tensor | None) -> tuple[Tensor, Tensor]:
        if x is None:
            raise ParameterError("NVIL without examples", "what its network looks at", "Pass estimator.given(x)")
        # The baseline learns; what made x does not learn to be easy to predict from.
        predicted = self.network(x.detach())
        if predicted.numel() != len(losses):
            raise ShapeError(
                f"The baseline's network returned shape {tuple(predicted.shape)}",
                f"({len(losses)},) or ({len(losses)}, 1)",
                "Correct it",
            )
        predicted = predicted.reshape(-1, 1).to(losses.dtype)
        return predicted, (losses.detach() - predicted).square()


@dataclass(frozen=True, eq=False)
class _Given(Estimator):
    """An NVIL estimator with its examples."""

    method: NVIL
    x: Tensor

    def estimate(self, scores: Tensor, problem: Problem) -> Estimate:
        if len(self.x) != len(scores):
            raise ShapeError(f"{len(self.x)} examples for {len(scores)} rows of scores", "one each", "Pass both whole")
        return self.method._estimate(scores, problem, self.x)
