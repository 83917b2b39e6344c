"""Estimators that pass relaxed values: Gumbel-softmax, straight-through, and the mid-point rule for routed experts."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..core.errors import ParameterError
from ..core.inputs import is_integer, is_number
from ..core.numerics import compute_dtype
from .estimators import Estimate, Problem, Sampling
from .latents import Bits, Categories, Kind
from .steps import sees


class GumbelSoftmax(Sampling):
    r"""Gumbel-softmax, or binary concrete for bits: the loss is taken and differentiated between the values, at

    $$\tilde z = \operatorname{softmax}((\log p + g) / \tau), \quad g_i \text{ Gumbel noise}.$$

    Biased. The loss gets floating values: (R, K) on the simplex, (R, D) in [0, 1] for bits. In evaluation mode they are
    samples of p, still floating.

    Args:
        straight_through: True passes the nearest value of each sample and differentiates as if it were the relaxed one;
            ``"map"`` does so with the most probable value, whatever the sample.
        temperature: tau at the first step.
        rate: after t steps of training tau is temperature times exp(-rate t), changed every `every` steps.
        floor: below which tau does not fall.
        every: how many steps tau stays.
        latent: as in `ScoreFunction`.

    References:
        jang2017categorical, maddison2017concrete
    """

    def __init__(
        self,
        straight_through: Literal[False, True, "map"] = False,
        temperature: float = 1.0,
        rate: float = 0.0,
        floor: float = 0.5,
        every: int = 1000,
        latent: Kind = "categories",
    ) -> None:
        super().__init__(latent)
        if straight_through not in (False, True, "map"):
            raise ParameterError(f"straight_through={straight_through!r}", 'False, True or "map"', "Choose one")
        for name, value in {"temperature": temperature, "floor": floor}.items():
            if not is_number(value) or not 0 < value < float("inf"):
                raise ParameterError(f"{name}={value!r}", "a number above 0", "Choose one")
        if not is_number(rate) or not 0 <= rate < float("inf"):
            raise ParameterError(f"rate={rate!r}", "a number, 0 or more", "Choose one")
        if not is_integer(every) or every < 1:
            raise ParameterError(f"every={every!r}", "a whole number, 1 at least", "Choose one")
        self.straight_through = straight_through
        self.initial, self.rate, self.floor, self.every = float(temperature), float(rate), float(floor), int(every)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.steps: Tensor

    @property
    def temperature(self) -> Tensor:
        """tau of the next step, a scalar."""
        seen = (self.steps // self.every * self.every).to(compute_dtype(self.steps))
        return (self.initial * (-self.rate * seen).exp()).clamp_min(min(self.floor, self.initial))

    def estimate(self, scores: Tensor, problem: Problem) -> Estimate:
        latent, index, rows = self.begin(scores, problem)
        z = self._values(rows, problem.generator)
        loss = problem.expected(index, z, z.new_ones(len(index)), len(scores))
        self.learn(self._count, loss)
        return Estimate(loss, loss, latent)

    def _count(self, losses: Tensor) -> None:
        self.steps += 1

    def _values(self, rows: Categories | Bits, generator: torch.Generator | None) -> Tensor:
        if not self.training:
            mode = self.straight_through == "map"
            return rows.hard(rows.most_probable() if mode else rows.sample(generator))
        relaxed = rows.relaxed(sees(self, self.temperature).to(rows.probs.dtype), generator)
        if not self.straight_through:
            return relaxed
        nearest = rows.most_probable() if self.straight_through == "map" else rows.nearest(relaxed.detach())
        # The difference is exactly zero: the value stays 0 or 1.
        return rows.hard(nearest) + (relaxed - relaxed.detach())

    def extra_repr(self) -> str:
        own = f"straight_through={self.straight_through}, temperature={self.initial}, rate={self.rate}"
        return f"{own}, {super().extra_repr()}"


def sparsemixer(
    scores: Tensor, *, exempt_argmax: bool = False, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    r"""One expert of each row, and the multiplier of its output, whose gradient also says which expert to take.

    With index i drawn from p = softmax(scores) and y = m f_i, the gradient of L(y) through m is on average that of
    $\mathbb{E}_{i \sim p}[L(p_i f_i)]$ with the change of p in it, exactly so where L is quadratic in y:
    $L(p_i f_i) - L(0) \approx p_i f_i L'(\tfrac12 p_i f_i)$. To see the slope at both places, m is p_i or half of it,
    each with probability one half, and has twice the derivative of p_i.

    Args:
        scores: (B, K).
        exempt_argmax: whether the most probable expert is never seen at half weight, as published first; biased.
        generator: of the samples.

    Returns:
        index (B,) long and m (B,). Rows that nothing can be drawn from have m = 0, or NaN if scores are.

    Differentiability:
        once in scores.

    Example:
        >>> import torch, tsallis as ts
        >>> index, m = ts.latent.sparsemixer(torch.tensor([[0.0, 50.0]]), exempt_argmax=True)
        >>> index, m
        (tensor([1]), tensor([1.]))

    References:
        liu2023sparse
    """
    latent = Categories(scores)
    index = latent.sample(generator)
    p = latent.probs.gather(-1, index[:, None])[:, 0]
    whole = torch.rand(p.shape, dtype=p.dtype, device=p.device, generator=generator) < 0.5
    if exempt_argmax:
        whole |= index == latent.most_probable()
    return index, torch.where(whole, 1.0, 0.5) * p.detach() + 2 * (p - p.detach())


class SparseMixer(Sampling):
    r"""SparseMixer: the loss sees one expert of each example, with a multiplier; see `sparsemixer`.

    The expectation is $\mathbb{E}_{i \sim p}[L(p_i f_i)]$, not that of the other estimators: loss_fn gets floating
    values (R, K), the multiplier times a unit vector. Its parameters get the gradient of what was seen, at half weight
    half of the time. In evaluation mode the multiplier is p_i.

    Args:
        exempt_argmax: as in `sparsemixer`.

    References:
        liu2023sparse
    """

    def __init__(self, exempt_argmax: bool = False) -> None:
        super().__init__("categories")
        self.exempt_argmax = exempt_argmax

    def estimate(self, scores: Tensor, problem: Problem) -> Estimate:
        latent, index, rows = self.begin(scores, problem)
        if self.training:
            z, m = sparsemixer(rows.scores, exempt_argmax=self.exempt_argmax, generator=problem.generator)
        else:
            z = rows.sample(problem.generator)
            m = rows.probs.gather(-1, z[:, None])[:, 0]
        values = rows.hard(z) * m[:, None]
        loss = problem.expected(index, values, values.new_ones(len(index)), len(scores))
        return Estimate(loss, loss, latent)
