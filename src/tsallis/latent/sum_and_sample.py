"""Sum and sample: the most probable values exactly, one sample of the rest."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..core.errors import ParameterError
from ..core.inputs import is_integer
from .estimators import Estimate, Problem, Sampling, carried
from .latents import race
from .packing import scatter
from .score_function import RunningMean


class SumAndSample(Sampling):
    r"""The k most probable values exactly, and one sample z' of the rest with its probability $1 - P_C$:

    $$\sum_{z \in C} p_z\, \ell(z) + (1 - P_C)\, \ell(z'), \quad z' \sim p / (1 - P_C) \text{ off } C$$

    The gradient is unbiased: the sample's goes by the score function, and the baseline is subtracted in both terms.
    Costs k + 1 rows an example.

    Args:
        k: how many are summed.
        baseline: ``"none"``, or ``"running"``, the mean of the estimates of earlier batches.

    References:
        liu2019rao, correia2020efficient
    """

    def __init__(self, k: int = 1, baseline: Literal["none", "running"] = "none") -> None:
        super().__init__("categories")
        if not is_integer(k) or k < 1:
            raise ParameterError(f"k={k!r}", "a whole number, 1 at least", "Choose one")
        if baseline not in ("none", "running"):
            raise ParameterError(f"baseline={baseline!r}", '"none" or "running"', "Choose one")
        self.k = int(k)
        self.running = RunningMean() if baseline == "running" else None

    def estimate(self, scores: Tensor, problem: Problem) -> Estimate:
        latent, index, rows = self.begin(scores, problem)
        p = rows.probs
        top = p.detach().topk(min(self.k, p.shape[1]), -1).indices
        rest = p.detach().scatter(-1, top, 0.0)
        left = rest.sum(-1, keepdim=True)
        z = torch.cat([top, race(rest, problem.generator)[:, None]], 1)
        weights = torch.cat([p.gather(-1, top), left], 1)
        seen = weights.detach() > 0
        if not len(index):
            surrogate = loss = problem.idle(z.flatten(), p, len(scores))
        else:
            row, column = seen.nonzero(as_tuple=True)
            values = problem.losses(index[row], z[row, column])
            losses = values.new_zeros(seen.shape).index_put((row, column), values)
            loss = scatter((weights.detach() * losses).sum(1), index, len(scores))
            b = self.running.value(losses) if self.running is not None else 0.0
            log_prob = rows.log_prob(z[:, -1])
            # Where nothing is left there is no sample; its log-probability is not looked at.
            log_prob = torch.where(seen[:, -1], log_prob, 0.0)
            of_scores = (weights[:, :-1] * (losses[:, :-1].detach() - b)).sum(1)
            of_scores = of_scores + left[:, 0] * (losses[:, -1].detach() - b) * log_prob
            surrogate = carried(loss, scatter(of_scores, index, len(scores)))
        if self.running is not None:
            self.learn(self.running.observe, loss[index])
        return Estimate(surrogate, loss, latent)

    def extra_repr(self) -> str:
        return f"k={self.k}, baseline={'none' if self.running is None else 'running'!r}"
