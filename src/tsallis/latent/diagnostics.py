"""How much an estimator's gradient varies."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..core.errors import ParameterError
from .estimators import Estimator, Problem
from .steps import Part, Step, uses


def gradient_variance(method: Estimator, scores: Tensor, problem: Problem, repetitions: int) -> Tensor:
    """(B,) the variance of one draw of the gradient of each example's loss in its scores, summed over the scores; from
    so many repetitions. Nothing learns from them, estimators in the loss included, and random states are as before.
    In inference mode too, where the loss keeps no tensor made in it for its gradient.
    """
    devices = [scores.device] if scores.device.type == "cuda" else []
    unseen = Part(Step(learning=False), repeats=False)
    # Inference mode records nothing, whatever is enabled inside.
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=devices), unseen.run():
        uses(problem.generator)
        try:
            draws = torch.stack([_gradient(method, scores, replace(problem)) for _ in range(repetitions)])
        except RuntimeError as error:
            if "Inference tensors" not in str(error):
                raise
            raise ParameterError(
                "diagnostics with a loss_fn or an estimator that uses tensors made in inference mode",
                "tensors that gradients can be taken through",
                "Call it under torch.no_grad(), in Lightning with Trainer(inference_mode=False)",
            ) from error
    return draws.var(0).flatten(1).sum(-1)


def _gradient(method: Estimator, scores: Tensor, problem: Problem) -> Tensor:
    leaf = scores.detach().clone().requires_grad_()
    surrogate = method.estimate(leaf, problem).surrogate
    if not surrogate.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(surrogate.sum(), leaf, allow_unused=True, materialize_grads=True)
    return gradient
