"""How much an estimator's gradient varies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from .estimators import Estimator, Problem


def gradient_variance(method: Estimator, scores: Tensor, problem: Problem, repetitions: int) -> Tensor:
    """(B,) the variance of one draw of the gradient of each example's loss in its scores, summed over the scores; from
    so many repetitions. Nothing learns from them, and random states are as before.
    """
    with torch.enable_grad(), _unchanged(scores, problem.generator):
        draws = torch.stack([_gradient(method, scores, replace(problem, observed=False)) for _ in range(repetitions)])
    return draws.var(0).flatten(1).sum(-1)


def _gradient(method: Estimator, scores: Tensor, problem: Problem) -> Tensor:
    leaf = scores.detach().clone().requires_grad_()
    surrogate = method.estimate(leaf, problem).surrogate
    if not surrogate.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(surrogate.sum(), leaf, allow_unused=True, materialize_grads=True)
    return gradient


@contextmanager
def _unchanged(scores: Tensor, generator: torch.Generator | None) -> Iterator[None]:
    devices = [scores.device] if scores.device.type == "cuda" else []
    state = None if generator is None else generator.get_state()
    with torch.random.fork_rng(devices=devices):
        yield
    if generator is not None and state is not None:
        generator.set_state(state)
