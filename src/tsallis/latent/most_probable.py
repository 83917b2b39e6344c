"""The most probable value alone: how a trained model is used."""

from __future__ import annotations

from torch import Tensor

from .estimators import Estimate, Problem, Sampling
from .latents import Kind


class MostProbable(Sampling):
    """The loss at the most probable value of each example: one decision. So models are evaluated in the same way,
    whatever they were trained by. Gives no gradient to scores.

    Args:
        latent: ``"categories"``: the largest score; ``"bits"``: those with a positive score are on.
        relaxed: whether loss_fn gets unit vectors (R, K) in the place of numbers, for decoders trained by relaxation.
    """

    def __init__(self, latent: Kind = "categories", *, relaxed: bool = False) -> None:
        super().__init__(latent)
        self.relaxed = relaxed

    def estimate(self, scores: Tensor, problem: Problem) -> Estimate:
        latent, index, rows = self.begin(scores, problem)
        z = rows.most_probable()
        z = rows.hard(z) if self.relaxed else z
        loss = problem.expected(index, z, rows.probs.new_ones(len(index)), len(scores))
        return Estimate(loss, loss, latent)
